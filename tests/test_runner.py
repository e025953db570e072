"""Subjects and suites beyond the plain loop: retrieval, other models, a judge, what is kept when a card breaks off."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from harness.augment.stage import augment
from harness.builders import openers
from harness.commands.ask import ask
from harness.commands.dry_run import describe_rescoring, describe_scoring
from harness.config.load import load_run
from harness.config.run import Run
from harness.config.ship import ship_cells
from harness.core.terminal import Stop
from harness.engines.protocols import StudentEngine
from harness.engines.scripted import ScriptedEngine
from harness.engines.transformers import TransformersEngine
from harness.errors import MachineError, UsageError
from harness.eval.plan import plan_scoring
from harness.eval.results import load_results
from harness.eval.runner import Judge, Openers
from harness.eval.stage import evaluate
from harness.models.teachers import Teachers
from harness.records import FORMS, Completion, Loglikelihood, Pair, Request
from harness.report.analysis import arms
from harness.report.stage import report
from harness.train.stage import train
from tests.fakes import FakeGenerator, Quiet, WordEmbedder
from tests.project import unscored, write_judged_suite, write_project
from tests.tiny import make_tiny_model

FIRST = FakeGenerator(lambda request: ("A", {"A": math.log(0.8), "B": math.log(0.2)}))  # prefers what stands first


def student(base: Path, adapter: Path | None) -> StudentEngine:
    return TransformersEngine(base, adapter, device="cpu")


OPENERS = Openers(student, WordEmbedder, lambda name: Judge("script@1", lambda: FIRST))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Run:
    root = tmp_path_factory.mktemp("examiner")
    other = make_tiny_model(root / "models/other", random_seed=1)
    path = write_project(root, str(tiny_model))
    write_judged_suite(root, items=12, planted=4)
    changed = yaml.safe_load(path.read_text())
    changed["train"] |= {"sizes": [0, 4], "data": ["filtered"]}
    changed["ship"]["size"] = 4
    changed["eval"] = {
        "suites": ["shop", "talk", "kind"],
        "prompting": ["zero_shot", "retrieval"],
        "retrieved": 2,
        "compare": ["teacher", str(other), str(tiny_model)],
    }
    path.write_text(yaml.safe_dump(changed, sort_keys=False))
    loaded = load_run(path)
    script = root / "prompts/shop/teacher.json"
    augment(loaded, Teachers(own="script@1"), lambda: ScriptedEngine.from_file(script), Quiet(), Stop())
    train(loaded, Quiet(), Stop())
    return loaded


@pytest.fixture(scope="module")
def done(run: Run) -> Run:
    evaluate(run, OPENERS, Quiet(), Stop())
    return run


def test_untuned_models_come_first_and_each_only_once(run: Run) -> None:
    plan = plan_scoring(run)
    tuned = [candidate.tuned for candidate in plan.candidates]
    assert set(tuned) == {False, True}
    assert tuned == sorted(tuned)
    assert len({(s.cell.name, s.prompting) for s in plan.candidates}) == len(plan.candidates)
    assert any("its weights cannot be scored as a ceiling" in note for note in plan.notes)
    assert any("it is no ceiling of its own" in note for note in plan.notes)
    assert sum(not s.tuned and s.prompting == "retrieval" for s in plan.candidates) == 2  # the base and the other


def test_another_model_stands_beside_the_students(done: Run) -> None:
    results = load_results(done.folder)
    others = {card.student for card in results.cards if card.suite == "talk"}
    assert any(name.endswith("other.base") for name in others)
    ways = {card.prompting for card in results.cards if card.suite == "shop"}
    assert ways == {"zero_shot", "retrieval", "trained"}
    asked = {c.prompting: c.prompt_tokens / c.items for c in results.cards if c.suite == "shop" and "base" in c.student}
    assert asked["retrieval"] > asked["zero_shot"]  # two rows stand in the prompt


def test_a_tuned_student_with_the_nearest_rows_is_a_candidate_of_its_own(done: Run) -> None:
    """It has a row in the table and a sentence. Curve, headline and gate stay those of the student alone."""
    changed = load_run(done.root / "runs/shop.yaml", ["eval.tuned_prompting=[zero_shot, retrieval]"])
    before = {card.key for card in load_results(done.folder).cards}
    report(done, Quiet())
    headline = (done.folder / "eval/report.md").read_text().split("**")[1]
    evaluate(changed, OPENERS, Quiet(), Stop())
    results = load_results(done.folder)
    assert before < {card.key for card in results.cards}, "what was scored stays"
    (alone,) = (
        c for c in results.cards if c.cell and c.cell.size == 4 and (c.suite, c.prompting) == ("shop", "zero_shot")
    )
    (shown,) = (c for c in results.cards if c.cell and c.cell.size == 4 and c.prompting == "retrieval")
    assert shown.complete
    assert shown.choice is None
    assert shown.prompt_tokens > alone.prompt_tokens, "two rows stand in the prompt"
    report(changed, Quiet())
    text = (done.folder / "eval/report.md").read_text()
    title = "4 rows (filtered), with the nearest rows in its prompt"
    assert re.search(rf"{re.escape(title)}: .* over without them .*; over the untuned model with the same rows", text)
    assert f"{title} |" in text
    assert text.split("**")[1] == headline
    arms_ = arms(results, "shop")
    assert [arm.kind for arm in arms_ if arm.size].count("student") == 1
    terminal = Quiet()
    ask(changed, "where is my parcel", OPENERS, terminal)
    assert any("(retrieval)" in line and "filtered.4" in line for line in terminal.said)
    evaluate(done, OPENERS, Quiet(), Stop())


def test_tuned_students_are_asked_alone_at_least(run: Run) -> None:
    with pytest.raises(UsageError, match=r"tuned_prompting.*zero_shot"):
        load_run(run.root / "runs/shop.yaml", ["eval.tuned_prompting=[retrieval]"])


def test_every_untuned_card_says_how_it_was_asked_and_what_else_was_tried(done: Run) -> None:
    results = load_results(done.folder)
    shop = [card for card in results.cards if card.suite == "shop" and card.cell and not card.cell.size]
    assert len(shop) == 4  # two models, two ways of prompting
    for card in shop:
        assert card.choice is not None
        assert {trial.way.form for trial in card.choice.tried} == set(FORMS)
        assert card.choice.way in {trial.way for trial in card.choice.tried}
        assert {trial.way.shots for trial in card.choice.tried} == {2 if card.prompting == "retrieval" else 0}
        on_dev = [score for score in results.scores(card) if score.split == "dev"]
        chosen = next(trial for trial in card.choice.tried if trial.way == card.choice.way)
        best = max(sum(score.values[m] for score in on_dev) / len(on_dev) for m in card.choice.metrics)
        assert card.choice.items == len(on_dev)
        assert chosen.value == pytest.approx(best), "the stored scores are those that the choice was made by"
    assert all(card.choice is None for card in results.cards if card not in shop)


def test_a_judge_that_leans_to_a_position_decides_nothing(done: Run) -> None:
    results = load_results(done.folder)
    cards = [card for card in results.cards if card.suite == "kind"]
    assert len(cards) == 3
    for card in cards:
        assert card.complete
        values = [score.values for score in results.scores(card)]
        assert {v["preferred"] for v in values} <= {0.0, 0.5}  # nothing wins from both positions
        assert {v["agreement"] for v in values if "agreement" in v} <= {0.0}
        assert any("no better than chance" in note for note in card.notes)
        assert any("script@1, also wrote the training rows" in note for note in card.notes)
    planted = {request.key for request in FIRST.requests}
    assert len(planted) == len(FIRST.requests)  # planted pairs are the same for every student, and asked once
    with unscored(done):
        said = re.search(r"kind .* about (\d+) requests to its judge", describe_scoring(done))
    assert said is not None
    assert int(said[1]) == 2 * (3 * 12 + 4)  # three cards of 12 items, four planted pairs, both orders
    assert len(FIRST.requests) <= int(said[1])  # empty answers need no judge
    again = describe_rescoring(ship_cells(done)[0], done.suites.values(), done.name)
    assert "about 56 requests to its judge" in again  # two passes over the ship student's card


def test_a_judge_of_its_own_needs_no_teacher(tmp_path: Path, tiny_model: Path) -> None:
    teacher = {"model": "nobody/nothing", "engine": "transformers"}
    run = load_run(write_project(tmp_path, str(tiny_model), teacher=teacher))
    assert openers(run).judge(str(tiny_model)).identity.startswith(f"{tiny_model.name}@")
    with pytest.raises(MachineError, match="nobody/nothing"):
        openers(run).judge("")


def test_students_have_moved_from_their_base_and_it_has_not_moved(done: Run) -> None:
    results = load_results(done.folder)
    tuned = [card for card in results.cards if card.suite == "talk" and card.cell and card.cell.size]
    assert tuned
    for card in tuned:
        assert card.metrics["kl_from_base"] > 0
    untuned = [card for card in results.cards if card.suite == "talk" and card.cell and not card.cell.size]
    assert untuned
    assert all("kl_from_base" not in card.metrics for card in untuned)


MEASURED: list[Pair] = []


class Counting(TransformersEngine):
    """Keeps what it measures."""

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Loglikelihood]:
        MEASURED.extend(pairs)
        return super().loglikelihood(pairs)


class Breaking(Counting):
    """Breaks when it is to write."""

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        raise MachineError("the engine broke")


def test_what_was_answered_of_a_card_that_broke_off_is_kept(done: Run) -> None:
    settings = ["eval.suites=[shop]", "eval.compare=[]", "eval.prompting=[zero_shot]", "train.sizes=[0]", "ship=null"]
    narrow = load_run(done.root / "runs/shop.yaml", settings)
    for path in (done.cache / "scores").glob("*"):
        path.unlink()
    train(narrow, Quiet(), Stop())
    with pytest.raises(MachineError, match="the engine broke"):
        evaluate(
            narrow, Openers(lambda b, a: Breaking(b, a, device="cpu"), WordEmbedder, OPENERS.judge), Quiet(), Stop()
        )
    assert len(list((done.cache / "scores").glob("*.part.jsonl"))) == 1
    assert MEASURED
    counting = Openers(lambda b, a: Counting(b, a, device="cpu"), WordEmbedder, OPENERS.judge)
    assert evaluate(narrow, counting, Quiet(), Stop()) is not None
    assert len(MEASURED) == len(set(MEASURED))  # nothing is measured twice: not after the break, not of a way chosen
    assert not list((done.cache / "scores").glob("*.part.jsonl"))
