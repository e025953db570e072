"""The weights of a teacher on a node: where the driving machine has them, else the node's own copy of the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.builders import _weights_here
from harness.errors import MachineError
from harness.models.resolve import resolve


def test_the_same_folder_or_the_nodes_own_copy(tmp_path: Path, tiny_model: Path) -> None:
    model = resolve(str(tiny_model), tmp_path)
    assert _weights_here(model) == tiny_model
    with pytest.raises(MachineError, match=r"the node .* has no .*gone"):
        _weights_here(replace(model, folder=tmp_path / "gone"))


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    model = resolve(str(tiny_model), tmp_path)
    away = replace(model, folder=tmp_path / "gone", revision="0" * 16)
    monkeypatch.setattr("harness.models.resolve.resolve", lambda *given: model)
    with pytest.raises(MachineError, match="other weights"):
        _weights_here(away)
    assert _weights_here(replace(model, folder=tmp_path / "gone")) == tiny_model
