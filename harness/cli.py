"""The command line: what a person writes after `harness`. Heavy libraries are imported by the verb that needs them."""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness import verbs
from harness.builders import form_scorer, openers, scorers, vllm_of
from harness.commands.init.verb import init
from harness.config.cluster import address_given
from harness.core.environment import set_defaults
from harness.core.terminal import Stop, Terminal, clean_up_on_signals, tell
from harness.errors import HarnessError, MachineError, UsageError

if TYPE_CHECKING:
    from harness.config.run import Run

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "From a task to a small model that may ship.\n\n"
        "augment: a teacher writes rows, filters keep the good ones. train: one adapter per size of data. "
        "eval: every student on every suite, then the report. check: pass or fail against a blessed baseline.\n\n"
        "RUN is a name: runs/RUN.yaml says what to do, results land in runs/RUN/. Every verb goes on where it "
        "was stopped and does only what is missing.\n\n"
        "Exit codes: 0 done or passed, 1 regressed, 2 a wrong request or file, 3 the machine or a service "
        "failed, 4 inconclusive, 130 stopped by Ctrl-C."
    ),
)

app.command()(init)


def _run_names(beginning: str) -> list[str]:
    """The runs of this project, for a shell that completes."""
    return sorted(path.stem for path in Path("runs").glob("*.yaml") if path.stem.startswith(beginning))


RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Name of a run file, runs/RUN.yaml.", autocompletion=_run_names)
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. --set train.epochs=3."),
]
Student = Annotated[str | None, typer.Option(metavar="STUDENT", help="This student alone; a part of its name will do.")]
Common = Annotated[bool, typer.Option("--common", help="Where a suite changed, compare on the shared items only.")]
EXPORT_TO = "fields (the task's own), messages, sharegpt, alpaca or prompt_completion."
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, at what cost; do nothing.")]
ClusterAt = Annotated[str | None, typer.Option("--cluster", metavar="ADDRESS", help="local, auto, [ray://]HOST:PORT.")]


def _version(asked: bool) -> None:
    if asked:
        print(f"harness {installed('harness')}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """What stands before a verb."""


@app.command()
def augment(
    run: RunName = "helpdesk", settings: Settings = None, dry_run: DryRun = False, cluster: ClusterAt = None
) -> None:
    """Have the teacher write rows, filter them, print the funnel."""
    loaded, terminal = _load(run, settings, cluster), Terminal()
    if dry_run:
        terminal.say(verbs.describe_augment(loaded, terminal))
        return
    verbs.augment(loaded, terminal, Stop())


@app.command()
def preview(
    run: RunName = "helpdesk",
    settings: Settings = None,
    rows: Annotated[int, typer.Option(min=1, max=500, help="Rows to make.")] = 8,
) -> None:
    """Make a few rows for real, show each step and verdict, and forecast the whole of augment."""
    verbs.preview(_load(run, settings), Terminal(), Stop(), rows)


@app.command()
def train(
    run: RunName = "helpdesk", settings: Settings = None, dry_run: DryRun = False, cluster: ClusterAt = None
) -> None:
    """Tune one adapter per student, kind of data, size and random seed."""
    from harness.train.processes import Processes

    loaded, processes = _load(run, settings, cluster), Processes.from_environment(os.environ)
    if dry_run:
        from harness.commands.dry_run import describe_training

        Terminal().say(describe_training(loaded))
        return
    verbs.train(loaded, Terminal(silent=not processes.first), Stop(), processes)


@app.command(name="show-batch")
def show_batch(
    run: RunName = "helpdesk",
    settings: Settings = None,
    rows: Annotated[int, typer.Option("-n", "--rows", metavar="ROWS", min=1, max=500, help="Rows to show.")] = 3,
) -> None:
    """Show each student's first batches before training: tokens, padding, lengths, and what carries loss."""
    from harness.commands.show_batch import show_batch as show_rows

    show_rows(_load(run, settings), Terminal(), rows)


@app.command(name="eval")
def evaluate(
    run: RunName = "helpdesk", settings: Settings = None, dry_run: DryRun = False, cluster: ClusterAt = None
) -> None:
    """Score every student on every suite, then write the report."""
    loaded, terminal = _load(run, settings, cluster), Terminal()
    if dry_run:
        from harness.commands.dry_run import describe_scoring

        terminal.say(describe_scoring(loaded))
        return
    verbs.evaluate(loaded, terminal, Stop())


@app.command()
def report(run: RunName = "helpdesk", settings: Settings = None, dry_run: DryRun = False) -> None:
    """Write the report again from stored scores (needs neither torch nor vLLM)."""
    loaded = _load(run, settings)
    if dry_run:
        Terminal().say(
            f"report {run} would read runs/{run}/eval and train, and write report.md, report.html and figures there"
        )
        return
    verbs.report(loaded, Terminal())


@app.command()
def show(run: RunName = "helpdesk", settings: Settings = None, dry_run: DryRun = False) -> None:
    """Print all of the report."""
    from harness.report.stage import show as print_again

    loaded = _load(run, settings)
    if dry_run:
        path = loaded.folder / "eval" / "report.md"
        Terminal().say(f"show {run} would print {path if path.is_file() else 'a report'}")
        return
    print_again(loaded, Terminal())


@app.command()
def bless(run: RunName = "helpdesk", settings: Settings = None, dry_run: DryRun = False) -> None:
    """Store the ship student's scores as the baseline that check compares with (a file for git)."""
    from harness.check.bless import bless as stage

    loaded = _load(run, settings)
    if dry_run:
        state = "" if (loaded.folder / "eval" / "scorecards.json").is_file() else ", where there are no scores yet,"
        Terminal().say(f"bless {run} would read runs/{run}/eval{state} and write runs/{run}.baseline.json")
        return
    stage(loaded, Terminal())


@app.command()
def check(
    run: RunName = "helpdesk",
    settings: Settings = None,
    dry_run: DryRun = False,
    common: Common = False,
    unsure: Annotated[str, typer.Option(metavar="fail|pass", help="What 'inconclusive' comes to.")] = "fail",
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML: a case per limit.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write everything as JSON.")] = None,
    summary: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="GITHUB_STEP_SUMMARY", help="Add a Markdown table to this file."),
    ] = None,
) -> None:
    """Compare the ship student with the blessed baseline: exit 0 pass, 1 regressed, 4 cannot tell."""
    from harness.check.stage import Options
    from harness.check.stage import check as stage

    loaded = _load(run, settings)
    if dry_run:
        files = ", ".join(str(path) for path in (junit, json, summary) if path) or "nothing"
        from harness.check.baseline import baseline_path

        needed = (loaded.folder / "eval" / "scorecards.json", baseline_path(loaded.root, loaded.name))
        lacking = "".join(f"; there is no {path.relative_to(loaded.root)} yet" for path in needed if not path.is_file())
        message = f"check {run} would compare runs/{run}/eval with runs/{run}.baseline.json and write {files}{lacking}"
        Terminal().say(message)
        return
    if unsure not in ("fail", "pass"):
        raise UsageError(f"--unsure {unsure}: it must be fail or pass")
    annotate = os.environ.get("GITHUB_ACTIONS") == "true"
    options = Options(common, "pass" if unsure == "pass" else "fail", junit, json, summary, annotate)
    code = stage(loaded, Terminal(), options)
    if code:
        raise typer.Exit(code)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="RUN, or RUN:STUDENT.")],
    b: Annotated[str, typer.Argument(metavar="B", help="RUN, or RUN:STUDENT.")],
    common: Common = False,
) -> None:
    """Compare any two students, of one run or of two: the same table, without a verdict."""
    from harness.check.compare import compare as stage

    stage(a, b, lambda name: _load(name, None), common, Terminal())


@app.command()
def plan(
    margin: Annotated[float, typer.Option(help="The largest drop that would be allowed, e.g. 0.03.")],
    flips: Annotated[
        list[float] | None, typer.Option(help="Share of items that change between two students; several may be given.")
    ] = None,
    seed_spread: Annotated[
        float, typer.Option(help="Standard deviation of the score over random seeds, for the recipe.")
    ] = 0.01,
) -> None:
    """How many items, and random seeds, a margin needs, before a suite is written."""
    from harness.check.margins import table

    Terminal().say(table(margin, flips or [0.05, 0.1, 0.2, 0.3], seed_spread))


@app.command()
def errors(
    run: RunName = "helpdesk",
    settings: Settings = None,
    suite: Annotated[str | None, typer.Option(metavar="SUITE", help="Only this suite.")] = None,
    student: Student = None,
) -> None:
    """Wrong items by cause, with the answers of the base, of every size and of the seeds alone side by side."""
    from harness.commands.error_analysis import analyse_errors

    analyse_errors(_load(run, settings), suite, student, Terminal())


@app.command()
def rescore(
    run: RunName = "helpdesk",
    settings: Settings = None,
    dry_run: DryRun = False,
    engine: Annotated[
        str, typer.Option(metavar="transformers|vllm", help="vllm: ask vLLM the same and say what differs.")
    ] = "transformers",
) -> None:
    """Score the ship student again, in another order and batch size or in another engine: what changes by itself?"""
    from harness.config.ship import ship_cells

    loaded, terminal = _load(run, settings), Terminal()
    if engine not in ("transformers", "vllm"):
        raise UsageError(f"--engine {engine}: it must be transformers or vllm")
    ship, *_ = ship_cells(loaded)
    if dry_run:
        from harness.commands.dry_run import describe_parity, describe_rescoring
        from harness.commands.parity import compared_suite

        if engine == "vllm":
            terminal.say(describe_parity(ship, compared_suite(loaded.suites, loaded.name), loaded.name))
        else:
            terminal.say(describe_rescoring(ship, loaded.suites.values(), loaded.name))
    elif engine == "vllm":
        from harness.commands.parity import parity

        parity(loaded, openers(loaded).student, vllm_of(loaded.file.teacher), terminal)
    else:
        from harness.check.rescore import noise
        from harness.eval.runner import rescorer

        scorer_for = scorers(loaded, terminal, Stop())
        candidate = scorer_for(None).plan.student(ship, loaded.name)
        noise(loaded, rescorer(candidate, scorer_for), terminal)


@app.command()
def suites(
    prove: Annotated[bool, typer.Option("--prove", help="Check every suite against itself.")] = False,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only this run's, with its students.")] = None,
) -> None:
    """List the suites; with --prove, show that gold scores 1, empty scores 0, and nothing is doubled or too long."""
    from harness.commands.validate import listed, validate_suites
    from harness.config.load import load_suites

    loaded = _load(run, None) if run is not None else None
    suite_by_name = loaded.suites if loaded else load_suites(Path.cwd())
    if not suite_by_name:
        raise UsageError("there are no suites here: start in the folder that holds suites/ and runs/")
    terminal = Terminal()
    if not prove:
        terminal.say(listed(suite_by_name))
        return
    problems = validate_suites(suite_by_name, loaded, terminal, loaded.root if loaded else Path.cwd())
    wrong = [problem for problem in problems if problem.wrong]
    if wrong:
        raise UsageError(f"{len(wrong)} problems in {len({p.suite for p in wrong})} suites")


@app.command()
def ask(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A text such as the task is about.")],
    settings: Settings = None,
    student: Student = None,
) -> None:
    """Answer one text with the base, the few-shot base and every student, side by side."""
    from harness.commands.ask import ask as stage

    loaded = _load(run, settings)
    stage(loaded, text, openers(loaded), Terminal(), student)


@app.command()
def export(
    run: RunName = "helpdesk",
    settings: Settings = None,
    to: Annotated[str, typer.Option(metavar="FORMAT", help=EXPORT_TO)] = "messages",
    file_format: Annotated[str, typer.Option("--format", metavar="jsonl|parquet")] = "jsonl",
    output: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Without it: runs/RUN/export/FORMAT.")] = None,
    which: Annotated[str, typer.Option(metavar="kept|dropped", help="What the filters kept, or dropped.")] = "kept",
    prompts: Annotated[bool, typer.Option("--prompts", help="The system message and prompt of students, too.")] = False,
    licence: Annotated[str, typer.Option("--license", metavar="ID", help="For the card, as the hub names it.")] = "",
    language: Annotated[list[str] | None, typer.Option(metavar="CODE", help="For the card, such as en.")] = None,
    push_to_hub: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Upload it, as a private dataset.")] = "",
    public: Annotated[bool, typer.Option("--public", help="With --push-to-hub: everybody may read it.")] = False,
) -> None:
    """Write augment's rows in the format of another tool, with a dataset card; upload them where that is asked for."""
    from harness.commands.export import Options
    from harness.commands.export import export as stage
    from harness.commands.push import open_hub

    card = {"licence": licence, "languages": tuple(language or ())}
    options = Options.checked(
        to, file_format, which, output=output, prompts=prompts, dataset=push_to_hub, public=public, **card
    )
    stage(_load(run, settings), options, open_hub, Terminal())


@app.command(name="export-student")
def export_student(
    run: RunName = "helpdesk",
    student: Annotated[
        str | None, typer.Argument(metavar="STUDENT", help="A part of its name; else ship's, or the best on dev items.")
    ] = None,
    settings: Settings = None,
    merged: Annotated[bool, typer.Option("--merged", help="Merged into its base, as a model of its own.")] = False,
    gguf: Annotated[str, typer.Option(metavar="q8_0|q4_0|...", help="As one file for llama.cpp and Ollama.")] = "",
    dtype: Annotated[str, typer.Option(metavar="auto|float32|float16|bfloat16", help="Of what is merged.")] = "auto",
    output: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Without it: runs/RUN/export/STUDENT.")] = None,
    licence: Annotated[str, typer.Option("--license", metavar="ID", help="For the card, as the hub names it.")] = "",
    language: Annotated[list[str] | None, typer.Option(metavar="CODE", help="For the card, such as en.")] = None,
    score: Annotated[bool, typer.Option("--score/--no-score", help="Score a merged or packed model again.")] = True,
    push_to_hub: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Upload it, as a private model.")] = "",
    public: Annotated[bool, typer.Option("--public", help="With --push-to-hub: everybody may read it.")] = False,
) -> None:
    """Write a trained student to hand out, with a model card. A merged or packed one is scored again: exit as check."""
    from harness.commands.export_student import Options
    from harness.commands.export_student import export_student as stage
    from harness.commands.push import open_hub

    about = (licence, tuple(language or ()))
    options = Options(student, merged, gguf, dtype, output, *about, score, push_to_hub, public)
    loaded, terminal = _load(run, settings), Terminal()
    raise typer.Exit(stage(loaded, options, form_scorer(loaded, terminal), open_hub, terminal).exit_code)


@app.command()
def doctor(cluster: ClusterAt = None) -> None:
    """Say what this machine can do, or the nodes of a cluster, and what to change."""
    from harness.cluster.doctor import examine_cluster
    from harness.commands.doctor import examine

    report = (examine(Path.cwd()), True) if cluster is None else examine_cluster(address_given(cluster), Path.cwd())
    Terminal().say(report[0])
    raise typer.Exit(0 if report[1] else MachineError.exit_code)


@app.command(name="hard-examples")
def hard_examples(run: RunName = "helpdesk", settings: Settings = None) -> None:
    """Find the rows and seeds that the ship student gets wrong, for another round, with a control."""
    from harness.commands.hard_examples import hard_examples as find

    loaded, terminal = _load(run, settings), Terminal()
    find(loaded, scorers(loaded, terminal, Stop())(None), terminal)


@app.command()
def clean(dry_run: DryRun = False) -> None:
    """Remove trained cells and scores that no run refers to. Teacher calls, measured rows and models stay."""
    from harness.commands.clean import clean as stage

    if not (Path.cwd() / "runs").is_dir():
        raise UsageError("there is no folder runs/ here: start in the project's folder")
    stage(Path.cwd() / "runs", dry_run, Terminal())


def main() -> None:
    """The console command: errors become one message and their exit code."""
    set_defaults()
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' own bars would fight ours
    clean_up_on_signals()
    _warn_of_other_code(Path.cwd())
    try:
        with verbs.machine_errors():
            app(prog_name="harness")
    except HarnessError as error:
        sys.exit(_tell(error, "stopped" if error.exit_code == 130 else "error"))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:  # noqa: BLE001  # exit code 1 means "regressed": a fault of ours must not say so
        tell(traceback.format_exc())
        sys.exit(_tell(MachineError("this is a fault of the harness itself; please report the lines above"), "error"))


def _tell(error: HarnessError, word: str) -> int:
    tell(f"harness: {word}: {error}" if word != "stopped" else f"harness: {error}")
    return error.exit_code


def _load(run: str, settings: list[str] | None, cluster: str | None = None) -> Run:
    from harness.config.load import load_named_run

    more = [] if cluster is None else [f"cluster.address={address_given(cluster)}"]
    return load_named_run(run, [*(settings or []), *more], _warn_of_other_code)


def _warn_of_other_code(folder: Path) -> None:
    from harness.core.environment import other_code

    if warning := other_code(folder):
        tell(f"harness: warning: {warning}")
