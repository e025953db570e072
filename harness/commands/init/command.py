"""The story of `harness init`: read what a person has, decide, split, write. All files or none."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.commands.init.columns import Undecided, choose_columns
from harness.commands.init.documents import decide_documents, document_files
from harness.commands.init.examples import read_known
from harness.commands.init.files import DEFAULT_TEACHER, all_files, power_words
from harness.commands.init.plan import Plan, Wishes, decide
from harness.commands.init.source import LARGE, existing, holds_documents, read_table
from harness.config.inputs import named_files
from harness.config.load import load_run
from harness.core.store import made_folders, remove_empty, write_atomic
from harness.core.terminal import Terminal
from harness.core.text import one_line
from harness.errors import UsageError
from harness.models.resolve import impossible, possible
from harness.suites.kinds import load_suite

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Options:
    """Which columns and groups a person named, beside what the run is to be (`Wishes`)."""

    path: Path
    texts: tuple[str, ...] = ()
    answer: str | None = None
    label: str | None = None
    group: str | None = None
    dry_run: bool = False
    ask: Callable[[Sequence[str]], tuple[str, str, bool]] | None = None  # for input, answer, and whether it is a label


def check_name(name: str) -> None:
    """Raises UsageError for a name that is no file's name."""
    if not NAME.fullmatch(name):
        raise UsageError(f"NAME {name!r}: letters, digits, _ and -, 64 at most: it names runs/NAME.yaml and its folder")


def check_models(wishes: Wishes, root: Path) -> None:
    """Raises UsageError for a student or a teacher that cannot be."""
    named = [("--student", wishes.student), *([("--teacher", wishes.teacher)] if wishes.teacher else [])]
    for flag, model in named:
        if not possible(model, root) and not (flag == "--teacher" and wishes.base_url):
            raise UsageError(f"{flag}: {impossible(model)}")
    if wishes.base_url and not wishes.teacher:
        raise UsageError(f"--base-url {wishes.base_url}: name the model that answers there with --teacher")


def init(wishes: Wishes, options: Options, root: Path, terminal: Terminal) -> None:
    """Write task, prompts, seeds, rows, a suite and a run for a file of examples, and say what was decided.

    Raises UsageError for a request or file that is wrong, and for files that are there already with other contents.
    """
    check_name(wishes.name)
    check_models(wishes, root)
    path = existing(options.path)
    also, files = (from_documents if holds_documents(path) else from_table)(wishes, options, path, root, terminal)
    try_loading(wishes.name, files, root, also)
    write(files, root, options.dry_run, terminal)


def from_table(
    wishes: Wishes, options: Options, path: Path, root: Path, terminal: Terminal
) -> tuple[tuple[str, ...], dict[str, str]]:
    """(further suites, files) of a table of examples. Says what was decided."""
    remarks: list[str] = []
    if (size := path.stat().st_size) > LARGE:
        terminal.say(f"reading {one_line(path.name)}, {size / 1e6:.0f} MB")
    table = read_table(path)
    place = one_line(table.name)
    try:
        columns = choose_columns(table, options.texts, options.answer, options.label, place)
    except Undecided:
        if options.ask is None:
            raise
        text, answer, is_label = options.ask(table.columns)
        columns = choose_columns(table, (text,), None if is_label else answer, answer if is_label else None, place)
    if options.group and options.group not in table.columns:
        listed = ", ".join(table.columns)
        raise UsageError(f"--group {options.group}: no such column; the columns of {place} are: {listed}")
    if table.total > len(table.rows):
        remarks.append(f"{table.total:,} rows, of which {len(table.rows):,} are taken, by digest")
    examples = read_known(table, columns, options.group, remarks.append, place)
    plan = decide(wishes, examples, columns, root, remarks.append)
    unused = [name for name in columns.unused if name != options.group]
    why = columns.why + (f"; left alone: {', '.join(map(repr, unused))}" if unused else "")
    origin = f"{place} (sha256 {table.digest})"
    for line in (f"{place}: {table.total:,} rows. {why}", *remarks, *decisions(plan)):
        terminal.say(line)
    return plan.also, all_files(plan, origin, remarks, why)


def from_documents(
    wishes: Wishes, options: Options, path: Path, root: Path, terminal: Terminal
) -> tuple[tuple[str, ...], dict[str, str]]:
    """(further suites, files) of documents. Says what was decided."""
    for flag, given in (("--text", options.texts), ("--answer", options.answer), ("--label", options.label)):
        if given:
            raise UsageError(f"{flag}: {path} holds documents, which have no columns")
    if options.group:
        raise UsageError(f"--group: {path} holds documents: pieces of one file, or one section, stay together anyhow")
    remarks: list[str] = []
    plan = decide_documents(wishes, path, root, remarks)
    origin = one_line(path.resolve().name)
    tests = sum(item.split == "test" for item in plan.items)
    for line in (
        f"{origin}: documents. {len(plan.pieces)} pieces are for a teacher to ask about, {plan.held} are held out",
        *remarks,
        f"{len(plan.items)} items, gaps to fill from a held-out piece, are the suite. {power_words(tests)}",
        f"sizes {', '.join(map(str, plan.sizes))} of {wishes.student}",
    ):
        terminal.say(line)
    return plan.also, document_files(plan, origin, remarks)


def decisions(plan: Plan) -> list[str]:
    """What was decided, and why, for people."""
    power, who = power_words(plan.tests, plan.primary), plan.wishes.teacher or DEFAULT_TEACHER
    lost = len(plan.rows) - plan.kept
    dropped = f", {lost} fewer after the filters" if lost else ""
    kinds = {
        "labels": f"answers are {'letters of choices' if plan.choices else 'labels'}, {len(plan.task.labels)} of them:"
        " scored by accuracy",
        "number": "answers are numbers: scored by the last number that is written",
        "text": f"answers are free: scored by {plan.primary}, which suits their length",
    }
    sources = {
        "own": f"{len(plan.rows)} rows are yours to tune on{dropped}; no teacher is needed",
        "own and teacher": f"{len(plan.rows)} rows are yours to tune on, and the teacher, {who}, writes as many again",
        "teacher": f"{len(plan.seeds)} rows are few: they are seeds, and a teacher, {who}, writes more",
    }
    dev = len(plan.items) - plan.tests
    meanings = f"say what each label means in prompts/{plan.wishes.name}/task.yaml: untuned models and teachers read it"
    return [
        kinds[plan.scored],
        *([meanings] if plan.scored == "labels" and not plan.choices else []),
        f"{len(plan.items)} items are held out: {plan.tests} for claims (test), {dev} for choosing (dev). {power}",
        sources[plan.source],
        f"sizes {', '.join(map(str, plan.sizes))} of {plan.wishes.student}",
    ]


def try_loading(name: str, files: Mapping[str, str], root: Path, also: Sequence[str]) -> None:
    """Load the run as augment will, in a folder of its own: nothing is written that could not be run.

    Raises UsageError for what the loading refuses.
    """
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder).resolve()
        for path, content in files.items():
            (trial / path).parent.mkdir(parents=True, exist_ok=True)
            (trial / path).write_text(content, encoding="utf-8")
        for suite in also:
            named = [path for _, path in named_files(load_suite(root / f"suites/{suite}.yaml", root, None).spec, root)]
            for file in (root / f"suites/{suite}.yaml", *named):
                copy = trial / file.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        try:
            load_run(trial / f"runs/{name}.yaml")
        except UsageError as error:
            raise UsageError(str(error).replace(f"{trial}/", "")) from error


def write(files: Mapping[str, str], root: Path, dry_run: bool, terminal: Terminal) -> None:
    """Write all files or none. Raises UsageError naming those that are there with other contents."""
    there = {path for path in files if (root / path).exists()}
    equal = {path for path in there if (root / path).is_file() and _content(root / path) == files[path]}
    if other := sorted(there - equal):
        raise UsageError(
            f"{', '.join(other)}: there already, with other contents, and nothing is overwritten: take another NAME, or"
            " remove them"
        )
    written: list[Path] = []
    folders: list[Path] = []
    try:
        for path, content in files.items():
            state = "is there already, equal" if path in equal else "would be written" if dry_run else "written"
            terminal.say(f"  {path}  {len(content.encode()):,} bytes, {state}")
            if path not in equal and not dry_run:
                folders = [*made_folders((root / path).parent), *folders]
                written.append(root / path)
                write_atomic(root / path, content)
    except BaseException:
        for file in written:
            file.unlink(missing_ok=True)
        remove_empty(folders)
        raise


def _content(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def next_commands(name: str, root: Path, dry_run: bool) -> str:
    """What to type next."""
    if dry_run:
        return "nothing was written (--dry-run)"
    makefile = root / "Makefile"
    make = makefile.is_file() and "\ntrain:" in makefile.read_text(encoding="utf-8", errors="replace")
    run, first = f"make augment train eval RUN={name}", f"make augment RUN={name} ARGS=--dry-run"
    if not make:
        run = " && ".join(f"harness {verb} {name}" for verb in ("augment", "train", "eval"))
        first = f"harness augment {name} --dry-run"
    return (
        f"next: {run}\n({first} says what it would send; train and eval have the same option)\n"
        f"then read runs/{name}/eval/report.html; the choices and their reasons stand in runs/{name}.yaml"
    )
