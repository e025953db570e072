"""`Run`: one experiment in Python. Its methods are the verbs of the command line, its properties what they stored."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from harness import verbs
from harness.api import frames
from harness.api.headline import headline_table
from harness.api.tables import Answers, Check, Report, Table
from harness.builders import openers
from harness.commands.ask import Question, answers, asked_candidates, question_of
from harness.config.load import load_run, run_path
from harness.config.run import Run as LoadedRun
from harness.core.environment import set_defaults
from harness.core.terminal import Stop, Terminal
from harness.errors import HarnessError, Interrupted, UsageError
from harness.eval.current import results_of
from harness.report.stage import stored_report

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame

Settings = Mapping[str, Any] | Sequence[str]  # {"train.epochs": 3}, or ["train.epochs=3"] as after --set


Value = TypeVar("Value")


class Run:
    """One experiment: the run file that a person wrote, and what was made of it.

    Every method and property reads the run file and the files it names as they are now, does what the command of its
    name does, and keeps everything in the same place: `Run.load("runs/helpdesk.yaml").augment()` in a notebook and
    `make train RUN=helpdesk` in a shell are one experiment.

    All of them raise `UsageError` for a request or file that is wrong, `MachineError` where the machine or a service
    failed, and `Interrupted` after Ctrl-C: what was finished is kept, and the same call goes on from there.
    """

    def __init__(self, path: str | Path, settings: Sequence[str] = (), *, quiet: bool = False) -> None:
        """`path`: the run file. `Run.load` takes a name as well, and reads the file at once."""
        self._path = Path(argument("path", path, str | Path, "the path of a run file")).absolute()
        self._settings = tuple(settings)
        self._quiet = quiet
        self._headline: tuple[str, Table] | None = None  # with the seal of the scores it is of

    @classmethod
    def load(cls, run: str | Path, settings: Settings = (), *, quiet: bool = False) -> Self:
        """The run of a file, `runs/NAME.yaml`, or of NAME in the folder `runs` here.

        `settings` override keys of the file, as `--set` does: `{"train.epochs": 3}`. `quiet`: warnings alone are
        printed. Raises UsageError naming file, line, key and value for whatever is wrong in the file or in what it
        names.
        """
        with ours():
            named = str(argument("run", run, str | Path, "a name, or the path of a run file"))
            loaded = cls(run_path(named), settings_words(settings), quiet=quiet)
            loaded._load()
        return loaded

    @property
    def name(self) -> str:
        """What the run is called."""
        return self._path.stem

    @property
    def folder(self) -> Path:
        """Where its results are: runs/NAME."""
        with ours():
            return self._load().folder

    # --- the verbs ----------------------------------------------------------------------------------------------

    def preview(self, rows: int = 8, *, stop: Stop | None = None) -> Self:
        """Make a few rows for real, print every step and verdict, and forecast the whole of augment."""
        with ours():
            verbs.preview(self._load(), self._terminal(), stop or Stop(), rows)
        return self

    def augment(self, *, stop: Stop | None = None) -> Self:
        """Have the teacher write rows, filter them, print the funnel. Own rows are filtered alike.

        `stop`: another thread's way to stop the work, by `stop.request()`. Ctrl-C needs none.
        """
        with ours():
            verbs.augment(self._load(), self._terminal(), stop or Stop())
        return self

    def train(self, *, stop: Stop | None = None) -> Self:
        """Tune one adapter per student, kind of data, size and random seed. `stop` as in `augment`."""
        from harness.train.processes import ALONE

        with ours():
            verbs.train(self._load(), self._terminal(), stop or Stop(), ALONE)
        return self

    def eval(self, *, stop: Stop | None = None) -> Self:
        """Score every student, its base and the other candidates on every suite, then write the report.

        The run then shows its headline, and `report` is all of it. `stop` as in `augment`.
        """
        with ours():
            run, terminal = self._load(), self._terminal()
            verbs.score(run, terminal, stop or Stop())
            verbs.report(run, Terminal(silent=True))
            terminal.say(f"report: {stored_report(run)}")
        return self

    def bless(self) -> Path:
        """Store the ship student's scores as the baseline that `check` compares with. Returns its file, for git."""
        from harness.check.bless import bless

        with ours():
            return bless(self._load(), self._terminal())

    def check(self, *, common: bool = False) -> Check:
        """Compare the ship student with the blessed baseline.

        `common`: where a suite changed, compare on the items that both have.
        """
        from harness.check import formats, rules
        from harness.check.stage import decisions_of

        with ours():
            baseline, student, decisions = decisions_of(self._load(), common, self._terminal())
        verdict, code = rules.overall(decisions), formats.exit_code(decisions)
        above = (f"{self.name}: {student} against the baseline, {baseline.student}: {verdict}",)
        below = tuple(f"{d.rule.suite} {d.rule.metric} {d.limit}: {d.note}" for d in decisions if d.note)
        rows = tuple(formats.row(decision) for decision in decisions)
        return Check(formats.HEADS, rows, above, below, verdict, code)

    # --- asking and comparing -----------------------------------------------------------------------------------

    def ask(self, question: Question, student: str | None = None) -> Answers:
        """What the untuned models and every student answer. `student`: one of them; a part of its name will do.

        `question`: a text, or of a task with several fields all of them: `{"instruction": ..., "input": ...}`.
        """
        with ours():
            argument(
                "question", question, str | Mapping[str, Any], "a text, or a mapping of texts by the task's fields"
            )
            argument("student", student, str | None, "a part of a student's name")
            run = self._load()
            item = question_of(run.task, question)
            plan = asked_candidates(run, student)
            return Answers(item.text, tuple(answers(run, plan, item, openers(run))))

    def compare(self, student: str | None = None, other: str = "base", *, common: bool = False) -> Table:
        """How a student differs from another one on every suite: paired, with intervals.

        `student`: the one that `ship` names, or a part of a name, as `filtered.64`. `other`: what it is held against,
        as `base`, `base@few_shot`, or a student of another run beside this one, as RUN:STUDENT. `common`: where a
        suite changed, compare on the items that both have.
        """
        from harness.check.compare import DETECTABLE, HEADS, compared

        def load(name: str) -> LoadedRun:
            return self._load() if name == self.name else load_run(self._path.parent / f"{name}.yaml")

        def full(name: str) -> str:
            return name if ":" in name else f"{self.name}:{name}"

        with ours():
            argument("student", student, str | None, "a part of a student's name")
            argument("other", other, str, "a part of a student's name, or RUN:STUDENT")
            b = full(student) if student is not None else self.name
            found = compared(full(other), b, load, common, self._terminal())
        above = (f"A: {found.a}", f"B: {found.b}", f"question: {found.question}")
        return Table(HEADS, found.rows, above, (DETECTABLE,))

    # --- what is stored -----------------------------------------------------------------------------------------

    @property
    def rows(self) -> DataFrame:
        """The rows that augment kept: the task's fields, the answer, and where each row came from."""
        with ours():
            return frames.rows_frame(self._load())

    @property
    def dropped(self) -> DataFrame:
        """The rows that filters dropped: the same, with the filter that dropped each and why."""
        with ours():
            return frames.dropped_frame(self._load())

    @property
    def dataset(self) -> Dataset:
        """The kept rows as a dataset of `messages`, as students read them and as TRL takes them."""
        with ours():
            return frames.messages_dataset(self._load())

    @property
    def scores(self) -> DataFrame:
        """Every metric of every candidate on every suite, over test items: one line each."""
        with ours():
            return frames.scores_frame(results_of(self._load()))

    @property
    def answers(self) -> DataFrame:
        """Every item that a candidate was asked, with its answer and its metrics: one line each."""
        with ours():
            run = self._load()
            return frames.answers_frame(run, results_of(run))

    @property
    def report(self) -> Report:
        """The report. Where there is none of the stored scores, it is written."""
        with ours():
            run = self._load()
            try:
                path = stored_report(run)
            except UsageError:
                verbs.report(run, Terminal(silent=True))
                path = stored_report(run)
            return Report(path, path.read_text(encoding="utf-8"))

    @property
    def headline(self) -> Table:
        """What the report says first, over a line for each candidate with its number on every suite."""
        with ours():
            run = self._load()
            results = results_of(run)
            if self._headline is None or self._headline[0] != results.manifest.seal:
                self._headline = (results.manifest.seal, headline_table(run))
        return self._headline[1]

    # --- how it is shown ----------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return str(self._shown())

    def _repr_html_(self) -> str:
        return self._shown()._repr_html_()

    def _shown(self) -> Table:
        """The headline, or what has been done so far."""
        try:
            folder = self.folder
            if (folder / "eval/scorecards.json").is_file():
                return self.headline
            done = [stage for stage in ("augment", "train") if (folder / stage / "manifest.json").is_file()]
        except HarnessError as error:
            return Table((), (), (f"run {self.name}: {error}",))
        return Table((), (), (f"run {self.name}: {' and '.join(done) or 'nothing'} done, not scored yet",))

    # ------------------------------------------------------------------------------------------------------------

    def _load(self) -> LoadedRun:
        return load_run(self._path, list(self._settings))

    def _terminal(self) -> Terminal:
        return Terminal(silent=self._quiet)


def settings_words(settings: Settings) -> list[str]:
    """Settings as words after `--set`. Raises UsageError for a value that no run file can hold."""
    if isinstance(settings, str):
        raise UsageError(f'settings: {settings!r}: write a mapping, such as {{"train.epochs": 3}}')
    if not isinstance(settings, Mapping):
        wanted = 'a mapping, such as {"train.epochs": 3}, or texts, such as ["train.epochs=3"]'
        return list(argument("settings", settings, Sequence[str], wanted))
    try:
        return [f"{key}={json.dumps(value, allow_nan=False)}" for key, value in settings.items()]
    except (TypeError, ValueError) as error:
        raise UsageError(f"settings: {error}: texts, finite numbers, lists and mappings of them") from error


def argument(name: str, value: Value, kind: Any, wanted: str) -> Value:
    """An argument as it is. Raises UsageError saying what is `wanted` where it is not of a kind, a type annotation."""
    try:
        TypeAdapter(kind, config=ConfigDict(strict=True, arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        raise UsageError(f"{name}: {value!r:.80}: {wanted} is wanted") from error
    return value


@contextmanager
def ours() -> Iterator[None]:
    """Turn whatever ends the work into an exception of ours."""
    try:
        with verbs.machine_errors():
            set_defaults()
            # bars of these libraries would fight ours; whoever calls us keeps their own
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
            warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's, in a notebook
            yield
    except KeyboardInterrupt as error:
        raise Interrupted("stopped at once; the same call goes on from what is stored") from error
