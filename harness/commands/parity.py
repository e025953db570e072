"""Two engines, one student, the same items: does vLLM answer as transformers does?

What was scored with one engine ships in the other. Both are asked the same two things per item: the greedy answer,
with the log-probabilities of its first token, and one of the labels by guided decoding. The vLLM engine gives no
log-likelihoods of whole answers, so what is compared of them is the first token's, over the tokens that both report
among their twenty likeliest. Guided decoding differs by design where a label can be cut into tokens in several
ways: vLLM allows every way, the transformers engine the tokenizer's own. A tuned student is sure of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from harness import stats
from harness.config.run import Run
from harness.config.ship import ship_cells
from harness.core.record import FORMAT, Record, digest
from harness.core.store import write_json
from harness.core.terminal import Terminal
from harness.core.text import named_label
from harness.engines.protocols import StudentEngine
from harness.errors import UsageError
from harness.eval.plan import plan_scoring
from harness.records import Completion, Item, Request, Sampling
from harness.stats import Interval
from harness.suites.generate import Prompt, RenderedPrompt, request_for
from harness.suites.suite import Suite

FILE = "agree.json"
ITEMS = 200
MOST_LISTED = 10  # differing items printed
QUANTILES = (0.5, 0.95, 1.0)
REPORTED = 20  # likeliest first tokens
BROKEN = "\ufffd"  # what part of a character reads as
NAMES = ("transformers", "vLLM")


class Server(Protocol):
    """An engine that writes, and frees the machine when told to."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """As records.Generator."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


OpenStudent = Callable[[Path, Path | None], StudentEngine]  # base folder, adapter folder -> transformers
OpenServer = Callable[[Path, Path | None, str], Server]  # base, adapter, the name requests ask for -> vLLM


class Answered(Record):
    """What one engine said about one item."""

    written: str
    label: str  # the label in what it wrote, or ""
    picked: str  # the label under guided decoding
    right: bool  # what it wrote
    picked_right: bool


class Differing(Record):
    """An item that the two engines answer differently."""

    item: str
    text: str
    gold: str
    transformers: Answered
    vllm: Answered


class Agreement(Record):
    """runs/NAME/eval/agree.json."""

    format: int = FORMAT
    student: str
    suite: str
    suite_digest: str
    items: int  # asked of both
    failed: int  # of these, one engine gave no answer: not compared, and named in `errors`
    errors: tuple[str, ...]
    written_equal: int
    label_equal: int  # the label in the written answer, none included
    picked_equal: int
    measured: int  # items whose first-token log-probabilities both engines report
    logprob_differences: dict[str, float]  # quantile -> nats, over the tokens both report of all measured items
    accuracy: Interval | None  # vLLM minus transformers, written answers
    choice_accuracy: Interval | None  # the same, guided choices
    differing: tuple[Differing, ...]


def parity(
    run: Run, open_student: OpenStudent, open_server: OpenServer, terminal: Terminal, limit: int = ITEMS
) -> Agreement:
    """Ask both engines about up to `limit` items of the task's suite, one engine in memory at a time.

    The student is the one that `ship` names. Prints and stores the differences. Raises UsageError without a ship
    section or a labels suite, and when the student is not trained.
    """
    suite = compared_suite(run.suites, run.name)
    assert suite.spec.max_tokens is not None
    (cell, *_), plan = ship_cells(run), plan_scoring(run)
    candidate, prompts = plan.student(cell, run.name), plan.prompts
    items = sorted((i for i in suite.items if i.split == "test"), key=lambda i: digest("agree", i.id))[:limit]
    terminal.say(f"rescore: {len(items)} items of {suite.name}, {candidate.cell.name}: transformers, then vLLM")
    student = open_student(candidate.base, candidate.adapter)

    def plain(item: Item) -> RenderedPrompt:
        return prompts.prompt("completion", item.question, ())

    prompt = prompts.tuned if candidate.tuned else plain
    requests = ask(items, prompt, candidate.key, suite.spec.max_tokens)
    first = {c.request: c for c in student.generate(requests)}
    del student  # let go of it before the other is loaded
    server = open_server(candidate.base, candidate.adapter, candidate.key)
    try:
        second = {c.request: c for c in server.generate(requests)}
    finally:
        server.close()
    agreement = compare(items, requests, first, second)
    agreement = agreement.model_copy(
        update={"student": candidate.cell.name, "suite": suite.name, "suite_digest": suite.digest}
    )
    write_json(run.folder / "eval" / FILE, agreement.model_dump(mode="json"))
    terminal.say(_text(agreement))
    terminal.say(f"rescore: {(run.folder / 'eval' / FILE).relative_to(run.root)}")
    return agreement


def compared_suite(suites: Mapping[str, Suite], run: str) -> Suite:
    """The run's first labels suite. Raises UsageError without one."""
    suite = next((suite for suite in suites.values() if suite.choices), None)
    if suite is None:
        raise UsageError(f"runs/{run}.yaml: eval.suites: none is of kind labels, which is what is compared")
    return suite


def ask(items: Sequence[Item], prompt: Prompt, model: str, max_tokens: int) -> list[Request]:
    """The greedy answers to all items, in order, then one of the labels for each."""
    prompts = [prompt(item) for item in items]
    free, guided = [], []
    for item, question in zip(items, prompts, strict=True):
        plain = isinstance(question, str)
        choices = tuple((" " if plain else "") + choice for choice in item.choices)
        longest = max(len(choice.encode()) for choice in choices) + 1  # vLLM cuts a choice there; a token has a byte
        stop = ("\n",) if plain else ()
        sampling = Sampling(temperature=0.0, max_tokens=max_tokens, stop=stop, logprobs=REPORTED)
        free.append(request_for(question, model, sampling, item.id))
        guided.append(
            request_for(question, model, Sampling(temperature=0.0, max_tokens=longest, choices=choices), item.id)
        )
    return [*free, *guided]


def compare(
    items: Sequence[Item],
    requests: Sequence[Request],
    first: dict[str, Completion],
    second: dict[str, Completion],
) -> Agreement:
    """Both engines' answers to `ask(items, ...)`, by request key. An item one engine failed on is not compared."""
    errors: list[str] = []
    pairs: list[tuple[Item, Answered, Answered]] = []
    gaps: list[float] = []
    measured = 0
    for i, item in enumerate(items):
        free, guided = requests[i], requests[len(items) + i]
        answers = [(engine.get(free.key), engine.get(guided.key)) for engine in (first, second)]
        read = [_answered(item, *both) for both in answers]
        if read[0] is None or read[1] is None:
            errors += [f"{item.id}: {name}: {_error(both)}" for name, both in zip(NAMES, answers, strict=True)
                       if _error(both)]  # fmt: skip
            continue
        pairs.append((item, read[0], read[1]))
        apart = _logprob_gaps(answers[0][0], answers[1][0])
        measured += bool(apart)
        gaps += apart
    return Agreement(
        student="",
        suite="",
        suite_digest="",
        items=len(items),
        failed=len(items) - len(pairs),
        errors=tuple(errors),
        written_equal=sum(a.written == b.written for _, a, b in pairs),
        label_equal=sum(a.label == b.label for _, a, b in pairs),
        picked_equal=sum(a.picked == b.picked for _, a, b in pairs),
        measured=measured,
        logprob_differences={f"{q:g}": float(np.quantile(gaps, q)) for q in QUANTILES} if gaps else {},
        accuracy=_difference([(a.right, b.right) for _, a, b in pairs]),
        choice_accuracy=_difference([(a.picked_right, b.picked_right) for _, a, b in pairs]),
        differing=tuple(
            Differing(item=item.id, text=item.text, gold=_gold(item), transformers=a, vllm=b)
            for item, a, b in pairs
            if (a.written, a.picked) != (b.written, b.picked)
        ),
    )


def _gold(item: Item) -> str:
    return item.choices[item.gold] if item.gold is not None else ""


def _error(both: tuple[Completion | None, Completion | None]) -> str:
    """Why one of an engine's two completions is no answer, or ''."""
    return next((c.error if c else "no answer came back" for c in both if c is None or c.finish_reason == "error"), "")


def _answered(item: Item, free: Completion | None, guided: Completion | None) -> Answered | None:
    if free is None or guided is None or "error" in (free.finish_reason, guided.finish_reason):
        return None
    written, picked = free.text.strip(), guided.text.strip()
    label = named_label(written, item.choices) or ""
    gold = _gold(item)
    return Answered(written=written, label=label, picked=picked, right=label == gold, picked_right=picked == gold)


def _logprob_gaps(a: Completion | None, b: Completion | None) -> list[float]:
    """Absolute differences (nats) of the log-probabilities of the first tokens that both report.

    Tokens are told apart by their text. Parts of a character all have the same text and are left out.
    """
    if a is None or b is None:
        return []
    first, second = a.first_logprobs, b.first_logprobs
    return [abs(first[token] - second[token]) for token in first if token in second and BROKEN not in token]


def _difference(right: Sequence[tuple[bool, bool]]) -> Interval | None:
    if not right:
        return None
    ours, theirs = np.array(right, dtype=float).T
    return stats.paired_binary(theirs, ours)


def _text(agreement: Agreement) -> str:
    """For the terminal."""
    compared = agreement.items - agreement.failed
    lines = [f"{agreement.student} on {agreement.suite}: {agreement.items} items, vLLM beside transformers"]
    if agreement.failed:
        lines.append(f"  {agreement.failed} not compared: {'; '.join(agreement.errors[:3])}")
    lines.append(f"  written answer equal: {agreement.written_equal} of {compared}; its label: {agreement.label_equal}")
    ways = "vLLM also allows other ways to cut a label into tokens"
    lines.append(f"  label picked under guided decoding equal: {agreement.picked_equal} of {compared} ({ways})")
    if agreement.logprob_differences:
        half, most, largest = (agreement.logprob_differences[f"{q:g}"] for q in QUANTILES)
        lines.append(
            f"  log-probability of an answer's first token ({agreement.measured} items, {REPORTED} likeliest):"
            f" differs by {half:.3g} nats in the median, {most:.3g} at the 95th percentile, {largest:.3g} at most"
        )
    else:
        lines.append("  log-probabilities: none that both engines report")
    for name, i in (("written answer", agreement.accuracy), ("guided choice", agreement.choice_accuracy)):
        if i:
            change = f"{i.estimate:+.4f} [{i.low:+.4f}, {i.high:+.4f}] ({i.method}, n={i.n})"
            lines.append(f"  accuracy of the {name}, vLLM minus transformers: {change}")
    for item in agreement.differing[:MOST_LISTED]:
        a, b = item.transformers, item.vllm
        lines.append(f"  {item.item} {item.text!r}: {a.written!r}/{a.picked!r} against {b.written!r}/{b.picked!r}")
    if len(agreement.differing) > MOST_LISTED:
        lines.append(f"  ... and {len(agreement.differing) - MOST_LISTED} more items")
    return "\n".join(lines)
