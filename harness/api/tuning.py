"""`tune`: from one file of examples to a tuned student, its scores, and those of what one would do without it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from harness.api.run import Run, argument, ours
from harness.commands.init.command import Options, init
from harness.commands.init.plan import Wishes
from harness.core.terminal import Stop, Terminal
from harness.errors import UsageError

FOLDER = "harness_runs"  # the project of those who have none
FLAG = re.compile(r"--(from|text|answer|label|group|student|teacher|base-url|items|sizes)\b")  # of `harness init`
PARAMETERS = {"from": "file", "base-url": "base_url"}  # what the others are called here, too


def tune(
    file: str | Path,
    *,
    student: str = "smollm2-135m-instruct",
    name: str | None = None,
    folder: str | Path | None = None,
    task: str | None = None,
    sizes: int | Sequence[int] = (),
    items: int | None = None,
    text: str | Sequence[str] = (),
    answer: str | None = None,
    label: str | None = None,
    group: str | None = None,
    teacher: str | None = None,
    base_url: str | None = None,
    quiet: bool = False,
    stop: Stop | None = None,
) -> Run:
    """Tune a student on a file of examples, and score it beside the untuned model. Returns the run.

    What `harness init NAME --from FILE` does, then augment, train and eval. Some of the examples are held out as
    questions. The same call again goes on where the last one ended, and does nothing that is done.

    `file`: CSV, JSON lines, Parquet, or a folder of documents. `student`: a bundled model, a local folder or a hub id.
    `name`: of the run, else the file's. `folder`: the project that it is a part of, else this folder where it has
    `runs/`, else `harness_runs` in it. `task`: what the student is to do, in a sentence. `sizes`: how many rows
    students see. `items`: how many examples are held out. `text`, `answer`, `label`, `group`: columns, where their
    names do not tell. `teacher`, `base_url`: who writes more rows, and where it answers. `quiet`: warnings alone are
    printed. `stop`: another thread's way to stop the work.

    Raises UsageError for a wrong file or request, MachineError where the machine or a service failed, and Interrupted
    after Ctrl-C, when what was finished is kept.
    """
    for parameter, value, kind, wanted in (
        ("file", file, str | Path, "the path of a file or folder"),
        ("student", student, str, "the name of a model"),
        ("name", name, str | None, "a text"),
        ("folder", folder, str | Path | None, "the path of a folder"),
        ("task", task, str | None, "a sentence"),
        ("sizes", sizes, int | range | Sequence[int], "a number of rows, or several"),
        ("items", items, int | None, "a number of examples"),
        ("text", text, str | Sequence[str], "the name of a column, or several"),
        ("answer", answer, str | None, "the name of a column"),
        ("label", label, str | None, "the name of a column"),
        ("group", group, str | None, "the name of a column"),
        ("teacher", teacher, str | None, "the name of a model"),
        ("base_url", base_url, str | None, "the address of an endpoint"),
        ("stop", stop, Stop | None, "a harness Stop"),
    ):
        argument(parameter, value, kind, wanted)
    path = Path(file)
    root = _project(folder)
    named = name if name is not None else _name_of(path)
    models = _seen_from(root, student), teacher and _seen_from(root, teacher)
    columns = (text,) if isinstance(text, str) else tuple(text)
    with ours():
        try:
            several = (sizes,) if isinstance(sizes, int) else tuple(sizes)
            wishes = Wishes(named, task, *models, base_url, items, several)
            init(wishes, Options(path, columns, answer, label, group), root, Terminal(silent=quiet))
        except UsageError as error:
            raise UsageError(_in_python(str(error), root / f"runs/{named}.yaml")) from None
    run = Run.load(root / f"runs/{named}.yaml", quiet=quiet)
    return run.augment(stop=stop).train(stop=stop).eval(stop=stop)


def _project(folder: str | Path | None) -> Path:
    """Where the run's files are."""
    if folder is not None:
        return Path(folder).absolute()
    here = Path.cwd()
    return here if (here / "runs").is_dir() else here / FOLDER


def _seen_from(root: Path, model: str) -> str:
    """A model's name. A folder here is named by its whole path where the project is elsewhere."""
    return str(Path(model).absolute()) if root != Path.cwd() and Path(model).is_dir() else model


def _name_of(path: Path) -> str:
    """A run's name after a file's."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", path.resolve().stem).strip("_-")[:64] or "run"


def _in_python(message: str, path: Path) -> str:
    """What `harness init` says, by the names of parameters."""
    said = FLAG.sub(lambda flag: PARAMETERS.get(flag[1], flag[1]), message)
    if path.is_file() and "there already, with other contents" in message:
        said += f". Run.load({str(path)!r}) goes on with what is there"
    return said
