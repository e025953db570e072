"""The Python API: the same experiment as the command line's, with exceptions of ours and results a notebook shows."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import harness
from harness import Interrupted, MachineError, Run, Stop, UsageError, tune
from harness.api import Answers, Report, Table
from harness.commands.ask import Answer
from harness.core import terminal
from tests.process import ROOT, environment, succeed
from tests.project import write_project
from tests.stored import Stored, rate

NOTHING = "nothing to do"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The run file of a project whose rows the API made, whose students the command line trained, and API scores."""
    return write_project(tmp_path_factory.mktemp("api"), str(tiny_model))


@pytest.fixture(scope="module")
def scored(project: Path) -> Run:
    run = Run.load(project).augment()
    said = succeed(project.parent.parent, "train", "shop")
    assert "train: 3 of" not in said
    return run.eval()


def test_what_one_has_begun_the_other_goes_on_with(scored: Run, capsys: pytest.CaptureFixture[str]) -> None:
    root = scored.folder.parent.parent
    for verb in ("augment", "train", "eval"):
        assert f"{verb}: {NOTHING}" in succeed(root, verb, "shop")
    scored.augment().train().eval()
    assert capsys.readouterr().out.count(NOTHING) == 3


def test_a_scored_run_is_its_headline(scored: Run) -> None:
    assert repr(scored) == str(scored.headline)
    assert scored.headline is scored.headline, "it is worked out once for the same scores"
    assert "filtered)" in repr(scored)
    assert [words.split("?")[0] for words in scored.headline.above[-3:]] == [
        "Does tuning pay",
        "Do more rows pay",
        "What did tuning break",
    ]
    assert [head.split(":")[0] for head in scored.headline.heads] == ["candidate", "shop", "talk", "facts"]
    assert "<table>" in scored._repr_html_()


def test_what_is_stored_comes_as_frames(scored: Run) -> None:
    rows, dropped, scores, answers = scored.rows, scored.dropped, scored.scores, scored.answers
    assert list(rows.columns[:2]) == ["text", "label"]
    assert len(rows) == 30
    assert len(dropped) == 30
    assert set(rows["row_source"]) == {"teacher"}
    assert dropped["dropped_why"].str.len().min() > 0
    assert {"shop", "talk", "facts"} == set(scores["suite"])
    accuracy = scores[(scores["suite"] == "facts") & (scores["metric"] == "accuracy")]
    assert accuracy["value"].between(0, 1).all()
    facts = answers[answers["suite"] == "facts"]
    assert set(facts["question"]) == {f"Which is {n}?" for n in range(6)}
    first = accuracy.iloc[0]
    of_first = facts[(facts["student"] == first["student"]) & (facts["prompting"] == first["prompting"])]
    of_first = of_first[of_first["split"] == "test"]
    assert len(of_first) == first["test_items"]
    assert of_first["accuracy"].mean() == pytest.approx(first["value"])
    messages = scored.dataset[0]["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    assert scored.dataset.column_names == ["messages"]


def test_asking_and_comparing(scored: Run) -> None:
    answers = scored.ask("the box I waited for", "filtered.4")
    assert [answer.student.endswith("filtered.4.s0") for answer in answers] == [True]
    assert answers[0].likeliest in ("parcel", "invoice", "account")
    assert len(scored.ask("the box I waited for")) > 3
    compared = scored.compare()
    assert compared.rows == scored.compare("shop:filtered.12", "shop:base").rows
    assert compared.above[0] == "A: shop:base (" + scored.compare("filtered.4").above[0].split("(")[1]
    assert {row[0] for row in compared.rows} == {"shop", "talk", "facts"}


def test_a_report_is_read_and_written_where_it_is_missing(scored: Run) -> None:
    report = scored.report
    assert str(report) == (scored.folder / "eval/report.md").read_text()
    assert "data:image/png;base64," in report._repr_html_()
    assert "<title>" in report.page.read_text()
    (scored.folder / "eval/report.md").unlink()
    assert str(scored.report) == str(report)


@pytest.mark.parametrize("sizes", [4, (), (4, 8), [4, 8], range(4, 8)])
def test_sizes_may_be_written_as_any_numbers(sizes: int | Sequence[int], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nosuch"):  # and not the sizes
        tune(tmp_path / "nosuch.jsonl", sizes=sizes, folder=tmp_path)


def test_settings_are_those_of_the_command_line(project: Path) -> None:
    run = Run.load(project, {"train.epochs": 3, "eval.suites": ["shop"]})
    assert run._load().file.train.epochs == 3
    assert run._load().file.eval.suites == ("shop",)
    assert Run.load(project, ["train.epochs=3"])._load().file.train.epochs == 3


def test_a_file_that_was_changed_is_read_again(tmp_path: Path) -> None:
    path = write_project(tmp_path, "smollm2-135m-instruct")
    run = Run.load(path)
    path.write_text(path.read_text().replace("rows: 24", "rows: 20"))
    assert run._load().file.augment.rows == 20
    path.write_text(path.read_text() + "nosuch: 1\n")
    with pytest.raises(UsageError, match="nosuch"):
        run.augment()
    assert "nosuch" in repr(run), "showing a run raises nothing"


WRONG: dict[str, Callable[[Path], object]] = {
    "no such file": lambda path: Run.load("runs/nosuch.yaml"),
    "no such run": lambda path: Run.load("nosuch"),
    "no name": lambda path: Run.load(""),
    "no such key": lambda path: Run.load(path, {"train.epoch": 3}),
    "settings that are a text": lambda path: Run.load(path, "train.epochs=3"),
    "a value that no file can hold": lambda path: Run.load(path, {"train.epochs": object()}),
    "no such student": lambda path: Run.load(path, {"train.students": ["nobody"], "ship": None}).augment(),
    "not trained": lambda path: Run.load(path).eval(),
    "no rows": lambda path: Run.load(path).train(),
    "no rows to show": lambda path: Run.load(path).rows,
    "no scores": lambda path: Run.load(path).scores,
    "no headline": lambda path: Run.load(path).headline,
    "no report": lambda path: Run.load(path).report,
    "an empty question": lambda path: Run.load(path).ask(" "),
    "a question with another field": lambda path: Run.load(path).ask({"instruction": "x"}),
    "nothing to check": lambda path: Run.load(path).check(),
    "nothing to compare": lambda path: Run.load(path).compare("filtered.4"),
    "a table for a file": lambda path: tune([{"question": "a", "answer": "b"}]),  # type: ignore[arg-type]
    "no student": lambda path: tune("faq.jsonl", student=None),  # type: ignore[arg-type]
    "sizes as a text": lambda path: tune("faq.jsonl", sizes="4,8"),  # type: ignore[arg-type]
    "no sizes": lambda path: tune("faq.jsonl", sizes=None),  # type: ignore[arg-type]
    "items as a text": lambda path: tune("faq.jsonl", items="12"),  # type: ignore[arg-type]
    "half an item": lambda path: tune("faq.jsonl", items=12.5),  # type: ignore[arg-type]
    "a number for a task": lambda path: tune("faq.jsonl", task=3),  # type: ignore[arg-type]
    "a number for a question": lambda path: Run.load(path).ask(3),  # type: ignore[arg-type]
    "a list for a question": lambda path: Run.load(path).ask(["a"]),  # type: ignore[arg-type]
    "a number for a student": lambda path: Run.load(path).compare(3),  # type: ignore[arg-type]
    "no settings": lambda path: Run.load(path, None),  # type: ignore[arg-type]
    "settings of numbers": lambda path: Run.load(path, [3]),  # type: ignore[list-item]
    "a number that is none": lambda path: Run.load(path, {"train.learning_rate": float("nan")}),
    "a number for a path": lambda path: Run(3),  # type: ignore[arg-type]
    "a stop that is none": lambda path: tune("faq.jsonl", stop="x"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", WRONG)
def test_a_mistake_is_an_exception_of_ours(
    what: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_project(tmp_path, str(tiny_model))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as raised:
        WRONG[what](path)
    assert raised.value._render_traceback_() == [f"UsageError: {raised.value}"], "a notebook shows no traceback"


def test_what_the_machine_refuses_is_an_exception_of_ours(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (OSError(28, "No space left on device", "somewhere"), MemoryError()):

        def refuse(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("harness.verbs.augment", refuse)
        with pytest.raises(MachineError):
            Run.load(project).augment()


def test_ctrl_c_keeps_what_is_done_and_gives_the_handler_back(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.load(write_project(tmp_path, str(tiny_model))).augment()
    before = signal.getsignal(signal.SIGINT)
    seen: list[str] = []
    said = terminal.Terminal.say

    def interrupted(self: terminal.Terminal, text: str = "") -> None:
        if not seen:
            signal.raise_signal(signal.SIGINT)
        seen.append(text)
        said(self, text)

    monkeypatch.setattr(terminal.Terminal, "say", interrupted)
    with pytest.raises(Interrupted, match="make train RUN=shop"):
        run.train()
    assert signal.getsignal(signal.SIGINT) is before
    assert (run.folder / "train/cells.json").is_file()
    run.train()
    assert "filtered.12.s0" in seen[-1], "the same call goes on"


def test_the_second_ctrl_c_is_ours_too(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.verbs.train", impatient)
    with pytest.raises(Interrupted):
        Run.load(project).train()


def test_another_thread_works_and_is_stopped(tmp_path: Path, tiny_model: Path) -> None:
    run = Run.load(write_project(tmp_path, str(tiny_model)))
    stop, caught = Stop(), list[BaseException]()

    def work() -> None:
        try:
            run.augment().train(stop=stop)
        except BaseException as error:  # noqa: BLE001  # what a thread raises is lost otherwise
            caught.append(error)

    stop.request()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [type(error) for error in caught] == [Interrupted]
    assert len(run.rows) == 30
    caught.clear()
    again = threading.Thread(target=lambda: run.train())
    again.start()
    again.join()
    assert (run.folder / "train/cells.json").is_file()


def test_the_gate(gate: Stored) -> None:
    run = Run.load(gate.path)
    checked = run.check()
    assert (checked.verdict, checked.passed, checked.exit_code) == ("pass", True, 0)
    assert "shop" in str(checked)
    gate.store(rate(0.2, salt=1), key="worse")
    checked = run.check()
    assert (checked.verdict, checked.passed, checked.exit_code) == ("regressed", False, 1)


def test_foreign_words_are_no_html_and_drive_no_terminal(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\x1b[2J"
    shown: list[Table | Answers | Report] = [
        Table((evil,), ((evil,),), (evil,), (evil,)),
        Answers(evil, (Answer(evil, evil, evil), Answer("b", "b", "", error=evil), Answer("c", "c", "", evil, 0.5))),
        Report(tmp_path / "report.md", evil),
    ]
    for value in shown:
        assert "<script>" not in value._repr_html_()
        assert "&lt;script&gt;" in value._repr_html_()
    for table in shown[:2]:
        assert "\x1b" not in str(table)


def test_importing_harness_imports_nothing_of_it() -> None:
    code = "import sys, harness; assert not [m for m in sys.modules if m.startswith(('harness.', 'pydantic'))]"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), cwd=ROOT)


def test_the_public_names_are_there() -> None:
    assert {getattr(harness, name).__name__ for name in harness.__all__} == set(harness.__all__)
    assert set(harness.__all__) <= set(dir(harness))
    with pytest.raises(AttributeError, match="nosuch"):
        getattr(harness, "nosuch")  # noqa: B009
    assert (Path(harness.__file__).parent / "py.typed").is_file()


def faq(folder: Path, rows: int = 160) -> Path:
    """A file of questions and answers, of enough rows to need no teacher."""
    lines = [{"question": f"What is {i} and {i + 1}?", "answer": f"It is {2 * i + 1}."} for i in range(rows)]
    path = folder / "faq.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.slow
def test_the_lines_of_the_readme_run(tmp_path: Path, tiny_model: Path) -> None:
    section = (ROOT / "README.md").read_text().split("## From Python\n")[1].split("\n## ")[0]
    (first,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (second,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    faq(tmp_path)
    write_project(tmp_path / "harness_runs", str(tiny_model))
    (tmp_path / "harness_runs/runs/shop.yaml").rename(tmp_path / "harness_runs/runs/helpdesk.yaml")
    code = first.replace("smollm2-135m-instruct", str(tiny_model))
    code += "import os\nos.chdir('harness_runs')\n" + second
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "candidate" in done.stdout
    assert "B minus A" in done.stdout
    assert "How long may I keep a tool?" in done.stdout
    assert "\r" not in done.stderr, "no bars of libraries"


@pytest.mark.slow
def test_tune_goes_on_and_does_nothing_twice(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "tiny")
    path = faq(tmp_path, 60)
    run = tune(path, student="tiny", sizes=[4, 8], quiet=True)
    assert capsys.readouterr().out == ""
    assert run.folder == tmp_path / "harness_runs/runs/faq"
    assert sorted(set(run.scores["size"])) == [0, 4, 8]
    root = tmp_path / "harness_runs"
    for verb in ("augment", "train", "eval"):
        assert f"{verb}: {NOTHING}" in succeed(root, verb, "faq")
    tune(str(path), student="tiny", sizes=[4, 8])
    assert capsys.readouterr().out.count(NOTHING) == 3
    with pytest.raises(UsageError, match=r"Run\.load"):
        tune(path, student="tiny", sizes=[4])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"file": "nosuch.jsonl"}, "file nosuch.jsonl"),
        ({"student": "nobody/"}, "student"),
        ({"name": "a/b"}, "a/b"),
        ({"answer": "nosuch"}, "answer nosuch"),
        ({"sizes": [-1]}, "sizes -1"),
        ({"sizes": [0]}, "sizes 0"),
        ({"sizes": -1}, "sizes -1"),
        ({"items": 1000}, "items 1000"),
        ({"items": 0}, "items 0"),
        ({"base_url": "http://127.0.0.1:9/v1"}, "base_url http://127.0.0.1:9/v1"),
    ],
)
def test_a_wrong_call_of_tune_leaves_nothing(
    arguments: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faq(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as raised:
        tune(**({"file": "faq.jsonl"} | arguments))
    assert says in str(raised.value)
    assert "--" not in str(raised.value).replace("---", ""), "what is said has the names of parameters"
    assert [file.name for file in tmp_path.iterdir()] == ["faq.jsonl"]
