"""--dry-run: what a verb would do and what it would take, without doing it."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from harness.augment.chain import Place, imagined
from harness.augment.current import finished_rows
from harness.augment.plan import Plan, plan_rows
from harness.augment.preflight import require_pieces_fit
from harness.augment.rows import own_rows, seed_rows
from harness.check.rescore import PASSES
from harness.commands.parity import ITEMS
from harness.config.arms import FILTERED, SEEDS_ONLY
from harness.config.methods import Method
from harness.config.run import Run, Train
from harness.config.teacher import Teacher, beside_money, price_of
from harness.core.aligned import aligned
from harness.core.store import existing_parent, finished, read_manifest
from harness.data.examples import path_of
from harness.engines.call_file import count_stored
from harness.engines.call_place import call_file
from harness.errors import UsageError
from harness.eval.candidates import untuned_names
from harness.eval.plan import EvalPlan, outline_scoring, plan_scoring, stored_card
from harness.eval.prompt_search import FIRST_ITEMS, dev_items, most_tries
from harness.filters import Context, judges_of
from harness.filters.pick import PickByJudge
from harness.models.resolve import ready, resolve
from harness.models.teachers import NOBODY, OWN_TEACHER, Teachers
from harness.models.token_count import Count, by_characters, chat_tokens, fast_tokenizer
from harness.records import Cell, Request, Row
from harness.suites.suite import Suite
from harness.train import validation
from harness.train.footprint import HALF, architecture, footprint, size
from harness.train.grid import GridCell, grid_cells, more_rows, outline_training, require_rows, steps_of
from harness.train.learning_rate import peak_rate
from harness.train.row_scores import Unmeasured

SAMPLE = 256  # rows tokenized for an estimate
COUNTED = 20_000  # requests whose prompts are made for a plan; the others are taken to be like them


def describe_augment(run: Run, teachers: Teachers, count: Count) -> str:
    """Requests and tokens of augment. Every row a request returns is judged, so the number is known before.

    Prompts are counted as they will be sent. A new text is taken to be as long as a seed.
    """
    done, _ = finished_rows(run, teachers)
    if done:
        return f"augment {run.name} would do nothing: {done.summary}; same seeds, templates, filters and teacher"
    augment, plan = run.file.augment, plan_rows(run, teachers)
    if all(ready(one.model, run.cache, run.root) for one in run.file.all_teachers.values() if one.engine == "vllm"):
        require_pieces_fit(plan, run)
    by_model = {teachers.model(name): one for name, one in run.file.all_teachers.items()}
    meter = Meter(count, {model: _dearer_price(teacher) for model, teacher in by_model.items()})
    begun = sum(plan.first_round().values()) if plan.chains else 0
    total_rows = len(plan.own) + begun
    places = list(islice(plan.places(plan.first_round()), COUNTED)) if begun else []
    generations = [request for place in places for request in plan.requests(plan.begin(place))]
    calibration, judging = _judging(run, teachers, meter, total_rows)
    once = meter.take(calibration, 1)  # does not grow with the rows
    lines = [(name, took.times(begun / len(places))) for name, took in _steps(plan, places, meter).items()] + judging
    total = functools.reduce(Took.plus, (took for _, took in lines), Took())
    stored = count_stored(call_file(run.cache), list({r.key: r for r in (*generations, *calibration)}))
    whom = f" (teacher{'s' if teachers.named else ''} {teachers.words})" if plan.chains else ""
    rows = [(name, f"{t.requests:.0f} requests", f"{t.tokens:.0f} tokens") for name, t in [*lines, ("in all", total)]]
    out = [f"augment {run.name} would send{whom}:", aligned(rows, right=(1, 2), indent="  ")]
    most = max(total_rows, int(augment.rows * augment.max_requests_per_row)) if plan.chains else total_rows
    if augment.rows_file:
        also = "" if plan.chains else ", and no teacher writes any"
        out.append(f"  {len(plan.own)} rows are read from {path_of(augment.rows_file)}{also}")
    if plan.chains:
        which = f"the first {len(generations)}" if len(places) < begun else "the"
        out.append(
            f"  {stored} of {which} generations and calibrations are stored already; what was judged is not counted."
        )
        out.append(f"  Should rows be missing after this round, more are asked, up to {most} rows requested.")
    if calibration:
        out.append("  A judge no better than chance is not asked.")
    furthest = once.money + (total.money - once.money) * most / total_rows
    unpriced = [model for model, teacher in by_model.items() if price_of(teacher, 0, 0) is None]
    price = _price(total.money, furthest, most) + beside_money(unpriced)
    return "\n".join([*out, *([price] if total.money else [])])


@dataclass(frozen=True)
class Took:
    """What some requests would take."""

    requests: float = 0
    tokens: float = 0
    money: float = 0  # at the dearer of a teacher's two prices

    def plus(self, more: Took) -> Took:
        """Both together."""
        return Took(self.requests + more.requests, self.tokens + more.tokens, self.money + more.money)

    def times(self, factor: float) -> Took:
        """So many times as much."""
        return Took(self.requests * factor, self.tokens * factor, self.money * factor)


@dataclass(frozen=True)
class Meter:
    """Counts what requests would take."""

    count: Count
    prices: Mapping[str, float]  # name@revision -> money a token

    def take(self, requests: Sequence[Request], answer_tokens: int) -> Took:
        """What requests take whose answers have so many tokens each. Equal prompts are counted once."""
        length = functools.cache(self.count)
        tokens = [length(_prompt(request)) + answer_tokens for request in requests]
        money = sum(n * self.prices[request.model] for n, request in zip(tokens, requests, strict=True))
        return Took(len(requests), sum(tokens), money)


def _judging(
    run: Run, teachers: Teachers, meter: Meter, total_rows: int
) -> tuple[list[Request], list[tuple[str, Took]]]:
    """(What judges are asked about the seeds, lines of what they are asked about seeds and rows)."""
    context = Context(root=run.root, seeds=run.seeds, labels=run.task.labels, protected=(), teachers=teachers)
    seeds = seed_rows(run.task, run.prompts.student, run.seeds)
    calibration: dict[str, Request] = {}
    judged: set[str] = set()  # keys; a judge that asks what another one has asked is answered without a call
    lines: list[tuple[str, Took]] = []
    for judge in judges_of(run.file.augment.filters):
        name = f"judge {judge.teacher}" if teachers.named else "judge"
        requests = judge.ask(judge.calibration_rows(context), context, purpose="calibrate")
        unique = {r.key: r for r in requests if r.key not in calibration}
        calibration |= unique
        lines.append((f"calibrate the {name}", meter.take(list(unique.values()), 1)))
        sample = judge.ask(seeds, context)
        if not judged.issuperset(r.key for r in sample):
            # at most: rows with equal texts are asked once
            lines.append((name, meter.take(sample, 1).times(total_rows / len(sample))))
        judged.update(r.key for r in sample)
    return list(calibration.values()), [(name, took) for name, took in lines if took.requests]


def _steps(plan: Plan, places: Sequence[Place], meter: Meter) -> dict[str, Took]:
    """Step -> what it takes for these rows, if it writes a text as long as a seed and no filter drops it."""
    lengths = sorted((seed.answer if plan.task.free else seed.text for seed in plan.seeds), key=len)
    text = lengths[len(lengths) // 2] if lengths else "some words " * 8
    answer = meter.count(text) + 1
    steps: dict[str, Took] = {}
    for place in places:
        chain = plan.begin(place)
        while not chain.complete:
            step, requests = chain.step.step, plan.requests(chain)
            name = step.name or "generate"
            steps[name] = steps.get(name, Took()).plus(meter.take(requests, answer))
            if isinstance(step.pick, PickByJudge):
                judged, model = f"{name}: judge", plan.teachers.model(step.pick.teacher)
                asked = [request.model_copy(update={"model": model}) for request in requests]
                steps[judged] = steps.get(judged, Took()).plus(meter.take(asked, 2))
            chain = imagined(chain, text)
    return steps


def unresolved(run: Run) -> Teachers:
    """The teachers of a run whose models are not at hand yet: where none is stated, the newest revision is taken."""
    models = {
        name: f"{teacher.model}@{teacher.revision or 'newest'}" for name, teacher in run.file.all_teachers.items()
    }
    return Teachers(own=models.pop(OWN_TEACHER, NOBODY), named=models)


def tokens_of_teacher(teacher: Teacher | None, root: Path, cache: Path, unseen: bool) -> Count:
    """Counts tokens as the teacher does. Without its tokenizer, four characters are taken for a token."""
    if unseen or teacher is None or teacher.engine in ("openai", "scripted"):
        return by_characters
    from harness.models.chat_template import load_tokenizer

    model = resolve(teacher.model, cache, teacher.revision, root)
    tokenizer = load_tokenizer(model.name, model.folder)
    return lambda text: len(tokenizer(text)["input_ids"])


def _prompt(request: Request) -> str:
    return request.prompt or "".join(message.content for message in request.messages)


def _dearer_price(teacher: Teacher) -> float:
    """Money a token, at the higher of a teacher's prices. 0 where it has none."""
    return max(teacher.prompt_price or 0.0, teacher.completion_price or 0.0) / 1e6


def _price(now: float, furthest: float, most: int) -> str:
    """What this round costs, and what `most` requested rows would."""
    more = f"; {furthest:.4f} should all {most} rows be requested" if furthest > now else ""
    return f"  about {now:.4f} in money at the dearer of the two prices{more}"


# --- train


def describe_training(run: Run) -> str:
    """Cells, steps and tokens of train, and which cells are stored. Imports no torch, makes no model ready.

    Tokens are counted with the student's own tokenizer on a sample of the rows, its chat template by a
    rule of thumb. Before augment has run, rows are taken to be as long as the seeds, or as the own rows. Of a
    student that is still to be fetched or converted nothing is known but its name.
    """
    settings, sample = run.file.train, sample_rows(run)
    folders = {
        student: resolve(student, run.cache, root=run.root).folder
        for student in settings.students
        if ready(student, run.cache, run.root)
    }
    counters = {student: fast_tokenizer(folders.get(student, Path())) or by_characters for student in settings.students}
    known: dict[str, GridCell] = {}
    first_cells: tuple[GridCell, ...] = ()
    unmeasured: list[Unmeasured] = []
    notes: list[str] = []
    if rows_are_made(run) and len(folders) == len(settings.students):
        plan, unmeasured = outline_training(run)
        known, notes = {planned.cell.name: planned for planned in plan.cells}, plan.notes
        first_cells = plan.pretraining
    elif run.file.augment.rows_file and not run.file.augment.teacher_writes:
        require_rows(settings.sizes, FILTERED, len(sample), more_rows(run.file.augment), run.name)
    lines: list[tuple[str, ...]] = []
    to_do: dict[str, tuple[str, Method, Sequence[Row]]] = {}  # cells of the same rows and settings are one
    missing_tokens = 0
    for planned in first_cells:
        seen = planned.steps * settings.batch_size
        tokens = _training_tokens(planned.rows, seen, counters[planned.cell.student])
        missing_tokens += 0 if planned.trained else tokens
        if not planned.trained:
            to_do[planned.key] = planned.cell.student, planned.method, planned.rows
        state = "stored" if planned.trained else "to do"
        name, pieces = planned.cell.name, f"{len(planned.rows)} pieces"
        lines.append((name, pieces, f"{planned.steps} steps", f"{tokens} tokens", state))
    for cell in grid_cells(settings, len(run.seeds)):
        made = known.get(cell.name)
        rows, trained = (made.rows, made.trained) if made else (sample if cell.size else (), None)
        steps = steps_of(cell, settings)
        tokens = _training_tokens(rows, steps * settings.batch_size, counters[cell.student])
        key = made.key if made else cell.name
        missing_tokens += 0 if trained or key in to_do else tokens
        if rows and not trained:
            to_do[key] = cell.student, settings.by_method[cell.method], rows
        waiting = "rows not measured yet" if unmeasured else "rows or student not there yet"
        state = {True: "stored", False: "to do", None: waiting}[trained]
        lines.append((cell.name, f"{cell.size} rows", f"{steps} steps", f"{tokens} tokens", state))
    described = aligned(lines, right=(1, 2, 3), indent="  ")
    first = "".join(f"\n  first, {missing.words}" for missing in unmeasured)
    tokens_left = f"{missing_tokens} tokens to train on, estimated"
    takes = _takes(list(to_do.values()), folders, counters, settings, run.cache)
    said = (tokens_left, settings.budget, *_validation(run), *_methods(settings, folders), *takes, *notes)
    how = "".join(f"\n  {line}" for line in said)
    return f"train {run.name} would tune:{first}\n{described}{how}"


def _validation(run: Run) -> Iterator[str]:
    """What is measured beside training, where something is."""
    if settings := run.file.train.validation:
        count = len(validation.dev_items(run))
        yield f"the loss of {count} dev items every {settings.every} steps of a cell, not among these tokens"


def _methods(settings: Train, folders: Mapping[str, Path]) -> Iterator[str]:
    """Every method with the learning rate of each student. `folders`: of the students whose weights are here."""
    for name, method in settings.by_method.items():
        rate = str(method.learning_rate)
        if rate == "auto":
            rates = {student: f"{peak_rate(method, student, folder)}" for student, folder in folders.items()}
            later = "known with its weights"
            rate = f"auto: {', '.join(f'{rates.get(student, later)} for {student}' for student in settings.students)}"
        yield f"{name + ': ' if name else ''}{method.words}; learning rate {rate}"


def _takes(
    missing: Sequence[tuple[str, Method, Sequence[Row]]],
    folders: Mapping[str, Path],
    counters: Mapping[str, Count],
    settings: Train,
    cache: Path,
) -> list[str]:
    """Disk that the missing cells take, and memory at the peak, of the students that are at hand."""
    said, disk = [], 0
    for name, folder in folders.items():
        cells = [(method, rows) for student, method, rows in missing if student == name]
        student = architecture(name, folder) if cells else None
        if student is None:
            continue
        kinds: dict[bool, Sequence[Row]] = {}  # pieces of raw text and rows differ in length
        for _, of_cell in sorted(cells, key=lambda cell: len(cell[1])):
            kinds[of_cell[0].provenance.source == "document"] = of_cell[:SAMPLE]
        rows = [row for of_kind in kinds.values() for row in of_kind]
        lengths = [chat_tokens(row.messages, counters[name]) for row in rows]
        learned = [counters[name](row.answer) + 1 for row in rows]
        taken, peak = footprint(student, settings, [method for method, _ in cells], lengths, learned, HALF, shared=True)
        disk += taken
        said.append(
            f"{name}: rows of up to about {max(lengths)} tokens (train.max_length {settings.max_length}), about"
            f" {peak.words} of memory at the peak"
        )
    free = shutil.disk_usage(existing_parent(cache)).free
    return [*said, f"about {size(disk)} of disk with checkpoints, {size(free)} are free"] if said else []


def rows_are_made(run: Run) -> bool:
    """Whether what cells draw from is there: augment has run, or only seeds are wanted."""
    return set(run.file.train.data_names) == {SEEDS_ONLY} or read_manifest(run.folder / "augment") is not None


def sample_rows(run: Run) -> tuple[Row, ...]:
    """What rows will be like before augment has made them: the rows that a user has, else the seeds."""
    template, file = run.prompts.student, run.file.augment.rows_file
    own = own_rows(run.task, template, file, run.root, f"runs/{run.name}.yaml")
    return own or seed_rows(run.task, template, run.seeds)


def _training_tokens(rows: Sequence[Row], seen: int, count: Count) -> int:
    """Tokens of `seen` rows drawn from `rows`, from the mean of a sample."""
    sample = rows[:SAMPLE]
    if not sample:
        return 0
    return round(seen * sum(chat_tokens(row.messages, count) for row in sample) / len(sample))


# --- eval and rescore


def describe_scoring(run: Run) -> str:
    """Scorecards and requests of eval: pairs measured by log-likelihood, answers generated at most, what is judged."""
    train = run.file.train
    untuned = untuned_names(train, run.file.eval.compare, run.file.teacher)
    if not all(ready(name, run.cache, run.root) for name in (*train.students, *untuned)):
        # what is stored is known by a model's weights, and a dry run makes none ready
        return _cards_and_requests(outline_scoring(run), run.name)
    try:
        plan = plan_scoring(run)
    except UsageError:
        first = f"  its students are not trained yet: make augment train RUN={run.name} comes first"
        return f"{_cards_and_requests(outline_scoring(run), run.name)}\n{first}"
    done = finished(run.folder / "eval", plan.inputs)
    if done:
        head = f"eval {run.name} would do nothing: {done.summary} are stored (the cheap reference's among them)"
        return f"{head}; same students, suites and prompts"
    stored = [card.key for card in plan.cards if stored_card(card, run.cache / "scores")]
    said = f"\n  {len(stored)} of {len(plan.cards)} cards are stored already, and not counted here" if stored else ""
    return _cards_and_requests(plan.without(stored), run.name) + said


def _cards_and_requests(plan: EvalPlan, run: str) -> str:
    """A plan's cards by suite, each with what it asks of the models."""
    tuned = sum(candidate.tuned for candidate in plan.candidates)
    untuned = {candidate.cell for candidate in plan.candidates if not candidate.tuned}
    rows = []
    for name, cards in plan.by_suite.items():
        suite = cards[0].suite
        all_items, dev = suite.spec.requests(suite.items), dev_items(suite)
        line = f"{len(cards)} cards of {all_items.items} items"
        if not all_items.counted:
            rows.append((name, f"{line}, as lm-evaluation-harness asks them"))
            continue
        promptings = [card.candidate.prompting for card in cards if suite.of_task and not card.candidate.tuned]
        tries = [most_tries(*plan.ways(prompting)) for prompting in promptings]
        on_first, on_dev = (sum(counts) for counts in zip(*tries, strict=True)) if tries else (0, 0)
        first = suite.spec.requests(dev[:FIRST_ITEMS])
        passes = ((len(cards), all_items), (on_first, first), (on_dev, suite.spec.requests(dev)))
        pairs = sum(times * asked.loglikelihoods for times, asked in passes)
        answers = sum(times * asked.answers for times, asked in passes)
        requests = f"{pairs} log-likelihoods, at most {answers} generated answers"
        more = on_first + on_dev
        requests += f", choosing among {more} more ways to ask on dev items included" if more else ""
        rows.append((name, f"{line}: {requests}{_judge_requests(suite, len(cards))}"))
    head = f"eval {run} would score ({tuned} tuned students, {len(untuned)} untuned models):"
    return f"{head}\n{aligned(rows, indent='  ')}"


def describe_rescoring(cell: Cell, suites: Iterable[Suite], run: str) -> str:
    """What `harness rescore` would ask of the ship student again."""
    rows = []
    for suite in suites:
        if suite.items:
            once = suite.spec.requests(suite.items)
            requests = f"{PASSES * once.loglikelihoods} log-likelihoods"
            requests += f", at most {PASSES * once.answers} generated answers{_judge_requests(suite, PASSES)}"
            rows.append((suite.name, f"{once.items} items: {requests}"))
    head = f"rescore {run} would score {cell.name} {PASSES} times again, in other orders and batches:"
    return f"{head}\n{aligned(rows, indent='  ')}\n  and write runs/{run}/eval/noise.json"


def describe_parity(cell: Cell, suite: Suite, run: str) -> str:
    """What `rescore --engine vllm` would ask of both engines."""
    items = min(ITEMS, sum(item.split == "test" for item in suite.items))
    return (
        f"rescore {run} would ask transformers, then vLLM, about {items} items of {suite.name} with {cell.name}:"
        f" {2 * items} requests each, and write runs/{run}/eval/agree.json"
    )


def _judge_requests(suite: Suite, times: int) -> str:
    """What a judge of a suite's answers is asked, all items so many times and its planted pairs once."""
    if suite.rubric is None:
        return ""
    items = len(suite.items)
    pairs = times * items + min(suite.rubric.planted, items)
    return f", about {2 * pairs} requests to its judge, less what it was asked before"
