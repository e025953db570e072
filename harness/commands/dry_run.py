"""--dry-run: what a verb would do and what it would take, without doing it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from statistics import mean

from harness.augment.plan import plan_rows
from harness.augment.rows import seed_rows
from harness.augment.stage import finished_rows
from harness.check.rescore import PASSES
from harness.commands.parity import ITEMS, compared_suite
from harness.config.run import Run
from harness.config.ship import ship_cells
from harness.core.aligned import aligned
from harness.core.store import finished
from harness.data.examples import path_of
from harness.engines.call_file import count_stored
from harness.errors import UsageError
from harness.eval.candidates import TEACHER, read_cast
from harness.eval.prompt_search import dev_items, most_tries, ways_tried
from harness.eval.stage import inputs_digest as eval_digest
from harness.filters import Context, Judge
from harness.models.resolve import ready, resolve
from harness.records import Request
from harness.suites.suite import Suite
from harness.train.grid import base_key, cells_of, plan

COUNTED = 20_000  # requests whose prompts are made for a plan; the others are taken to be like them

Count = Callable[[str], int]


def plan_augment(run: Run, teacher: str, count: Count) -> str:
    """Requests and tokens of augment. Every row a request returns is judged, so the number is known before.

    Prompts are counted as they will be sent; a new text is taken to be as long as a seed.
    """
    done, _ = finished_rows(run, teacher)
    if done:
        return f"augment {run.name} would do nothing: {done.summary}; same seeds, templates, filters and teacher"
    context = Context(root=run.root, seeds=run.seeds, labels=run.task.labels, protected=(), teacher=teacher)
    augment = run.file.augment
    plan = plan_rows(run, teacher)
    own = plan.own
    total_rows = len(own) or sum(plan.first_round().values())
    asked = [] if own else list(islice(plan.requests(plan.first_round()), COUNTED))
    lines: list[tuple[str, int, float]] = []
    once = 0.0  # tokens that do not grow with the rows
    if asked:
        each = mean(count(_prompt(r)) for r in asked) + mean(count(seed.text) for seed in run.seeds) + 1
        lines.append(("generate", total_rows, total_rows * each))
    calibration: list[Request] = []
    for judge in (f for f in augment.filters if isinstance(f, Judge)):
        requests = judge.ask(judge.calibration_rows(context), context, purpose="calibrate")
        own_requests = list({r.key: r for r in requests}.values())
        calibration += own_requests
        spent = sum(count(_prompt(r)) + 1 for r in own_requests)
        once += spent
        lines.append(("calibrate the judge", len(own_requests), spent))
        sample = judge.ask(seed_rows(run), context)
        each = mean(count(_prompt(r)) + 1 for r in sample)
        lines.append(("judge", total_rows, total_rows * each))  # at most: rows with equal texts are asked once
    total, tokens = sum(n for _, n, _ in lines), sum(t for _, _, t in lines)
    stored = count_stored(run.cache / "calls.sqlite", list({r.key for r in (*asked, *calibration)}))
    out = [f"augment {run.name} would send{'' if own else f' (teacher {teacher})'}:"]
    rows = [(name, f"{n} requests", f"{t:.0f} tokens") for name, n, t in [*lines, ("in all", total, tokens)]]
    out.append(aligned(rows, right=(1, 2), indent="  "))
    most = total_rows if own else max(total_rows, int(augment.rows * augment.max_requests_per_row))
    if augment.rows_file:
        out.append(f"  {len(own)} rows are read from {path_of(augment.rows_file)}, and no teacher writes any")
    else:
        which = f"the first {len(asked)}" if len(asked) < total_rows else "the"
        out.append(
            f"  {stored} of {which} generations and calibrations are stored already; what was judged is not counted."
        )
        out.append(f"  Should rows be missing after this round, more are asked, up to {most} rows requested.")
    if calibration:
        out.append("  A judge no better than chance is not asked.")
    furthest = once + (tokens - once) * most / total_rows
    return "\n".join([*out, *_price(run, tokens, furthest, most)])


def tokens_of_teacher(run: Run, unseen: bool) -> Count:
    """Counts tokens as the teacher does; about four characters a token where its tokenizer is not at hand."""
    teacher = run.file.teacher
    if unseen or teacher is None or teacher.engine in ("openai", "scripted"):
        return lambda text: len(text) // 4 + 1
    from harness.models.chat_template import load_tokenizer

    model = resolve(teacher.model, run.cache, teacher.revision, run.root)
    tokenizer = load_tokenizer(model.name, model.folder)
    return lambda text: len(tokenizer(text)["input_ids"])


def _prompt(request: Request) -> str:
    return request.prompt or "".join(message.content for message in request.messages)


def _price(run: Run, tokens: float, furthest: float, most: int) -> list[str]:
    """What this round costs and what `most` requested rows would, at the dearer of the two prices; none without one."""
    teacher = run.file.teacher
    prices = [p for p in (teacher.prompt_price, teacher.completion_price) if p is not None] if teacher else []
    if not prices:
        return []
    now, then = (max(prices) * n / 1e6 for n in (tokens, furthest))
    more = f"; {then:.4f} should all {most} rows be requested" if furthest > tokens else ""
    return [f"  about {now:.4f} in money at the dearer of the two prices{more}"]


def plan_train(run: Run) -> str:
    """Cells, steps and tokens of train; cells already trained are marked."""
    rows: list[tuple[str, ...]] = []
    todo = 0
    for planned in plan(run):
        todo += 0 if planned.trained else planned.tokens
        state = {True: "stored", False: "to do", None: "rows or student not there yet"}[planned.trained]
        numbers = (f"{planned.rows} rows", f"{planned.steps} steps", f"{planned.tokens} tokens")
        rows.append((planned.cell.name, *numbers, state))
    cells = aligned(rows, right=(1, 2, 3), indent="  ")
    return f"train {run.name} would tune:\n{cells}\n  {todo} tokens to train on, estimated"


def plan_eval(run: Run) -> str:
    """Scorecards and requests of eval: pairs measured by log-likelihood, answers generated at most, what is judged."""
    train, untuned = run.file.train, _untuned(run)
    cells = [cell for student in train.students for cell in cells_of(train, student, len(run.seeds))]
    tuned = sum(cell.size > 0 for cell in cells)
    lines = [f"eval {run.name} would score ({tuned} tuned students, {untuned} untuned models):"]
    for name, suite in run.suites.items():
        ways = len(run.file.eval.prompting) if suite.of_task else 1
        cards = tuned + untuned * ways
        whole, dev = suite.spec.requests(suite.items), suite.spec.requests(dev_items(suite))
        if not whole.counted:
            lines.append(f"  {name:<24}{cards:>4} cards of {whole.items} items, as lm-evaluation-harness asks them")
            continue
        tries = untuned * sum(most_tries(*ways_tried(run, way)) for way in run.file.eval.prompting) * suite.of_task
        pairs = cards * whole.loglikelihoods + tries * dev.loglikelihoods
        written = cards * whole.answers + tries * dev.answers
        asked = f"{pairs} log-likelihoods, at most {written} generated answers"
        asked += f", choosing among {tries} more ways to ask on dev items included" if tries else ""
        asked += _judged(suite, cards)
        lines.append(f"  {name:<24}{cards:>4} cards of {whole.items} items: {asked}")
    if not all(ready(name, run.cache, run.root) for name in (*run.file.train.students, *_untuned_names(run))):
        return "\n".join(lines)  # what is stored is known by a model's weights, and a plan makes none ready
    try:
        cast = read_cast(run)
    except UsageError:
        return "\n".join([*lines, f"  its students are not trained yet: make augment train RUN={run.name} comes first"])
    done = finished(run.folder / "eval", eval_digest(run, cast))
    if done:
        lines.append(f"  nothing of it is to do: {done.summary} are stored (the cheap reference's among them)")
    return "\n".join(lines)


def plan_noise(run: Run) -> str:
    """What `harness rescore` would ask of the ship student again. Raises UsageError without a ship section."""
    cell, *_ = ship_cells(run)
    own = [suite for suite in run.suites.values() if suite.items]
    lines = [f"rescore {run.name} would score {cell.name} {PASSES} times again, in other orders and batches:"]
    for suite in own:
        once = suite.spec.requests(suite.items)
        asked = f"{PASSES * once.loglikelihoods} log-likelihoods, at most {PASSES * once.answers} generated answers"
        lines.append(f"  {suite.name:<24}{once.items} items: {asked}{_judged(suite, PASSES)}")
    return "\n".join([*lines, f"  and write runs/{run.name}/eval/noise.json"])


def plan_parity(run: Run) -> str:
    """What `rescore --engine vllm` would ask of both. Raises UsageError without a ship section or a labels suite."""
    suite, cell = compared_suite(run), ship_cells(run)[0]
    items = min(ITEMS, sum(item.split == "test" for item in suite.items))
    return (
        f"rescore {run.name} would ask transformers, then vLLM, about {items} items of {suite.name} with {cell.name}:"
        f" {2 * items} requests each, and write runs/{run.name}/eval/agree.json"
    )


def _untuned(run: Run) -> int:
    """Models that are asked as they are, each once."""
    # a plan makes no model ready: of one that is not, only the name is known
    return len(
        {
            base_key(resolve(name, run.cache, root=run.root)) if ready(name, run.cache, run.root) else name
            for name in _untuned_names(run)
        }
    )


def _untuned_names(run: Run) -> list[str]:
    """The students' bases, and the models that eval.compare names."""
    names = list(run.file.train.students) if 0 in run.file.train.sizes else []
    for name in run.file.eval.compare:
        if name != TEACHER:
            names.append(name)
        elif run.teacher.engine in ("vllm", "transformers"):
            names.append(run.teacher.model)
    return names


def _judged(suite: Suite, times: int) -> str:
    """What a judge of a suite's answers is asked, all items so many times and its planted pairs once."""
    if suite.rubric is None:
        return ""
    items = len(suite.items)
    pairs = times * items + min(suite.rubric.planted, items)
    return f", about {2 * pairs} requests to its judge, less what it was asked before"
