"""Rows a user already has: what the guide says is enough, in every format, and what is wrong is said at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from harness.augment.current import kept_rows
from harness.config.load import load_run
from harness.errors import UsageError
from harness.eval.prompting import shots_from
from tests.process import harness, succeed
from tests.project import rows_given, rows_of_seeds

ROOT = Path(__file__).parent.parent
STUDENT = "smollm2-135m-instruct"
PAGE = (ROOT / "docs/rows.md").read_text()
SECTION = PAGE.split("### Rows you already have, and no teacher\n")[1].split("\nFilters stand under")[0]
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", SECTION, re.DOTALL)


def newcomer(root: Path, student: str = "nobody", rows: int = 120) -> Path:
    """The four files that the guide names, as it prints them, with rows of its form; returns the run file."""
    named = json.loads(next(text for kind, text in BLOCKS if kind == "json"))
    for text in (text for kind, text in BLOCKS if kind == "yaml"):
        path = root / text.split("\n")[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(STUDENT, student))
    question, answer = named
    lines = [{question: f"What is {i} and {i + 1}?", answer: f"It is {2 * i + 1}."} for i in range(rows + 12)]
    run = yaml.safe_load((root / "runs/mine.yaml").read_text())
    suite = yaml.safe_load((root / "suites/mine.yaml").read_text())
    for path, part in ((run["augment"]["rows_file"], lines[:rows]), (suite["items"], lines[rows:])):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text("".join(json.dumps(line) + "\n" for line in part))
    return root / "runs/mine.yaml"


def test_the_readme_is_enough(tmp_path: Path) -> None:
    run = load_run(newcomer(tmp_path))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4
    assert (run.seeds, run.file.teacher, run.file.train.data_names) == ((), None, ["filtered"])
    assert len(rows_given(run)) == 120
    assert rows_of_seeds(run) == ()
    row = rows_given(run)[0]
    assert [message.content for message in row.messages[1:]] == ["What is 0 and 1?", "It is 1."]
    assert run.task.system == row.messages[0].content


def test_its_commands_run_before_anything_is_spent(tmp_path: Path, tiny_model: Path) -> None:
    newcomer(tmp_path, str(tiny_model))
    assert "120 rows are read from data/pairs.jsonl" in succeed(tmp_path, "augment", "mine", "--dry-run")
    assert ".filtered.100.s0" in succeed(tmp_path, "train", "mine", "--dry-run")
    assert "120" in succeed(tmp_path, "augment", "mine")
    assert "to do" in succeed(tmp_path, "train", "mine", "--dry-run")
    run = load_run(tmp_path / "runs/mine.yaml")
    shots = shots_from(run.seeds, kept_rows(run), 0, (), 4).pool
    items = {json.loads(line)["question"] for line in (tmp_path / "data/questions.jsonl").read_text().splitlines()}
    assert len(shots) == 64
    assert not {shot.text for shot in shots} & items


@pytest.mark.slow
def test_its_verbs_make_a_report(tmp_path: Path, tiny_model: Path) -> None:
    newcomer(tmp_path, str(tiny_model))
    verbs = next(text for kind, text in BLOCKS if not kind).split()
    assert (verbs[0], verbs[-1]) == ("make", "RUN=mine")
    for verb in verbs[1:-1]:
        succeed(tmp_path, verb, "mine")
    report = (tmp_path / "runs/mine/eval/report.md").read_text()
    assert "100 rows (filtered)" in report
    assert "few-shot" in report
    said = succeed(tmp_path, "ask", "mine", "What is 3 and 4?", "--student", "filtered.32")
    assert ".filtered.32.s0" in said
    assert ".filtered.100.s0" not in said


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_columns_are_mapped_in_every_format(tmp_path: Path, ending: str) -> None:
    import pyarrow as pa
    from pyarrow import csv, parquet

    path = newcomer(tmp_path)
    rows = [{"id": i, "Prompt": f"How is {i}?", "Reply": f" fine, {i} "} for i in range(120)]
    file = tmp_path / f"data/mine.{ending}"
    if ending == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        write = csv.write_csv if ending == "csv" else parquet.write_table
        write(pa.Table.from_pylist(rows), file)
    for named in ("text", "question"):
        mapped = f"augment.rows_file={{path: data/mine.{ending}, fields: {{{named}: Prompt, answer: Reply}}}}"
        found = rows_given(load_run(path, [mapped]))
        assert [(row.text, row.answer) for row in found] == [(r["Prompt"], str(r["Reply"]).strip()) for r in rows]
    with pytest.raises(UsageError, match=rf"2?: text: .*\{{path: data/mine.{ending}, fields: \{{text: COLUMN\}}\}}"):
        rows_given(load_run(path, [f"augment.rows_file=data/mine.{ending}"]))


def test_labels_need_no_template_either(tmp_path: Path) -> None:
    path = newcomer(tmp_path)
    (tmp_path / "data/pairs.jsonl").write_text('{"text": "where is it", "label": "delivery"}\n' * 3)
    items = [{"text": f"how much is {i}", "label": "billing"} for i in range(12)]
    (tmp_path / "data/questions.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "suites/mine.yaml").write_text("kind: labels\nitems: data/questions.jsonl\n")
    run = load_run(path, ["task={system: Sort., labels: {delivery: where it is, billing: money}}"])
    shown = run.prompts.untuned.render(
        text="x?",
        labels=run.task.labels,
        turns=[],
        shots=[row.example.shown for row in rows_given(run)[:1]],
        system="Sort.",
    )
    assert shown == (
        "Sort.\ndelivery: where it is\nbilling: money\n\nText: where is it\nLabel: delivery\n\nText: x?\nLabel:"
    )


REFUSED = [
    ("train.data=[filtered, seeds_only]", "train.data ['filtered', 'seeds_only']: seeds_only needs augment.seeds"),
    ("augment.filters=[{kind: judge, template: a.j2}]", "seeds: this key is missing: the filter judge"),
    ("augment.rows_file=null", "give one of templates and steps (a teacher writes), or rows_file"),
    ("eval.compare=[teacher]", "teacher: this key is missing, and eval.compare needs one"),
    ("task={}", "task.system: this key is missing"),
    ("task={systm: x}", "task.systm: unknown key (did you mean 'system'?)"),
    ("task={system: x, prompt: a.j2}", "task.prompt: there is no file a.j2"),
    ("augment.rows_file={path: data/pairs.jsonl, field: {}}", "augment.rows_file.field: unknown key (did you mean"),
    ("augment.rows_file=data/pair.jsonl", "there is no file data/pair.jsonl (did you mean 'data/pairs.jsonl'?)"),
]


@pytest.mark.parametrize(("setting", "expected"), REFUSED, ids=[setting for setting, _ in REFUSED])
def test_what_cannot_be_left_out_is_named(tmp_path: Path, setting: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_run(newcomer(tmp_path), [setting])
    assert expected in str(caught.value)


def test_a_rubric_without_a_teacher_or_a_judge_is_refused(tmp_path: Path) -> None:
    path = newcomer(tmp_path)
    suite = tmp_path / "suites/mine.yaml"
    suite.write_text(suite.read_text() + "answer: {kind: rubric, rubric: 'Is it right?'}\n")
    with pytest.raises(UsageError, match=r"mine\.yaml: answer\.judge: "):
        load_run(path)


def test_more_rows_than_there_are_is_said_before_augment(tmp_path: Path, tiny_model: Path) -> None:
    newcomer(tmp_path, str(tiny_model), rows=40)
    done = harness(tmp_path, "train", "mine", "--dry-run")
    assert done.returncode == 2
    assert "train.sizes: 100 is larger than the 40 rows there are" in done.stderr
    mapped = "augment.rows_file={path: data/pairs.jsonl, fields: {text: question}}"
    done = harness(tmp_path, "train", "mine", "--dry-run", "--set", mapped)
    assert done.returncode == 2
    assert "or add rows to data/pairs.jsonl and augment again" in done.stderr


def test_all_broken_lines_are_named_and_the_same_mistake_once(tmp_path: Path) -> None:
    run = load_run(newcomer(tmp_path))
    lines = (tmp_path / "data/pairs.jsonl").read_text().splitlines()
    lines[3] = lines[9] = '{"question": "x"}'
    lines[7], lines[20] = "no json", '{"question": "z", "answer": NaN}'
    for place in range(40, 70):
        lines[place] = json.dumps({"question": f"q{place}", "answer": [place], f"more{place}": 1})
    (tmp_path / "data/pairs.jsonl").write_text("\n".join(lines))
    with pytest.raises(UsageError) as caught:
        rows_given(run)
    said = str(caught.value).splitlines()
    assert [re.search(r"jsonl:(\d+): (\w+)", line)[0] for line in said[:3]] == [  # type: ignore[index]
        "jsonl:4: answer", "jsonl:8: not", "jsonl:21: answer",
    ]  # fmt: skip
    assert said[0].endswith("(also at 10)")
    assert len(said) == 21
    assert said[-1] == "and 13 more"
