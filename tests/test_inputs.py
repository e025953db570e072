"""Every file that a run names, replaced after a stage has read it: later stages say which stage comes first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field

from harness.augment.current import dropped_rows, finished_rows, kept_rows
from harness.augment.stage import augment
from harness.check.bless import bless
from harness.check.stage import check
from harness.config.inputs import guarded_suites, identity, named_files, rows_source
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.record import Record
from harness.core.terminal import Stop
from harness.engines.scripted import ScriptedEngine
from harness.errors import UsageError
from harness.eval.current import results_of
from harness.models.teachers import Teachers
from harness.records import Score
from harness.suites.suite import Suite
from tests.fakes import Quiet
from tests.project import write_project
from tests.stored import SHIP, write_cards

ROWS_FIRST = "augment first"
ALL_FIRST = "make augment train eval"

# place of a file among those that a run names -> what train says of another content; what check and bless say
WANTED = {
    "run.task": (ROWS_FIRST, ALL_FIRST),
    "run.teacher.script": (ROWS_FIRST, ALL_FIRST),
    "run.augment.seeds": (ROWS_FIRST, ALL_FIRST),
    "run.augment.templates.0.path": (ROWS_FIRST, ALL_FIRST),
    "run.augment.filters.5.template": (ROWS_FIRST, ALL_FIRST),
    "run.augment.filters.6.file": (ROWS_FIRST, ALL_FIRST),
    "own.augment.rows_file": (ROWS_FIRST, ALL_FIRST),
    "task.prompt": (ROWS_FIRST, ALL_FIRST),
    "task.untuned_prompt": ("", ALL_FIRST),  # no row was made with it
    "shop.items": (ROWS_FIRST, ALL_FIRST),
    "talk.items": (ROWS_FIRST, ALL_FIRST),
    "talk.moderation": ("", ALL_FIRST),
    "talk.canaries": ("", ALL_FIRST),
    "facts.items": (ROWS_FIRST, ""),  # from here on suites without limits: a verdict does not rest on them
    "json.items": (ROWS_FIRST, ""),
    "json.answer.json_schema": ("", ""),
    "taught.items": (ROWS_FIRST, ""),
    "taught.documents": ("", ""),  # in which the answers stand: `suites --prove` reads them, no score does
}
OTHER: dict[
    str, Callable[[str], str]
] = {  # file ending -> the content, changed so that it still loads and says something else
    ".yaml": lambda text: text.replace("Sort messages", "Sort all messages"),
    ".j2": lambda text: "Another one. " + text,
    ".jsonl": lambda text: changed_line(text),
    ".json": lambda text: text.replace("again", "once more").replace("12", "13"),
    ".py": lambda text: text + "\n# another version\n",
    ".txt": lambda text: text + "nonsense\n",
}


def changed_line(text: str) -> str:
    """The same lines with other words in the first."""
    first, *rest = text.splitlines(keepends=True)
    line = json.loads(first)
    name = next(name for name in ("text", "question", "prompt", "canary") if name in line)
    line[name] = f"changed: {line[name]}"
    return json.dumps(line) + "\n" + "".join(rest)


def write_all(root: Path) -> Run:
    """A run that names a file of every kind there is."""
    path = write_project(root, "tiny", eval={"suites": ["shop", "talk", "facts", "json", "taught"]})
    (root / "prompts/shop/mine.py").write_text("def keep(row):\n    return True\n")
    (root / "suites/words.txt").write_text("darn\n")
    (root / "suites/secrets.jsonl").write_text('{"canary": "the blue horse eats at noon"}\n')
    talk = "kind: open_ended\nitems: suites/talk.jsonl\nmax_tokens: 8\n"
    (root / "suites/talk.yaml").write_text(
        f"{talk}moderation: suites/words.txt\ncanaries: suites/secrets.jsonl\nlimits: {{words: {{max: 100}}}}\n"
    )
    (root / "suites/documents.jsonl").write_text('{"text": "all of it"}\n')
    (root / "suites/schema.json").write_text('{"type": "object", "properties": {"n": {"maximum": 12}}}')
    for name, more in (
        ("json", {"kind": "answers", "answer": {"kind": "json", "json_schema": "suites/schema.json"}}),
        ("taught", {"kind": "facts", "documents": "suites/documents.jsonl"}),
    ):
        lines = [{"question": f"{name} {i}?", "answer": json.dumps({"n": i})} for i in range(12)]
        (root / f"suites/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (root / f"suites/{name}.yaml").write_text(yaml.safe_dump({"items": f"suites/{name}.jsonl", **more}))
    file = yaml.safe_load(path.read_text())
    file["augment"]["filters"].append({"kind": "python", "file": "prompts/shop/mine.py"})
    path.write_text(yaml.safe_dump(file))
    return load_run(path)


def own(root: Path) -> Run:
    """The same project with rows of its user's own."""
    seeds = (root / "prompts/shop/seeds.jsonl").read_text().replace('"text": "', '"text": "of my own: ')
    (root / "mine.jsonl").write_text(seeds)
    (root / "runs/own.yaml").write_text(
        "extends: shop.yaml\naugment: {rows_file: mine.jsonl, templates: [], filters: [{kind: duplicate}]}\n"
    )
    return load_run(root / "runs/own.yaml")


def files_of(run: Run) -> dict[str, Path]:
    """Every file that a run names, by where it is named: found by walking its models, whatever fields they have."""
    found = {f"run.{name}": path for name, path in named_files(run.file, run.root)}
    found |= {f"task.{name}": path for name, path in named_files(run.task, run.root)}
    for name in run.suites:
        spec = yaml.safe_load((run.root / f"suites/{name}.yaml").read_text())  # a schema is read when it is loaded
        found |= {f"{name}.{place}": path for place, path in named_files(spec, run.root, (), "")}
    return {name.replace("..", "."): path for name, path in found.items()}


def scores(suite: Suite) -> list[Score]:
    """All right, and on the test split: the talk has no other."""
    values = {"accuracy": 1.0, "words": 3.0}
    return [
        Score(item=item.id, split=item.split if suite.of_task else "test", status="scored", values=values)
        for item in suite.items
    ]


def make_rows(run: Run) -> None:
    script = run.root / "prompts/shop/teacher.json"
    augment(run, Teachers(own="script@1"), lambda: ScriptedEngine.from_file(script), Quiet(), Stop())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose rows are made and whose ship student is scored and blessed, with both runs."""
    root = tmp_path_factory.mktemp("all")
    for run in (write_all(root), own(root)):
        make_rows(run)
        gated = [run.suites["shop"], run.suites["talk"]]
        write_cards(run, [(suite, SHIP, scores(suite)) for suite in gated])
        bless(run, Quiet())
    return root


def test_the_table_holds_every_file_that_a_run_names(made: Path) -> None:
    there = set(files_of(load_run(made / "runs/shop.yaml")))
    there |= {
        f"own.{name.removeprefix('run.')}" for name in files_of(load_run(made / "runs/own.yaml")) if "rows_file" in name
    }
    assert there == set(WANTED)


@pytest.mark.parametrize("place", WANTED)
def test_a_file_that_was_replaced_is_noticed(made: Path, tmp_path: Path, place: str) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made, root)
    name = "own" if place.startswith("own.") else "shop"
    path = root / f"runs/{name}.yaml"
    kept_rows(load_run(path))
    assert check(load_run(path), Quiet()) == 0
    files = files_of(load_run(path))
    file = files[place.replace("own.", "run.")]
    text = file.read_text()
    file.write_text(OTHER[file.suffix](text))
    assert file.read_text() != text
    for_rows, for_verdict = WANTED[place]
    refused(for_rows, kept_rows, path)
    refused(for_rows, dropped_rows, path)
    refused(for_verdict, lambda run: check(run, Quiet()), path)
    refused(for_verdict, lambda run: bless(run, Quiet()), path)
    if for_rows:
        assert finished_rows(load_run(path), Teachers(own="script@1"))[0] is None, "augment does make them again"
        make_rows(load_run(path))
        kept_rows(load_run(path))
    file.write_text(text)
    if for_rows:
        make_rows(load_run(path))
    assert check(load_run(path), Quiet()) == 0, "and the old content is as good as ever"


def refused(wanted: str, act: Callable[[Run], object], path: Path) -> None:
    """`act` on the run says `wanted`, or works where nothing is wanted."""
    if not wanted:
        act(load_run(path))
        return
    with pytest.raises(UsageError, match=wanted):
        act(load_run(path))


@pytest.mark.parametrize("name", ["train.jsonl", "rejected.jsonl"])
def test_rows_that_were_edited_are_made_again(made: Path, tmp_path: Path, name: str) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made, root)
    run = load_run(root / "runs/shop.yaml")
    path = run.folder / "augment" / name
    before = path.read_text()
    path.write_text("".join(before.splitlines(keepends=True)[1:]))
    for read in (kept_rows, dropped_rows):
        with pytest.raises(UsageError, match=rf"{name} .*edited.*make augment RUN=shop"):
            read(run)
    make_rows(run)
    assert path.read_text() == before
    dropped_rows(run)


def test_a_suite_that_is_left_out_asks_for_nothing_and_a_new_one_does(made: Path) -> None:
    path = made / "runs/shop.yaml"
    kept_rows(load_run(path, ["eval.suites=[shop]"]))
    shutil.copy(made / "suites/facts.yaml", made / "suites/new.yaml")
    with pytest.raises(UsageError, match=r"made with other items of new .*augment first"):
        kept_rows(load_run(path, ["eval.suites=[shop, new]"]))
    unguarded = ["augment.filters=[{kind: duplicate}]", "eval.suites=[shop, new]"]
    loose = load_run(path, unguarded)
    assert guarded_suites(loose.file.augment.filters, loose.suites) == {}, "no filter reads the suites"


def test_what_a_teacher_costs_and_where_it_is_makes_no_other_rows(made: Path) -> None:
    path = made / "runs/shop.yaml"
    before = rows_source(load_run(path))
    same = ["teacher.prompt_price=1.5", "train.epochs=9", "eval.batch_tokens=64"]
    assert all(rows_source(load_run(path, [setting])) == before for setting in same)
    other = ["random_seed=1", "teacher.model=another", "augment.rows=25", "shuffle_labels=true"]
    assert len({before, *(rows_source(load_run(path, [setting])) for setting in other)}) == 1 + len(other)


def test_benchmark_rows_that_are_gone_are_no_reason_to_begin_again(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, rows = tmp_path / "copy", tmp_path / "rows"
    shutil.copytree(made, root)
    rows.mkdir()
    (rows / "ARC-Challenge_test.jsonl").write_text(
        '{"id": "1", "question": "Why?", "choices": {"text": ["so", "no"], "label": ["A", "B"]}, "answerKey": "A"}\n'
    )
    (root / "suites/arc.yaml").write_text("kind: benchmark\nbenchmark: arc_challenge\nlimit: 5\n")
    path, settings = root / "runs/shop.yaml", ["eval.suites=[shop, arc]"]
    monkeypatch.setenv("HARNESS_BENCHMARKS", str(rows))
    make_rows(load_run(path, settings))
    kept = (root / "runs/shop/augment/train.jsonl").stat().st_mtime_ns
    monkeypatch.delenv("HARNESS_BENCHMARKS")
    terminal, run = Quiet(), load_run(path, settings)
    assert augment(run, Teachers(own="script@1"), lambda: pytest.fail("nobody is asked"), terminal, Stop()) is None
    assert "the rows of arc are not at hand now" in terminal.text
    assert (root / "runs/shop/augment/train.jsonl").stat().st_mtime_ns == kept
    kept_rows(run)


class Small(Record):
    """A model as it was when its digest was pinned."""

    name: str
    size: int = 1


class Grown(Record):
    """The same with a field more."""

    name: str
    size: int = 1
    colour: Annotated[str, Field(min_length=1)] = "blue"
    inner: Small | None = None


def test_a_new_field_at_its_default_changes_no_digest(tmp_path: Path) -> None:
    small, grown = Small(name="x", size=2), Grown(name="x", size=2)
    assert identity(small, tmp_path) == identity(grown, tmp_path) == {"name": "x", "size": 2}
    assert identity(grown.model_copy(update={"colour": "red"}), tmp_path) == {"name": "x", "size": 2, "colour": "red"}


def test_a_file_counts_by_its_content_wherever_it_lies(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("the same")
    digests = [identity(Small(name=name), tmp_path) for name in ("a.txt", "b.txt", "no such file")]
    assert digests[0] == digests[1] != digests[2]
    long: list[Any] = [identity(text, tmp_path) for text in ("x" * 5000, "a\0b", "", "..")]
    assert long == ["x" * 5000, "a\0b", "", ".."]


def test_results_need_their_settings(made: Path) -> None:
    assert results_of(load_run(made / "runs/shop.yaml")).cards
