"""`harness export-student`: one trained student to hand out, as an adapter, merged or as GGUF, with its card.

A form that eval has not scored is scored again, and the limits of the suites say whether it is still that student.

The folder of a trained cell is shared by runs and sealed, so that a card with a run's scores stands in the export.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.augment.current import stored_funnel
from harness.check.exported import Rescore, ScoredAgain, scored_again
from harness.check.formats import HEADS, exit_code, row
from harness.check.rules import Verdict, overall
from harness.commands.card import unstated, written
from harness.commands.model_card import Form, ModelCard, model_card
from harness.commands.push import Hub, check_name, push, require_named
from harness.config.run import Run
from harness.config.ship import ship_cells
from harness.core.aligned import fitted
from harness.core.json_file import read_json
from harness.core.store import disk_errors, folder_atomic, write_atomic, write_json
from harness.core.terminal import Terminal
from harness.engines.vllm import max_lora_rank
from harness.errors import UsageError, nearest
from harness.eval.current import results_of
from harness.eval.results import CARDS, Results, resolve_student
from harness.models.files import RECORDS
from harness.models.resolve import BUNDLED, Model
from harness.models.write_gguf import TYPES as GGUF_TYPES
from harness.models.write_gguf import read_back, write_gguf
from harness.records import Cell
from harness.report.one_student import against_alternatives, best_on_dev, score_limits, scores_of
from harness.train.adapters import CONFIG
from harness.train.grid import GridCell, plan_training

DTYPES = ("auto", "float32", "float16", "bfloat16")
PROMPTS = 8  # of its own rows, on which a merged model is compared with base and adapter
THIS_FOLDER = "THIS_FOLDER"
MODELFILE = "Modelfile"
SAME: dict[Verdict, str] = {  # what the limits of the suites say of another form
    "pass": "this form scores like the student",
    "regressed": "this form is measurably worse than the student",
    "inconclusive": "the items cannot tell whether this form is still the student",
    "failed": "items of this form failed",
}
FORMS: dict[Form, str] = {"adapter": "as an adapter", "merged": "as a model of its own", "gguf": "as a GGUF file"}


@dataclass(frozen=True)
class Options:
    """What is exported, and to where."""

    student: str | None = None  # a part of its name; None: the one that `ship:` names, else the best on dev items
    merged: bool = False
    gguf: str = ""  # the kind of numbers of a GGUF file, or no such file
    dtype: str = "auto"  # of a merged model
    output: Path | None = None
    licence: str = ""
    languages: tuple[str, ...] = ()
    score: bool = True  # what eval has not scored: a merged or packed model
    repository: str = ""  # owner/name on the hub
    public: bool = False

    def __post_init__(self) -> None:
        if self.gguf and self.gguf not in GGUF_TYPES:
            raise UsageError(f"--gguf {self.gguf}{nearest(self.gguf, GGUF_TYPES)}; allowed: {', '.join(GGUF_TYPES)}")
        if self.gguf and (self.merged or self.dtype != "auto"):
            raise UsageError("--gguf is a form of its own: without --merged and --dtype")
        require_named(self.public, self.repository)
        if self.dtype not in DTYPES:
            raise UsageError(f"--dtype {self.dtype}: allowed: {', '.join(DTYPES)}")
        if self.dtype != "auto" and not self.merged:
            raise UsageError(f"--dtype {self.dtype} without --merged: an adapter is exported as it was trained")


@dataclass(frozen=True)
class Exported:
    """What was written, and whether it is still that student."""

    folder: Path
    again: ScoredAgain | None  # None where it was not scored again

    @property
    def exit_code(self) -> int:
        """As of `check`, by the limits of the suites. 0 where it was not scored again, or nothing limits it."""
        return exit_code(self.again.decisions) if self.again and self.again.decisions else 0


OpenForm = Callable[[Cell, Path], Rescore]  # a student's cell, the folder of a whole model -> what scores that model


def export_student(
    run: Run, options: Options, open_form: OpenForm, hub: Callable[[], Hub], terminal: Terminal
) -> Exported:
    """Write a student and its card into a folder, whole or not at all, and upload it where a repository is named.

    `open_form` loads what eval has not scored. `hub` opens the hub, before anything is written. What the limits of the
    suites refuse is written, with what was lost in its card, but not uploaded.
    Raises UsageError for a student that is not trained, whose files were edited or damaged, or that is the untuned
    base, and for a folder with files of others. Raises MachineError where a merged model is not what base and adapter
    are: nothing is left then.
    """
    if options.repository:
        check_name(options.repository)
    opened = hub() if options.repository else None
    results, why_unscored = _results(run)
    planned, why = chosen(run, results, options.student)
    name = planned.cell.model_copy(update={"student": planned.model.name}).name
    form = _form(planned, options)
    folder = options.output or run.folder / "export" / f"{name}-{options.gguf or form}"
    if folder.is_symlink():
        folder = folder.resolve()
    _refuse_others(folder)
    with folder_atomic(folder) as made, tempfile.TemporaryDirectory(prefix=".export.", dir=made.parent) as other:
        check, whole = _write(planned, form, made, Path(other), name, options)
        again = None
        if whole and results and options.score:
            again = scored_again(run, results, planned.cell, open_form(planned.cell, whole), terminal)
        card = _card(run, planned, name, results, options, form=form, check=check, again=again, files=_files(made))
        write_atomic(made / "README.md", model_card(run, card))
    shown = os.path.relpath(folder, run.root) if folder.is_relative_to(run.root) else str(folder)
    terminal.say(f"export-student: {planned.cell.name} ({why}) {FORMS[form]} in {shown}, its card in {shown}/README.md")
    for line in (*_why_merged(planned, options, form), *filter(None, [check]), *_said(card, why_unscored)):
        terminal.say(f"  {line}")
    model = planned.model
    base = model.name if "/" in model.name else str(model.folder)
    for line in serve_line(planned, base, folder, name, form).splitlines():
        terminal.say(f"  serve it: {line}")
    exported = Exported(folder, again)
    if again:
        _say_again(again, exported.exit_code, terminal)
    if opened is not None and exported.exit_code == 0:
        terminal.say(push(opened, "model", options.repository, folder, _files(folder), options.public))
    elif opened is not None:
        terminal.say(
            "  it is not uploaded: the limits of its suites refuse it, or cannot tell (--no-score: ask nothing)"
        )
    return exported


def _form(planned: GridCell, options: Options) -> Form:
    if options.gguf:
        return "gguf"
    return "merged" if options.merged or planned.adapter is None or planned.pretraining is not None else "adapter"


def _why_merged(planned: GridCell, options: Options, form: Form) -> Iterator[str]:
    """Why it is a whole model where nobody asked for one."""
    if form == "merged" and not options.merged:
        yield (
            "its adapter is of a base that was pre-trained for this run, and nobody else has that base"
            if planned.adapter
            else "all its weights were tuned: it has no adapter"
        )


def _say_again(again: ScoredAgain, code: int, terminal: Terminal) -> None:
    """What scoring it again found."""
    terminal.say("  scored again in this form, beside the student as eval scored it:")
    for line in (*(change.words for change in again.changes), *(f"not asked: {why}" for why in again.left_out)):
        terminal.say(f"    {line}")
    if again.decisions:
        terminal.say(fitted(HEADS, [row(decision) for decision in again.decisions], terminal.width))
        terminal.say(f"export-student: {SAME[overall(again.decisions)]} (exit {code}); whether to ship it, check says")
    else:
        terminal.say("    no suite has limits: nothing says how much may be lost (limits: {accuracy: {margin: 0.05}})")


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def chosen(run: Run, results: Results | None, student: str | None) -> tuple[GridCell, str]:
    """(The cell to export, why this one). Raises UsageError naming what is missing."""
    cells = {planned.cell.name: planned for planned in plan_training(run).cells if planned.rows}
    if student is not None:
        name, why = resolve_student(student, cells), "named"
    elif run.file.ship:
        name, why = next(cell.name for cell in ship_cells(run) if cell.random_seed == run.file.ship.random_seed), "ship"
    else:
        name, why = _best(run, results, list(cells))
    if name not in cells:
        raise UsageError(
            f"runs/{run.name}.yaml: ship names {name}, which is no tuned student: there is nothing to export"
        )
    planned = cells[name]
    if not planned.can_be_loaded:
        lost = planned.pretraining if planned.trained and planned.pretraining else planned
        what = name if lost is planned else f"the base that {name} began from"
        state = "was edited or damaged since it was trained" if lost.folder.exists() else "is not trained yet"
        raise UsageError(f"{lost.folder}: {what} {state}: train first ({run.command('train')})")
    return planned, why


def _best(run: Run, results: Results | None, names: Sequence[str]) -> tuple[str, str]:
    """(The best student on the dev items of the task's first suite, how that was found)."""
    suite = next((suite for suite in run.suites.values() if suite.of_task), None)
    best = best_on_dev(results, suite, names) if results and suite else None
    if best is None or suite is None:
        raise UsageError(
            f"runs/{run.name}.yaml: it has no ship section, and no student has a score on dev items: name one of"
            f" {', '.join(names)}"
        )
    return best[0], f"best on the dev items of {suite.name}, {suite.primary} {best[1]:.3f}"


def serve_line(planned: GridCell, base: str, folder: Path, name: str, form: Form) -> str:
    """The command that serves an exported folder, or two of them, or why there is none. `base`: its weights' place."""
    place = shlex.quote(str(folder))
    if form == "gguf":
        return f"ollama create {shlex.quote(name)} -f {place}/{MODELFILE}\nllama-server --jinja -m {place}/*.gguf"
    if form == "merged":
        return f"vllm serve {place} --served-model-name {shlex.quote(name)}"
    try:
        rank = max_lora_rank(planned.folder)
    except UsageError as error:
        return f"vLLM does not take it as an adapter, export it with --merged ({error})"
    where = shlex.quote(base) + (f" --revision {planned.model.revision}" if "/" in planned.model.name else "")
    return f"vllm serve {where} --enable-lora --lora-modules {shlex.quote(f'{name}={folder}')} --max-lora-rank {rank}"


# --- what is written


def _write(
    planned: GridCell, form: Form, folder: Path, other: Path, name: str, options: Options
) -> tuple[str, Path | None]:
    """Write a form of a student into `folder`. `other` is an empty folder to work in.

    Returns how it was checked, and the folder that an engine loads of what eval has not scored.
    """
    if form == "adapter":
        return _write_adapter(planned, folder), None
    if form == "merged":
        return _write_model(planned, folder, options.dtype), folder
    merged, read = other / "merged", other / "read"
    merged.mkdir()
    read.mkdir()
    check = _write_model(planned, merged, "float32" if planned.adapter else "auto")
    file = folder / f"{name}.{options.gguf}.gguf"
    with disk_errors(file):
        write_gguf(merged, file, options.gguf)
    system = planned.rows[0].messages[0]
    write_atomic(folder / MODELFILE, modelfile(file.name, system.content if system.role == "system" else ""))
    read_back(file, merged, read)
    shutil.rmtree(merged)
    return check, read


def modelfile(file: str, system: str) -> str:
    """What Ollama reads of a GGUF file beside it: greedy answers, under the system message it was tuned with."""
    said = f'SYSTEM """{system}"""\n' if system and '"""' not in system else ""
    return f"FROM ./{file}\nPARAMETER temperature 0\n{said}"


def _write_adapter(planned: GridCell, folder: Path) -> str:
    """Copy an adapter. Its settings name the base as this run does: runs that share a cell may call it otherwise."""
    _copy_files(planned.folder, folder)
    settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    write_json(folder / CONFIG, settings | {"base_model_name_or_path": planned.model.name})
    return ""


def _copy_files(cell: Path, folder: Path) -> None:
    """Copy what is no record of the training."""
    with disk_errors(folder):
        for file in cell.iterdir():
            if file.is_file() and file.name not in RECORDS:
                shutil.copy(file, folder / file.name)


def _write_model(planned: GridCell, folder: Path, dtype: str) -> str:
    """Write a whole model. Returns how it was checked."""
    if planned.adapter is None:
        if dtype != "auto":
            raise UsageError(f"--dtype {dtype}: all weights of this student were tuned; it is stored as it is")
        _copy_files(planned.folder, folder)
        return ""
    from harness.models.chat_template import load_chat, tokenize_row
    from harness.models.merge import merge

    chat = load_chat(planned.model.name, planned.model.folder)
    examples = [tokenize_row(chat, row) for row in planned.rows[:PROMPTS]]
    prompts = [example.ids[: example.answer_start] for example in examples]
    return merge(planned.base, planned.adapter, folder, prompts, sorted(chat.stops), dtype).words


def _card(
    run: Run,
    planned: GridCell,
    name: str,
    results: Results | None,
    options: Options,
    *,
    form: Form,
    check: str,
    again: ScoredAgain | None,
    files: Sequence[str],
) -> ModelCard:
    from harness.models.chat_template import load_chat, tokenize_row

    chat = load_chat(planned.model.name, planned.model.folder)
    scored, suites, random_seed = planned.cell, run.suites.values(), run.file.random_seed
    log: dict[str, Any] = read_json(planned.folder / "cell.json")
    base_licence = licence_of(planned.model)
    return ModelCard(
        name=name,
        planned=planned,
        log=log,
        form=form,
        check=check,
        again=again,
        serve=serve_line(planned, planned.model.name, Path(THIS_FOLDER), name, form),
        licence=options.licence or base_licence,
        base_licence=base_licence,
        files=tuple(files),
        languages=options.languages,
        scores=tuple(scores_of(results, suites, scored, random_seed)) if results else (),
        against=tuple(
            (suite, said.replace(scored.student, planned.model.name))  # a local folder's path is nobody's business
            for suite, said in (against_alternatives(results, suites, scored, random_seed) if results else ())
        ),
        score_limits=tuple(score_limits(results, suites, scored, random_seed)) if results else (),
        funnel=stored_funnel(run),
        template=str(chat.tokenizer.get_chat_template()),
        longest=max(len(tokenize_row(chat, row).ids) for row in planned.rows),
    )


def licence_of(model: Model) -> str:
    """The licence of a base as the hub names it: of a bundled model, or as its folder's card says. '' where unknown."""
    if model.name in BUNDLED:
        return BUNDLED[model.name].licence
    try:
        _, written, _ = (model.folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        return str(yaml.safe_load(written)["license"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return ""


def _results(run: Run) -> tuple[Results | None, str]:
    """(The run's stored scores, why there are none that could be shown)."""
    if not (run.folder / "eval" / CARDS).is_file():
        return None, f"it has not been scored: {run.command('eval')}"
    try:
        return results_of(run), ""
    except UsageError as error:
        return None, f"its scores are left out of the card: {error}"


def _refuse_others(folder: Path) -> None:
    """Raises UsageError for a folder with something that an export of a student did not write: it would be lost."""
    if not folder.is_dir():
        other = folder if folder.exists() else None
    else:
        ours = written(folder, "export-student") or ()
        other = next((path for path in sorted(folder.iterdir()) if path.name not in ours), None)
    if other is not None:
        raise UsageError(
            f"--output {folder}: {other} is there, and no export of a student wrote it: name another folder, for this"
            " one is replaced as a whole"
        )


def _said(card: ModelCard, why_unscored: str) -> list[str]:
    """What a reader of the folder would not expect."""
    return [*([why_unscored] if why_unscored else []), *unstated(card.licence, card.languages)]
