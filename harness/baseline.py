"""The blessed scores of one student: a small file for git, sealed by a digest over its content."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import ValidationError

from harness.errors import UsageError
from harness.records import FORMAT, Record, digest
from harness.stats import Floats
from harness.store import read_json


class BaselineMetric(Record):
    """One metric's value on every test item, in the order of sorted item ids."""

    mean: float
    bits: str = ""  # 0/1 scores, packed eight to a byte, base64
    values: str = ""  # other scores, six digits, blank between; "-" where there was none

    @classmethod
    def pack(cls, column: Floats) -> Self:
        """From one value per item, NaN where there is none; at least one must be there."""
        mean = float(f"{np.nanmean(column):.6g}")
        if bool(np.isin(column, (0.0, 1.0)).all()):
            packed = np.packbits(column.astype(np.uint8)).tobytes()
            return cls(mean=mean, bits=base64.b64encode(packed).decode())
        return cls(mean=mean, values=" ".join("-" if np.isnan(x) else f"{x:.6g}" for x in column))

    def unpack(self, items: int) -> Floats:
        """One value per item, NaN where there is none: shape (items,)."""
        if self.bits:
            packed = np.frombuffer(base64.b64decode(self.bits), dtype=np.uint8)
            return np.unpackbits(packed, count=items).astype(np.float64)
        return np.array([float("nan") if word == "-" else float(word) for word in self.values.split()])


class BaselineSuite(Record):
    """One gated suite as it was scored when it was blessed."""

    version: int
    suite_digest: str
    card: str  # key of the scorecard
    items: int  # of the test split
    ids: str  # sha256 over the sorted item ids
    metrics: dict[str, BaselineMetric]


class Baseline(Record):
    """What runs/NAME.baseline.json holds; `digest` is over all the rest."""

    format: int = FORMAT
    run: str
    student: str
    student_key: str
    environment: dict[str, Any]
    suites: dict[str, BaselineSuite]
    digest: str = ""

    def sealed(self) -> str:
        """The digest that an untouched file carries: 64 hex digits."""
        return digest("baseline", self.model_dump(mode="json", exclude={"digest"}))


def baseline_path(root: Path, name: str) -> Path:
    """Where the baseline of a run lies: beside its run file, in git."""
    return root / "runs" / f"{name}.baseline.json"


def read_baseline(root: Path, name: str) -> Baseline:
    """The blessed baseline. Raises UsageError when it is missing, damaged, edited, or of another format."""
    path = baseline_path(root, name)
    if not path.is_file():
        raise UsageError(f"{path.relative_to(root)}: there is no baseline yet: harness bless {name}")
    again = f"restore it from git, or: harness bless {name}"
    try:
        stored = read_json(path)
    except UsageError as error:
        raise UsageError(f"{error}: a truncated or edited baseline; {again}") from error
    if isinstance(stored, dict) and stored.get("format", FORMAT) != FORMAT:
        raise UsageError(f"{path}: format {stored['format']!r}; this harness reads format {FORMAT}; {again}")
    try:
        baseline = Baseline.model_validate(stored)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(f"{path}: {where}: {first['msg']}: a truncated or edited baseline; {again}") from error
    if baseline.digest != baseline.sealed():
        raise UsageError(
            f"{path}: it was edited: it says digest {baseline.digest[:16]}, its content has"
            f" {baseline.sealed()[:16]}; {again}"
        )
    return baseline
