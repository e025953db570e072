"""Who is scored, and what decides how a model is asked: whether it was tuned, not what its weights lie in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from harness.config.load import load_run
from harness.core.json_file import read_json
from harness.core.store import Manifest, write_json, write_manifest
from harness.core.terminal import Stop
from harness.errors import UsageError
from harness.eval.candidates import Candidate
from harness.eval.plan import PlannedCard, card_key, outline_scoring
from harness.eval.runner import Openers, Scorer, score_suite
from harness.eval.stage import score_card
from harness.records import Cell, Completion, Request
from harness.suites.oracle import Oracle
from harness.suites.suite import CardInputs
from harness.train.cells import CELLS, load_cells
from tests.fakes import Quiet, WordEmbedder
from tests.project import no_judge, write_project
from tests.stored import trained_cell, write_cells

CELL = Cell(student="tiny", data="filtered", size=4, random_seed=0)
BASE = Cell(student="tiny", data="base", size=0, random_seed=0)


@dataclass
class Listening(Oracle):
    """A student that says nothing, and keeps what it was asked."""

    asked: list[Request] = field(default_factory=list)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        sent = list(requests)
        self.asked += sent
        return super().generate(sent)


def asked_as(root: Path, candidate: Candidate) -> tuple[str, str]:
    """(the last way a candidate was asked an item of the task, the key of its card)."""
    run = load_run(write_project(root, "tiny"))
    engine, suite, outline = Listening({}, silent=True), run.suites["shop"], outline_scoring(run)
    inputs = CardInputs(root, tuple(run.task.labels), base_is_scored=True, searched_rows=(), benchmark_rows=())
    key = card_key(candidate, suite, outline.prompts, outline.shots, inputs, run.file.teacher)
    card = PlannedCard(candidate, suite, key)
    plan = replace(outline, candidates=(candidate,), cards=(card,))
    openers = Openers(lambda base, adapter: engine, WordEmbedder, no_judge)
    score_suite(Scorer(plan, root, run.cache, openers, Quiet(), Stop()), card, engine)
    last = engine.asked[-1]
    said = last.prompt or last.messages[-1].content
    (text,) = {item.text for item in suite.items if item.text in said}
    return said.replace(text, "TEXT"), key


def test_a_tuned_student_without_an_adapter_is_asked_with_the_prompt_it_was_tuned_on(tmp_path: Path) -> None:
    adapted = Candidate(CELL, "key", Path("base"), Path("adapter"), "zero_shot", tuned=True)
    whole = Candidate(CELL, "key", Path("tuned weights"), None, "zero_shot", tuned=True)
    base = Candidate(BASE, "key", Path("base"), None, "zero_shot", tuned=False)
    prompt, key = asked_as(tmp_path, whole)
    assert prompt == "TEXT\nTopic:", "the student's template"
    assert (prompt, key) == asked_as(tmp_path, adapted)
    untuned_prompt, untuned_key = asked_as(tmp_path, base)
    assert untuned_prompt == "parcel invoice account TEXT ->", "the untuned template"
    assert untuned_key != key


def test_progress_within_a_card_counts_all_that_it_asks(tmp_path: Path) -> None:
    """Labels are measured, then answers are written: neither is the whole card, nor is choosing how to ask."""
    run = load_run(write_project(tmp_path, "tiny"))
    outline, suite = outline_scoring(run), run.suites["shop"]
    candidate = Candidate(CELL, "key", Path("tuned"), None, "zero_shot", tuned=True)
    card = PlannedCard(candidate, suite, "key")
    openers = Openers(lambda base, adapter: Oracle({}, silent=True), WordEmbedder, no_judge)
    plan = replace(outline, candidates=(candidate,), cards=(card,))
    shown: list[tuple[float, str]] = []
    scorer = Scorer(plan, tmp_path, run.cache, openers, Quiet(), Stop())
    score_card(scorer, card, tmp_path / "scores", lambda share, words: shown.append((share, words)))
    shares = [share for share, words in shown if " of " in words]
    asked = suite.spec.requests(suite.items)
    measured = asked.loglikelihoods / (asked.loglikelihoods + asked.answers)
    assert shares == sorted(shares)
    assert any(share == pytest.approx(measured) for share in shares), (
        "all labels are measured, and no answer is written"
    )
    assert shares[-1] == pytest.approx(1)


def test_cells_are_read_as_they_were_written(tmp_path: Path) -> None:
    run = load_run(write_project(tmp_path, "tiny"))
    written = [trained_cell(BASE), trained_cell(CELL, folder="runs/.cache/students/x", first_loss=2.0, final_loss=1.0)]
    write_cells(run, written)
    found = load_cells(run.folder)
    assert list(found.cells) == written
    assert [(cell.tuned, cell.cell) for cell in found.cells] == [(False, BASE), (True, CELL)]


@pytest.mark.parametrize("name", ["tuned", "invented"])
def test_cells_with_a_field_more_or_less_are_refused_with_the_command_that_writes_them_anew(
    tmp_path: Path, name: str
) -> None:
    run = load_run(write_project(tmp_path, "tiny"))
    write_cells(run, [trained_cell(CELL)])
    path = run.folder / "train" / CELLS
    stored = read_json(path)
    if stored["cells"][0].pop(name, None) is None:
        stored["cells"][0][name] = 1
    write_json(path, stored)
    write_manifest(path.parent, Manifest(stage="train", inputs="by hand"), [path])
    with pytest.raises(UsageError, match=rf"cells\.json: an older version wrote it; make train RUN=shop .*{name}"):
        load_cells(run.folder)
