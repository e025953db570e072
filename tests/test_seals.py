"""Stored results that were edited, damaged or are of other settings: no verb takes them, and each says what to do."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.check.compare import compare
from harness.check.rescore import noise
from harness.commands.error_analysis import analyse_errors
from harness.core.record import digest
from harness.core.store import Manifest, finished, read_manifest, write_manifest
from harness.core.terminal import Terminal
from harness.errors import UsageError
from harness.records import Score, Scorecard, scores_digest
from harness.report.stage import report, show
from harness.suites.summary import disagreement
from tests.process import COMMAND, harness
from tests.stored import Stored, rate, write_cells, write_stored

CARDS = "runs/shop/eval/scorecards.json"
MANIFEST = "runs/shop/eval/manifest.json"


def edit_cards(gate: Stored, change: Callable[[dict[str, Any]], object]) -> None:
    """Change every card by hand."""
    path = gate.root / CARDS
    stored = json.loads(path.read_text())
    for card in stored["cards"]:
        change(card)
    path.write_text(json.dumps(stored))


VERBS: dict[str, Callable[[Stored], object]] = {
    "check": lambda gate: gate.check(),
    "bless": lambda gate: gate.bless(),
    "compare": lambda gate: compare("shop", "shop", lambda name: gate.run(), False, Terminal()),
    "report": lambda gate: report(gate.run(), Terminal()),
    "show": lambda gate: show(gate.run(), Terminal()),
    "errors": lambda gate: analyse_errors(gate.run(), None, None, Terminal()),
    "rescore": lambda gate: noise(gate.run(), lambda suite, batch: pytest.fail("nothing is scored"), Terminal()),
}
EDITS: dict[str, Callable[[Stored], object]] = {
    "a metric": lambda gate: edit_cards(gate, lambda card: card["metrics"].update(accuracy=0.99)),
    "the counts": lambda gate: edit_cards(gate, lambda card: card.update(scored=399, unparsed=1)),
    "no manifest": lambda gate: (gate.root / MANIFEST).unlink(),
    "a broken manifest": lambda gate: (gate.root / MANIFEST).write_text("{"),
    "an edited manifest": lambda gate: (gate.root / MANIFEST).write_text(
        (gate.root / MANIFEST).read_text().replace('"settings": "', '"settings": "0')
    ),
    "a manifest without outputs": lambda gate: write_manifest(
        gate.root / "runs/shop/eval", read_manifest(gate.root / "runs/shop/eval") or pytest.fail("no manifest"), []
    ),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_takes_what_was_edited(gate: Stored, verb: str, edit: str) -> None:
    write_cells(gate.run(), [])
    report(gate.run(), Terminal())
    EDITS[edit](gate)
    with pytest.raises(UsageError, match=r"eval/\w+\.json .*make eval RUN=shop"):
        VERBS[verb](gate)


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_takes_scores_of_other_settings(gate: Stored, verb: str) -> None:
    write_cells(gate.run(), [])
    report(gate.run(), Terminal())
    gate.path.write_text(gate.path.read_text().replace("epochs: 1", "epochs: 7"))
    with pytest.raises(UsageError, match="make augment train eval RUN=shop"):
        VERBS[verb](gate)


@pytest.mark.parametrize("verb", ["check", "bless", "compare", "report", "errors", "rescore"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda card: card["metrics"].update(accuracy=0.99), r"accuracy 0.99 \(its scores: 0\.\d+\)"),
        (lambda card: card["metrics"].update(invented=0.5), "invented 0.5"),
        (lambda card: card.update(scored=399, unparsed=1), r"scored 399 \(its scores: 400\)"),
        (lambda card: card.update(truncated=3), r"truncated 3 \(its scores: 0\)"),
        (lambda card: card.update(scores=""), "not the scores that"),
    ],
)
def test_numbers_are_those_of_the_score_lines_also_under_a_new_seal(
    gate: Stored, verb: str, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    write_cells(gate.run(), [])
    edit_cards(gate, change)
    gate.seal()
    with pytest.raises(UsageError, match=rf"{says}.*edited.*make eval RUN=shop"):
        VERBS[verb](gate)


def test_failed_items_cannot_be_hidden_by_counts(gate: Stored) -> None:
    gate.store(rate(0.8), failed=60, key="other")
    assert gate.check() == 3
    edit_cards(gate, lambda card: card.update(failed=0, scored=400))
    for verb in ("check", "bless"):
        with pytest.raises(UsageError, match=r"scorecards\.json was edited"):
            VERBS[verb](gate)
    gate.seal()
    for verb in ("check", "bless"):
        with pytest.raises(UsageError, match=r"scored 400 \(its scores: 340\), failed 0 \(its scores: 60\)"):
            VERBS[verb](gate)


def test_answers_made_right_are_not_the_cards(gate: Stored) -> None:
    text = gate.scores().read_text()
    gate.scores().write_text(text.replace('"accuracy":0.0', '"accuracy":1.0'))
    with pytest.raises(UsageError, match=r"card0\.jsonl was edited"):
        gate.check()
    scores = [Score.model_validate_json(line) for line in gate.scores().read_text().splitlines()]
    edit_cards(gate, lambda card: card.update(scores=scores_digest(scores)))
    gate.seal()
    with pytest.raises(UsageError, match=r"accuracy 0\.\d+ \(its scores: 1\)"):
        gate.check()


def test_a_report_that_was_edited_or_is_of_other_scores_is_not_shown(gate: Stored) -> None:
    write_cells(gate.run(), [])
    report(gate.run(), Terminal())
    show(gate.run(), Terminal())
    path = gate.root / "runs/shop/eval/report.md"
    path.write_text(path.read_text() + "All is well.\n")
    with pytest.raises(UsageError, match=r"report\.md .*edited.*make report RUN=shop"):
        show(gate.run(), Terminal())
    report(gate.run(), Terminal())
    gate.store(rate(0.4, salt=1))
    with pytest.raises(UsageError, match=r"report\.md: .*other scores.*make report RUN=shop"):
        show(gate.run(), Terminal())


SEALED = ("scorecards.json", "manifest.json", "scores/card0.jsonl")


@pytest.mark.parametrize("name", SEALED)
def test_a_flipped_bit_changes_no_verdict(tmp_path: Path, name: str) -> None:
    gate = write_stored(tmp_path, accuracy={"margin": 0.05})
    gate.bless()
    path = tmp_path / "runs/shop/eval" / name
    whole, draw = path.read_bytes(), random.Random(name)
    for _ in range(40):
        place, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        if read_manifest(path.parent) == read_manifest_of(whole, name):
            continue  # a blank of the manifest itself: it still says the same
        with pytest.raises(UsageError, match="eval RUN=shop"):
            gate.check()
    path.write_bytes(whole)
    assert gate.check() == 0


def read_manifest_of(whole: bytes, name: str) -> Manifest | str:
    """What the untouched manifest says; for other files, nothing that could be read."""
    return Manifest.model_validate_json(whole) if name == "manifest.json" else "another file"


def test_a_seal_covers_every_field_and_outlives_new_ones(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    write_manifest(tmp_path, Manifest(stage="eval", inputs="i", settings="s", suites={"x": "y"}), [tmp_path / "a"])
    assert finished(tmp_path, "i") is not None
    stored = json.loads((tmp_path / "manifest.json").read_text())
    for name, value in {"stage": "x", "inputs": "x", "settings": "", "suites": {}, "partial": True, "summary": "x",
                        "outputs": {"a": "0"}, "environment": {"a": 1}, "seal": ""}.items():  # fmt: skip
        (tmp_path / "manifest.json").write_text(json.dumps(stored | {name: value}))
        assert read_manifest(tmp_path) is None, name
    assert set(stored) == set(Manifest.model_fields)
    old = {"stage": "eval", "inputs": "i", "outputs": {"a": "0"}}  # what a manifest held before it had other fields
    assert Manifest.model_validate(old).sealed() == digest("manifest", old)


def test_sums_in_another_order_and_another_zlib_are_no_edit(gate: Stored) -> None:
    run = gate.run()
    results = json.loads((gate.root / CARDS).read_text())["cards"][0]
    card = Scorecard.model_validate(results)
    scores = [Score.model_validate_json(line) for line in gate.scores().read_text().splitlines()]
    assert disagreement(card, scores, run.suites["shop"]) == ""
    near = card.model_copy(update={"metrics": card.metrics | {"accuracy": card.metrics["accuracy"] * (1 + 1e-12)}})
    assert disagreement(near, scores[::-1], run.suites["shop"]) == ""
    far = card.model_copy(update={"metrics": card.metrics | {"accuracy": card.metrics["accuracy"] + 1e-4}})
    assert disagreement(far, scores, run.suites["shop"]).startswith("accuracy")


def test_the_plugin_takes_no_edited_scores(gate: Stored) -> None:
    edit_cards(gate, lambda card: card["metrics"].update(accuracy=0.99))
    program = "import sys, pytest; sys.exit(pytest.main(['-p', 'no:cacheprovider', *sys.argv[1:]]))"
    done = harness(gate.root, "--harness-run", "runs/shop.yaml", "runs", program=program)
    assert done.returncode == 4, done.stdout  # pytest's own code for a usage error
    assert "scorecards.json was edited" in done.stderr


@pytest.mark.parametrize("how", ["environment", "--summary"])
def test_a_summary_that_cannot_be_written_changes_no_verdict(gate: Stored, how: str) -> None:
    (gate.root / "a-file").write_text("")
    nowhere = str(gate.root / "a-file" / "summary.md")
    words = ["check", "shop"] + ([how, nowhere] if how != "environment" else [])
    more = {"GITHUB_STEP_SUMMARY": nowhere} if how == "environment" else {}
    for expected, key in ((0, "k"), (1, "other")):
        gate.store(rate(0.8 if not expected else 0.4, salt=expected), key=key)
        done = harness(gate.root, *words, program=COMMAND, **more)
        assert done.returncode == expected, done.stderr
        assert [line for line in done.stderr.splitlines() if nowhere in line] == done.stderr.splitlines()
        assert done.stderr.startswith("harness: warning: ")
        assert done.stdout.splitlines()[-1].endswith(f"(exit {expected})")
