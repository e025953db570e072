"""The blessed scores of a student: a small file for git, sealed by a digest over its content."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import ValidationError

from harness.core.json_file import read_json
from harness.core.record import Record, digest
from harness.errors import UsageError
from harness.stats import Floats, binary
from harness.stats.contrasts import Question
from harness.stats.score_matrix import ScoreMatrix

BASELINE_FORMAT = 2
ID_BYTES = 6  # of an item's digest: two of 14,000 items are alike with a chance of 1 in 3 million


class Column(Record):
    """One metric of one trained student on every test item, in the order of sorted item ids."""

    bits: str = ""  # 0/1 scores, eight to a byte, base64
    values: str = ""  # other scores, six digits, blank between; "-" where there is none

    @classmethod
    def pack(cls, column: Floats) -> Self:
        """From one value per item, NaN where there is none."""
        if binary(column):
            return cls(bits=base64.b64encode(np.packbits(column.astype(np.uint8)).tobytes()).decode())
        return cls(values=" ".join("-" if np.isnan(x) else f"{x:.6g}" for x in column))

    def unpack(self, items: int) -> Floats:
        """One value per item, NaN where there is none: shape (items,). Raises ValueError for another number."""
        if self.bits:
            packed = np.frombuffer(base64.b64decode(self.bits, validate=True), dtype=np.uint8)
            if packed.size != -(-items // 8):
                raise ValueError(f"{packed.size} bytes for {items} items")
            return np.unpackbits(packed, count=items).astype(np.float64)
        values = np.array([float("nan") if word == "-" else float(word) for word in self.values.split()])
        if values.size != items:
            raise ValueError(f"{values.size} values for {items} items")
        return values


class BaselineMetric(Record):
    """One metric: its mean for people, and a column per random seed."""

    mean: float
    columns: tuple[Column, ...]

    def values(self, items: int) -> Floats:
        """Shape (random seeds, items)."""
        return np.stack([column.unpack(items) for column in self.columns])


class BaselineSuite(Record):
    """One gated suite as it was scored when it was blessed."""

    version: int
    suite_digest: str
    asked: tuple[str, ...] = ()  # how it was asked, where the suite leaves that to the machine: a card's notes
    items: int  # of the test split
    ids: str  # the first ID_BYTES of every item's digest, sorted, base64
    metrics: dict[str, BaselineMetric]

    def item_ids(self) -> list[str]:
        """The items' shortened ids, in the order of the columns. Raises ValueError for ids of other length."""
        raw = base64.b64decode(self.ids, validate=True)
        if len(raw) % ID_BYTES:
            raise ValueError(f"{len(raw)} bytes of ids, which are {ID_BYTES} bytes each")
        return [raw[i : i + ID_BYTES].hex() for i in range(0, len(raw), ID_BYTES)]

    def matrix(self, metric: str) -> ScoreMatrix:
        """The blessed values of a metric, one row per random seed."""
        return ScoreMatrix(self.metrics[metric].values(self.items), tuple(self.item_ids()))


class Baseline(Record):
    """What runs/NAME.baseline.json holds. `digest` is over all other fields."""

    format: int = BASELINE_FORMAT
    run: str
    student: str
    question: Question
    student_keys: dict[str, str]  # random seed -> digest of the trained student
    environment: dict[str, Any]
    suites: dict[str, BaselineSuite]
    digest: str = ""

    def sealed(self) -> str:
        """The digest that an untouched file carries: 64 hex digits."""
        return digest("baseline", self.model_dump(mode="json", exclude={"digest"}))


def pack_ids(ids: Sequence[str]) -> str:
    """Sorted item ids, shortened to ID_BYTES, base64."""
    return base64.b64encode(b"".join(bytes.fromhex(item) for item in shortened(sorted(ids)))).decode()


def shortened(ids: Sequence[str]) -> tuple[str, ...]:
    """As much of every item id as a baseline keeps."""
    return tuple(item[: 2 * ID_BYTES] for item in ids)


def baseline_path(root: Path, name: str) -> Path:
    """Where the baseline of a run lies: beside its run file, in git."""
    return root / "runs" / f"{name}.baseline.json"


def read_baseline(root: Path, name: str) -> Baseline:
    """The blessed baseline. Raises UsageError when it is missing, damaged, edited, or of another format."""
    path = baseline_path(root, name)
    if not path.is_file():
        raise UsageError(f"{path.relative_to(root)}: there is no baseline yet: harness bless {name}")
    remedy = f"restore it from git, or: harness bless {name}"
    try:
        stored = read_json(path)
    except UsageError as error:
        raise UsageError(f"{error}: a truncated or edited baseline; {remedy}") from error
    if isinstance(stored, dict) and stored.get("format") != BASELINE_FORMAT:
        version = stored.get("format")
        raise UsageError(f"{path}: format {version!r}; this harness reads format {BASELINE_FORMAT}; {remedy}")
    try:
        baseline = Baseline.model_validate(stored)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(f"{path}: {where}: {first['msg']}: a truncated or edited baseline; {remedy}") from error
    if baseline.digest != baseline.sealed():
        raise UsageError(
            f"{path}: it was edited: it says digest {baseline.digest[:16]}, its content has"
            f" {baseline.sealed()[:16]}; {remedy}"
        )
    _require_whole(path, baseline, remedy)
    return baseline


def _require_whole(path: Path, baseline: Baseline, remedy: str) -> None:
    """Raises UsageError unless there is a column per student and a value for every item."""
    for name, suite in baseline.suites.items():
        try:
            if len(suite.item_ids()) != suite.items:
                raise ValueError(f"{len(suite.item_ids())} ids for {suite.items} items")
            for metric, blessed in suite.metrics.items():
                if len(blessed.values(suite.items)) != len(baseline.student_keys):
                    raise ValueError(
                        f"{metric}: {len(blessed.columns)} columns for {len(baseline.student_keys)} students"
                    )
        except (ValueError, binascii.Error) as error:
            raise UsageError(f"{path}: {name}: {error}; not a whole baseline; {remedy}") from error
