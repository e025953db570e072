"""Files that a run, a task or a suite names: relative to the project, the folder that holds `runs/`, and inside it."""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import UsageError, nearest_file


def project_file(root: Path, value: str, place: str) -> Path:
    """An existing file of the project. `place` says where it is named, and as what.

    Whoever wrote a run file may be a stranger, and what it names is shown to models: so no path leads out of the
    project, neither written nor through a link. `runs/` itself may be a link, to another disk. Raises UsageError.
    """
    path = root / value
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(os.path.realpath(home)) for home in (root, root / "runs")):
        raise UsageError(
            f"{place}: {value} leads out of the project, to {real}; files named there must lie inside"
            f" {root.resolve()}: copy it into the project"
        )
    if not path.is_file():
        raise UsageError(f"{place}: there is no file {value}{nearest_file(path, value.removesuffix(path.name))}")
    return path
