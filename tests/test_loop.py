"""The whole loop with a tiny student: every artifact, running it again, growing it, killing it, the null run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from harness.augment.stage import augment
from harness.check.bless import bless
from harness.check.stage import check
from harness.commands.ask import ask
from harness.commands.clean import clean
from harness.commands.dry_run import describe_scoring
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.store import locked
from harness.core.terminal import Stop
from harness.engines.call_cache import COMMIT_EVERY
from harness.engines.protocols import StudentEngine
from harness.engines.scripted import ScriptedEngine
from harness.engines.transformers import TransformersEngine
from harness.errors import MachineError, UsageError
from harness.eval.plan import outline_scoring, plan_scoring
from harness.eval.results import load_results
from harness.eval.runner import Openers
from harness.eval.stage import evaluate
from harness.models.teachers import Teachers
from harness.records import Completion, Request, Score
from harness.report.analysis import arms
from harness.report.headline import Headline, headline
from harness.report.stage import report
from harness.stats import MIN_SEEDS
from harness.suites import forgetting
from harness.suites.reference import NAME as REFERENCE
from harness.train.stage import train
from tests.fakes import Quiet, WordEmbedder
from tests.http_server import Endpoint, serving
from tests.process import finish, start, succeed, wait_for
from tests.project import no_judge, unscored, write_project

OPENED: list[Path | None] = []


def opener(base: Path, adapter: Path | None) -> StudentEngine:
    OPENED.append(adapter)
    return TransformersEngine(base, adapter, device="cpu")


OPENERS = Openers(opener, WordEmbedder, no_judge)


def loop(run: Run) -> Quiet:
    terminal = Quiet()
    script = run.root / "prompts/shop/teacher.json"
    augment(run, Teachers(own="script@1"), lambda: ScriptedEngine.from_file(script), terminal, Stop())
    train(run, terminal, Stop())
    evaluate(run, OPENERS, terminal, Stop())
    report(run, terminal)
    return terminal


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Run, Quiet]:
    run = load_run(write_project(tmp_path_factory.mktemp("loop"), str(tiny_model)))
    return run, loop(run)


def test_every_student_has_a_card_on_every_suite(done: tuple[Run, Quiet]) -> None:
    run, _ = done
    results = load_results(run.folder)
    asked = {(card.suite, card.student.split(".", 1)[-1], card.prompting) for card in results.cards}
    tuned = {"filtered.4.s0", "filtered.12.s0", "seeds_only.60.s0"}
    students = {(suite, name) for suite, name, how in asked if how == "zero_shot"}
    for suite in ("shop", "talk", "facts"):
        names = {name.split("tiny", 1)[-1] for s, name in students if s == suite}
        assert {t for t in tuned if any(n.endswith(t) for n in names)} == tuned
    assert any(how == "few_shot" for _, _, how in asked)
    for card in results.cards:
        scores = results.scores(card)
        assert len(scores) == card.items == card.scored + card.unparsed + card.failed
        assert card.complete
        test = [s for s in scores if s.split == "test"]
        assert ("accuracy" in card.metrics) == (card.suite != "talk"), "open instructions have no right answer"
        if card.suite != "talk":
            mean = sum(s.values["accuracy"] for s in test) / len(test)
            assert card.metrics["accuracy"] == pytest.approx(mean)


def test_the_dry_run_of_eval_counts_the_cards_that_eval_makes(done: tuple[Run, Quiet]) -> None:
    run, _ = done
    results = load_results(run.folder)
    made = Counter(card.suite for card in results.cards if not card.student.startswith(REFERENCE))
    assert "eval shop would do nothing: " in describe_scoring(run)
    (run.folder / "eval/manifest.json").rename(run.folder / "eval/manifest.away")
    stored = f"{len(plan_scoring(run).cards)} of {len(plan_scoring(run).cards)} cards are stored already"
    assert stored in describe_scoring(run)
    assert "cards of" not in describe_scoring(run)
    (run.folder / "eval/manifest.away").rename(run.folder / "eval/manifest.json")
    with unscored(run):
        planned = re.findall(r"^  (\w+) +(\d+) cards of", describe_scoring(run), re.MULTILINE)
    assert {suite: int(count) for suite, count in planned} == made
    plan = plan_scoring(run)
    assert [card.key for card in (*plan.cards, *plan.references)] == [card.key for card in results.cards]
    before = [(card.candidate.title, card.suite.name) for card in outline_scoring(run).cards]
    assert before == [(card.candidate.title, card.suite.name) for card in plan.cards], "as the dry run before train"
    with_hub = load_run(run.root / "runs/shop.yaml", ["eval.compare=[someone/model]"])
    assert "2 untuned models" in describe_scoring(with_hub), "and it downloads nothing: no socket is open here"


def test_the_report_has_its_parts(done: tuple[Run, Quiet]) -> None:
    run, terminal = done
    text = (run.folder / "eval" / "report.md").read_text()
    for part in (
        "alternative",
        "these weights",
        "What tuning broke",
        "What it cost",
        "steps",
        "TF-IDF",
    ):
        assert part in text
    results = load_results(run.folder)
    assert all(card.choice.sentence in text for card in results.cards if card.choice is not None)
    unreadable = [card for card in results.cards if card.warning]
    assert unreadable, "a random model names no label"
    assert all(card.warning.partition(":")[0] in text for card in unreadable)
    pictures = list((run.folder / "eval").glob("*.png"))
    assert {picture.name.split(".")[0] for picture in pictures} == {"learning_curve", "forgetting"}
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert any("alternative" in said for said in terminal.said)


def test_again_with_nothing_changed_nothing_is_done(done: tuple[Run, Quiet]) -> None:
    run, _ = done
    before = len(OPENED)
    terminal = loop(run)
    assert len(OPENED) == before
    assert sum("nothing to do" in said for said in terminal.said) == 3


def test_the_adapters_open_with_plain_peft(done: tuple[Run, Quiet], tiny_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run, _ = done
    cells = json.loads((run.folder / "train" / "cells.json").read_text())["cells"]
    folders = [run.root / cell["folder"] for cell in cells if cell["folder"]]
    assert len(folders) == 3
    for folder in folders:
        base = AutoModelForCausalLM.from_pretrained(tiny_model)
        assert PeftModel.from_pretrained(base, str(folder)).peft_config
        assert str(run.root) not in (folder / "adapter_config.json").read_text()


def test_a_grown_run_pays_only_for_what_is_new(done: tuple[Run, Quiet]) -> None:
    run, _ = done
    (run.root / "runs/grown.yaml").write_text("extends: shop.yaml\ntrain: {random_seeds: [0, 1, 2]}\n")
    grown = load_run(run.root / "runs/grown.yaml")
    before = len(list((run.cache / "students").iterdir()))
    opened = len(OPENED)
    terminal = loop(grown)
    assert len(list((run.cache / "students").iterdir())) == before + 2 * 3
    assert len(OPENED) - opened == 2 * 3, "the base and the first seed's students were scored before"
    funnel = json.loads((grown.folder / "augment" / "funnel.json").read_text())
    assert funnel["calls_paid"] == 0
    assert (grown.folder / "augment/train.jsonl").read_bytes() == (run.folder / "augment/train.jsonl").read_bytes()
    assert any("this recipe" in said for said in terminal.said)
    results = load_results(grown.folder)
    found = headline(results, arms(results, "shop"), grown.file.train.students[0], 0)
    assert isinstance(found, Headline)
    assert found.rival.difference.question == "this recipe"
    assert len(found.reading.arm.cards) == MIN_SEEDS


DAMAGED: dict[
    str, Callable[[str], str | None]
] = {  # file of a run's folder -> what is done to it; the stage that wrote it makes it again
    "augment/train.jsonl": lambda text: text[:-40],
    "augment/funnel.json": lambda text: text[: len(text) // 2],
    "train/cells.json": lambda text: "[]",
    "eval/scorecards.json": lambda text: None,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_result_is_made_again_by_the_same_command(done: tuple[Run, Quiet], name: str) -> None:
    run, _ = done
    path = run.folder / name
    before = path.read_text()
    after = DAMAGED[name](before)
    path.unlink() if after is None else path.write_text(after)
    opened = len(OPENED)
    said = loop(run).said
    assert path.read_text() == before or name.endswith("funnel.json")  # which counts calls from the cache now
    assert any(said_now.startswith("augment: nothing to do") for said_now in said) == (not name.startswith("augment"))
    assert len(OPENED) == opened, "no model is loaded for it"
    assert "nothing to do" in loop(run).said[0]


def test_damaged_scores_are_named_with_the_command_that_makes_them_again(done: tuple[Run, Quiet]) -> None:
    run, _ = done
    path = next((run.folder / "eval/scores").glob("*.jsonl"))
    path.write_text(path.read_text()[:-30])
    with pytest.raises(UsageError, match=rf"{path.name} .*edited.*make eval RUN=shop"):
        report(run, Quiet())
    loop(run)
    report(run, Quiet())


def test_an_edited_card_is_scored_again_also_where_the_shared_one_was_edited(done: tuple[Run, Quiet]) -> None:
    run, _ = done
    card = next(c for c in load_results(run.folder).cards if c.suite == "facts" and c.cell and c.cell.size)
    shared = run.cache / "scores" / f"{card.key}.json"
    edits: list[tuple[Path, str, str]] = [
        (run.folder / "eval/scorecards.json", f'"accuracy": {card.metrics["accuracy"]}', '"accuracy": 0.99'),
        (shared, f'"accuracy": {card.metrics["accuracy"]}', '"accuracy": 0.99'),
        (shared.with_suffix(".jsonl"), '"accuracy":0.0', '"accuracy":1.0'),
    ]
    for path, old, new in edits:
        opened, text = len(OPENED), path.read_text()
        path.write_text(text.replace(old, new))
        assert path.read_text() != text
        if path.parent == shared.parent:
            (run.folder / "eval/manifest.json").unlink()
        said = loop(run).text
        assert load_results(run.folder).card(card.suite, card.student, card.prompting) is not None
        again = next(c for c in load_results(run.folder).cards if c.key == card.key)
        assert again.metrics == card.metrics
        assert (len(OPENED) > opened) == ("scored again" in said) == (path.parent == shared.parent)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_what_a_base_expects_is_measured_again_where_it_was_damaged(done: tuple[Run, Quiet], damage: str) -> None:
    run, _ = done
    card = next(c for c in load_results(run.folder).cards if c.suite == "talk" and c.cell and not c.cell.size)
    path = run.cache / "scores" / f"{card.key}.expected.npz"
    whole = path.read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(whole[: len(whole) // 2])
    (run.folder / "eval/manifest.json").unlink()
    said = loop(run).text
    assert "scored again" in said
    assert re.search(r"eval: 1 of \d\d+ cards are not stored yet", said), (
        "what is stored takes no time, and does not count"
    )
    assert forgetting.is_whole(path)
    assert path.stat().st_size == len(whole)


def test_clean_keeps_what_runs_refer_to(done: tuple[Run, Quiet]) -> None:
    run, _ = done
    orphan = run.cache / "students" / ("0" * 64)
    orphan.mkdir()
    assert clean(run.root / "runs", True, Quiet()) == [orphan]
    clean(run.root / "runs", False, Quiet())
    assert not orphan.exists()
    assert "nothing to do" in loop(run).said[1]


def test_clean_leaves_scores_that_a_stopped_eval_will_need(done: tuple[Run, Quiet]) -> None:
    run, _ = done
    scores = run.cache / "scores"
    (scores / f"{'0' * 32}.part.jsonl").write_text("")
    waiting = run.root / "runs" / "waiting" / "train"
    waiting.mkdir(parents=True)
    (waiting / "cells.json").write_text((run.folder / "train" / "cells.json").read_text())
    terminal = Quiet()
    assert clean(run.root / "runs", True, terminal) == []
    assert "waiting may still need them" in terminal.said[0]
    shutil.rmtree(waiting.parent)
    assert clean(run.root / "runs", False, Quiet()) == [scores / f"{'0' * 32}.part.jsonl"]


def test_clean_leaves_what_an_eval_that_broke_off_has_made(done: tuple[Run, Quiet]) -> None:
    run, _ = done
    again = load_run(run.root / "runs/shop.yaml", ["eval.prompting=[zero_shot, retrieval]"])

    def broken(base: Path, adapter: Path | None) -> StudentEngine:
        raise MachineError("the engine broke")

    with pytest.raises(MachineError, match="the engine broke"):
        evaluate(again, replace(OPENERS, student=broken), Quiet(), Stop())
    scores = run.cache / "scores"
    wanted = json.loads((run.folder / "eval/wanted.json").read_text())
    part = next(scores / f"{key}.part.jsonl" for key in wanted if not (scores / f"{key}.json").is_file())
    part.write_text("")
    assert clean(run.root / "runs", True, Quiet()) == clean(run.root / "runs", False, Quiet()) == []
    part.unlink()


def test_clean_leaves_scores_while_they_are_made_or_are_of_other_students(done: tuple[Run, Quiet]) -> None:
    run, _ = done
    orphan = run.cache / "scores" / f"{'0' * 32}.part.jsonl"
    orphan.write_text("")
    with locked(run.folder / "eval", "eval"):
        assert clean(run.root / "runs", False, Quiet()) == []
    again = run.root / "runs/again"
    shutil.copytree(run.folder, again)
    path = again / "train/cells.json"
    cells = json.loads(path.read_text())
    cells["cells"][-1]["key"] = "1" * 64  # trained anew, and evaluated before
    path.write_text(json.dumps(cells))
    terminal = Quiet()
    assert clean(run.root / "runs", False, terminal) == []
    assert "again may still need them" in terminal.said[0]
    shutil.rmtree(again)
    assert clean(run.root / "runs", True, Quiet()) == [orphan]
    orphan.unlink()


def test_a_dry_clean_makes_nothing(done: tuple[Run, Quiet]) -> None:
    run, _ = done
    for folder in run.cache.glob("training"):
        shutil.rmtree(folder)
    before = set(run.root.rglob("*"))
    clean(run.root / "runs", True, Quiet())
    assert set(run.root.rglob("*")) == before


def test_bless_then_check_passes(done: tuple[Run, Quiet]) -> None:
    run, _ = done
    bless(run, Quiet())
    assert check(run, Quiet()) == 0
    assert (run.root / "runs" / "shop.baseline.json").stat().st_size < 20_000


def test_ask_answers_side_by_side(done: tuple[Run, Quiet]) -> None:
    run, _ = done
    terminal = Quiet()
    ask(run, "where is my parcel\x1b[31m", OPENERS, terminal)
    assert sum("likeliest" in said for said in terminal.said) == 5
    chosen = {card.choice.way.words for card in load_results(run.folder).cards if card.choice is not None}
    asked = [said.partition("(asked as ")[2].rstrip(")") for said in terminal.said if "(asked as " in said]
    assert len(asked) == 2, "the untuned model under each prompting"
    assert set(asked) == chosen


def test_a_suite_that_cannot_run_is_named_and_tried_again(
    done: tuple[Run, Quiet], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = done
    monkeypatch.delenv("HARNESS_BENCHMARKS", raising=False)
    (run.root / "suites/arc.yaml").write_text("kind: benchmark\nbenchmark: arc_challenge\nlimit: 5\n")
    settings = ["eval.suites=[shop, arc]"]
    terminal = Quiet()
    result = evaluate(load_run(run.root / "runs/shop.yaml", settings), OPENERS, terminal, Stop())
    assert result is not None
    assert list(result.not_run) == ["arc"]
    assert any("the suite arc was not run" in said for said in terminal.said)
    report(load_run(run.root / "runs/shop.yaml", settings), terminal)
    assert "The suite arc was not run" in (run.folder / "eval" / "report.md").read_text()
    evaluate(run, OPENERS, terminal, Stop())
    report(run, terminal)


def test_an_engine_that_fails_makes_the_card_incomplete_and_is_scored_again(
    done: tuple[Run, Quiet], tmp_path: Path, tiny_model: Path
) -> None:
    run = load_run(
        write_project(tmp_path, str(tiny_model)),
        ["train.sizes=[0]", "train.data=[filtered]", "ship=null", "eval.suites=[talk]"],
    )
    script = run.root / "prompts/shop/teacher.json"
    augment(run, Teachers(own="script@1"), lambda: ScriptedEngine.from_file(script), Quiet(), Stop())
    train(run, Quiet(), Stop())

    class Failing(TransformersEngine):
        def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
            for completion in super().generate(requests):
                yield completion.model_copy(update={"finish_reason": "error", "error": "the engine broke"})

    failing = Openers(lambda base, adapter: Failing(base, adapter, device="cpu"), WordEmbedder, no_judge)
    result = evaluate(run, failing, Quiet(), Stop())
    assert result is not None
    assert {card.failed for card in result.cards} == {3}
    again = evaluate(run, OPENERS, Quiet(), Stop())
    assert again is not None, "failed items are asked again"
    assert {card.failed for card in again.cards} == {0}


@pytest.fixture(scope="module")
def null(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Run:
    path = write_project(tmp_path_factory.mktemp("null"), str(tiny_model))
    settings = [
        "shuffle_labels=true",
        "train.sizes=[0, 6, 24]",
        "train.min_steps=60",
        "train.learning_rate=0.01",
        "ship.size=24",
        "eval.suites=[shop]",
    ]
    run = load_run(path, settings)
    loop(run)
    return run


def test_the_null_run_finds_nothing(null: Run) -> None:
    results = load_results(null.folder)
    found = headline(results, arms(results, "shop"), null.file.train.students[0], 0)
    assert isinstance(found, Headline)
    assert found.rival.difference.interval.low <= 0.0 <= found.rival.difference.interval.high
    assert found.verdict in ("no difference found", "inconclusive")
    text = (null.folder / "eval" / "report.md").read_text()
    assert not re.search(
        "(?i)more rows (help|hurt)|make more rows|tuning pays", text.replace("whether tuning pays", "")
    )
    assert "Null run" in text


MOMENTS = {  # stage -> what appears under runs/.cache when the process is killed, one kill each
    "augment": ("calls.sqlite",),
    "train": ("students/.*", "students/[!.]*"),
    "eval": ("scores/*.part.jsonl", "scores/*.json"),
}


@pytest.mark.slow
def test_kill_9_at_five_moments_then_the_same_command_finishes(tmp_path: Path, tiny_model: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for root in (whole, broken):
        write_project(root, str(tiny_model))
    for stage in ("augment", "train", "eval"):
        succeed(whole, stage, "shop")
    cache = broken / "runs/.cache"
    for stage, marks in MOMENTS.items():
        for mark in marks:
            had = set(cache.glob(mark))
            process = start(broken, stage, "shop")
            wait_for(lambda mark=mark, had=had: bool(set(cache.glob(mark)) - had), process)  # type: ignore[misc]
            os.kill(process.pid, signal.SIGKILL)
            assert finish(process)[0] == -signal.SIGKILL
        output = succeed(broken, stage, "shop")
        assert "Traceback" not in output
    for name in ("augment/train.jsonl", "augment/rejected.jsonl"):
        assert (whole / "runs/shop" / name).read_bytes() == (broken / "runs/shop" / name).read_bytes()
    names = [sorted(p.name for p in (root / "runs/.cache/students").iterdir()) for root in (whole, broken)]
    assert names[0] == names[1], "the same cells, and nothing half-made left behind"
    scores = [score_files(root) for root in (whole, broken)]
    assert scores[0] == scores[1]


def score_files(root: Path) -> dict[str, list[dict[str, float]]]:
    folder = root / "runs/shop/eval/scores"
    return {
        path.name: [Score.model_validate_json(line).values for line in path.read_text().splitlines()]
        for path in sorted(folder.iterdir())
    }


STOPPING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.slow
def test_a_signal_in_training_is_a_normal_way_to_stop(tmp_path: Path, tiny_model: Path) -> None:
    write_project(tmp_path, str(tiny_model))
    succeed(tmp_path, "augment", "shop")
    run_file = tmp_path / "runs/shop.yaml"
    run_file.write_text(run_file.read_text().replace("min_steps: 2", "min_steps: 4000"))
    for number in STOPPING:
        stopped(tmp_path, "train", number)
        assert not [p for p in (tmp_path / "runs/.cache/students").glob("*") if not (p / "cell.json").exists()]


@pytest.mark.slow
def test_a_signal_in_scoring_is_a_normal_way_to_stop(tmp_path: Path, tiny_model: Path) -> None:
    write_project(tmp_path, str(tiny_model))
    for stage in ("augment", "train"):
        succeed(tmp_path, stage, "shop")
    for number in STOPPING:
        stopped(tmp_path, "eval", number)
        shutil.rmtree(tmp_path / "runs/.cache/scores")
    succeed(tmp_path, "eval", "shop")


def stopped(root: Path, stage: str, number: signal.Signals) -> None:
    """Start a stage and send it a signal at its first line of progress."""
    process = start(root, stage, "shop")
    assert process.stdout is not None
    assert any(re.match(rf"{stage}: \d+/", line) for line in process.stdout), "it ended without a line of progress"
    process.send_signal(number)
    code, output = finish(process)
    assert code == 130, output
    assert f"go on with: make {stage} RUN=shop" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("committed", [5, 40, 70])
def test_kill_9_of_augment_beside_a_real_endpoint(tmp_path: Path, committed: int) -> None:
    """No committed call is asked again, at most those in flight are, and the rows are those of an unkilled run."""
    asked: dict[str, int] = {}
    rows = {}
    for name in ("whole", "broken"):
        endpoint = Endpoint(delay_s=0.02)
        with serving(endpoint):
            settings = {"model": "teacher", "engine": "openai", "base_url": endpoint.base_url, "concurrency": 4}
            write_project(tmp_path / name, "nobody/nothing", teacher=settings)
            if name == "broken":
                process = start(tmp_path / name, "augment", "shop")
                calls = tmp_path / name / "runs/.cache/calls.sqlite"
                wait_for(lambda path=calls: stored_calls(path) >= committed, process)  # type: ignore[misc]
                os.kill(process.pid, signal.SIGKILL)
                finish(process)
                assert not (tmp_path / name / "runs/shop/augment/manifest.json").exists()
            succeed(tmp_path / name, "augment", "shop")
            asked[name] = len(endpoint.posts)
        rows[name] = (tmp_path / name / "runs/shop/augment/train.jsonl").read_bytes()
    assert rows["whole"] == rows["broken"]
    # in flight: four at the endpoint, and what was answered but not yet committed
    assert asked["whole"] <= asked["broken"] <= asked["whole"] + 4 + 2 * COMMIT_EVERY


def stored_calls(path: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1)) as db:
            return int(db.execute("SELECT count(*) FROM calls").fetchone()[0])
    except sqlite3.Error:
        return 0
