"""A suite proves itself before any student is asked: right answers score 1, silence scores 0.

Both go through the very scorers that score students, with an engine that knows the answers (`Oracle`) in the
student's place: once it prefers and writes what is right, once it prefers what is wrong and writes nothing. Beside
that every item renders and fits, none stands there twice, and every version has a dated note. After the tests that
the suites of verifiers (Prime Intellect) keep for themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from harness.config.run import Run
from harness.core.aligned import aligned
from harness.core.terminal import Terminal
from harness.core.text import normalise
from harness.errors import HarnessError, UsageError
from harness.eval.prompting import one_line, prompt_forms
from harness.models.chat_template import load_chat, prompt_ids
from harness.models.files import text_number
from harness.models.resolve import resolve
from harness.records import Item, Score
from harness.suites import benchmarks
from harness.suites.benchmark import BenchmarkSuite
from harness.suites.benchmark_rows import documents_of
from harness.suites.choice import ChoiceSuite
from harness.suites.free_text import plain_prompt
from harness.suites.generate import Ending, Prompt, RenderedPrompt
from harness.suites.oracle import Gold, Oracle, read
from harness.suites.suite import Resources, Suite
from harness.suites.summary import RATES

CHARACTERS = 3  # of a token, where no tokenizer is at hand: English has four, and a guess must not be too low
CONTEXT = 2048  # tokens, likewise
DOCUMENTS = 100  # of a public benchmark that are proven, by content digest
NOTE = re.compile(r"(\d{4}-\d{2}-\d{2}): \S")
RIGHT = 0.999  # a right answer's share of probability may round


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a suite, or that could not be proven."""

    suite: str
    item: str  # its id; empty: the suite as a whole
    what: str
    wrong: bool = True  # False: not proven, which is no fault of the suite

    def __str__(self) -> str:
        place = f"{self.suite}, item {self.item}" if self.item else self.suite
        return f"{place}: {'' if self.wrong else 'not proven: '}{self.what}"


def listed(suites: Mapping[str, Suite]) -> str:
    """A line for each suite: its kind, version and number of items."""
    items = {n: f"{len(s.items)} items" if s.items else "items of its own benchmark" for n, s in suites.items()}
    return aligned([(n, s.spec.kind, f"version {s.spec.version}, {items[n]}") for n, s in suites.items()])


def validate_suites(
    suites: Mapping[str, Suite], run: Run | None, terminal: Terminal, root: Path | None = None
) -> list[Problem]:
    """Every problem of every suite, printed as it is found.

    A run gives the task's prompts and the students' tokenizers. Without one, items are asked as plain text and
    lengths are estimated: three characters a token, a context of 2048 tokens. `root`: the project, for the
    documents in which facts must stand.
    """
    root = root or Path()
    students, problems = [_estimate()], list[Problem]()
    if run:
        students, problems = _lengths(run.file.train.students, run.cache, run.root, run.name)
    for name, suite in suites.items():
        of_suite = [*_notes(suite), *_items(suite, students, run, root)]
        of_suite += [Problem(name, "", line) for line in suite.spec.extras.problems(suite.items, root)]
        wrong = sum(problem.wrong for problem in of_suite)
        size = f"{len(suite.items)} items" if suite.items else f"up to {DOCUMENTS} documents"
        state = f"{wrong} problems" if wrong else "not proven" if of_suite else "no problem found"
        terminal.say(f"{name}: {size}, {state}")
        problems += of_suite
    for problem in problems:
        terminal.say(f"  {problem}")
    return problems


# --- notes and items ------------------------------------------------------------------------------------------


def _notes(suite: Suite) -> Iterator[Problem]:
    """A dated note for every version up to the present one, in the order of time. A first version needs none."""
    changes, version = suite.spec.changes, suite.spec.version
    last = date.min
    for number in range(1, version + 1):
        note = changes.get(str(number), "")
        match = NOTE.match(note)
        if not note and version == 1:
            continue
        if not note:
            example = f'changes: {{"{number}": "{date.today().isoformat()}: what changed"}}'
            yield Problem(suite.name, "", f"version {number} of {version} has no change note; write {example}")
            continue
        try:
            when = date.fromisoformat(match[1]) if match else None
        except ValueError:
            when = None
        if when is None:
            yield Problem(suite.name, "", f'the note of version {number}, {note!r}, is not "YYYY-MM-DD: what changed"')
        elif when < last:
            yield Problem(suite.name, "", f"the note of version {number} is dated before that of the version under it")
        last = when or last
    for extra in sorted(set(changes) - {str(number) for number in range(1, version + 1)}):
        yield Problem(suite.name, "", f"there is a note for version {extra!r}, and the suite is at version {version}")


def _items(suite: Suite, students: Sequence[Lengths], run: Run | None, root: Path) -> Iterator[Problem]:
    if isinstance(suite.spec, BenchmarkSuite):
        yield from _benchmark(suite, suite.spec, students)
        return
    yield from _duplicates(suite)
    sound: list[Item] = []
    for item in suite.items:
        problem = _malformed(item)
        if problem:
            yield Problem(suite.name, item.id, problem)
        else:
            sound.append(item)
    for how, (prompt, ending) in _prompts(suite, run).items():
        good: list[Item] = []
        for item in sound:
            what = _unaskable(suite, item, prompt, students)
            if what:
                yield Problem(suite.name, item.id, f"{how}: {what}")
            else:
                good.append(item)
        yield from _answers(suite, good, how, prompt, ending, root)


def _malformed(item: Item) -> str:
    """What is wrong with the item itself, or ''. What loading a suite refuses is not checked again."""
    if not item.text.strip():
        return "its text is empty"
    twins = {c for i, c in enumerate(item.choices) if normalise(c) in map(normalise, item.choices[:i])}
    return f"two of its choices read the same: {', '.join(sorted(twins))}" if twins else ""


def _duplicates(suite: Suite) -> Iterator[Problem]:
    """Items that ask the same, by text without case, punctuation and spacing."""
    first: dict[object, Item] = {}
    for item in suite.items:
        choices = tuple(sorted(map(normalise, item.choices)))
        twin = first.setdefault((normalise(item.text), choices), item)
        if twin is not item:
            what = f"{item.text!r} is a duplicate: asks the same as {twin.text!r}, item {twin.id}"
            yield Problem(suite.name, item.id, what)


def _prompts(suite: Suite, run: Run | None) -> dict[str, tuple[Prompt, Ending]]:
    """How items are asked: what it is called, the prompt as a function of an item, where an answer ends."""
    spec = suite.spec
    if isinstance(spec, ChoiceSuite):
        return {"raw": (lambda item: spec.prompt(item.text), Ending())}
    if not suite.of_task:
        return {"plain": (plain_prompt, Ending())}
    if run is None:
        lines = all("\n" not in answer for item in suite.items for answer in item.answers)
        return {"as plain text": (lambda item: item.text, Ending(one_line=lines))}
    prompts = prompt_forms(run.task, run.prompts, one_line(seed.answer for seed in run.seeds))
    name = run.task.untuned_prompt or str(prompts.template.path)
    return {
        run.task.prompt or str(prompts.student.path): (prompts.tuned, Ending()),
        f"{name} as a completion": (lambda item: prompts.prompt("completion", item.question, ()), prompts.ending),
        f"{name} as a chat": (lambda item: prompts.prompt("chat", item.question, ()), prompts.ending),
    }


def _unaskable(suite: Suite, item: Item, prompt: Prompt, students: Sequence[Lengths]) -> str:
    """Why an item cannot be asked: it does not render, or it or its answer does not fit. '' where it can."""
    try:
        question = prompt(item)
    except UsageError as error:
        return f"it does not render: {error}"
    limit = suite.spec.max_tokens
    for student in students:
        try:
            length = student.prompt(question)
        except UsageError as error:
            return f"{student.name}: {error}"
        answers = suite.spec.gold(item)
        longest = max((student.text(answer) for answer in item.choices or answers), default=limit or 1)
        if length + longest > student.context:
            return (
                f"{student.name}: {length} tokens and {longest} of the answer are longer than the context of"
                f" {student.context}"
            )
        needed = max(map(student.text, answers), default=0)
        if limit is not None and needed > limit:
            return f"{student.name}: a right answer takes {needed} tokens and max_tokens is {limit}"
    return ""


# --- right answers and silence ----------------------------------------------------------------------------------


def _answers(
    suite: Suite, items: Sequence[Item], how: str, prompt: Prompt, ending: Ending, root: Path
) -> Iterator[Problem]:
    """Problems of right answers that do not score 1, each accepted one in turn, and of silence that scores."""

    def scored(items: Sequence[Item], oracle: Oracle) -> Sequence[Score]:
        return suite.spec.score(items, prompt, ending, oracle, "oracle", Resources(root=root)).scores

    gold = {item.id: answers for item in items if (answers := suite.spec.gold(item))}
    if not gold or suite.rubric:
        return  # an open instruction has no right answer, and a judge's is not known before it is asked
    items = [item for item in items if item.id in gold]
    for turn in range(max(map(len, gold.values()))):
        right_answers = {
            read(prompt(item)): Gold(gold[item.id][min(turn, len(gold[item.id]) - 1)], gold[item.id]) for item in items
        }
        items_with_turn = [item for item in items if turn < len(gold[item.id])]
        scores = scored(items_with_turn, Oracle(right_answers))
        yield from _not_right(suite.name, how, scores, {item.id: gold[item.id][turn] for item in items_with_turn})
        if not turn:
            yield from _not_wrong(suite.name, how, scored(items, Oracle(right_answers, silent=True)))


def _not_right(suite: str, how: str, scores: Iterable[Score], gold: Mapping[str, str]) -> Iterator[Problem]:
    for score in scores:
        right = gold.get(score.item, score.gold)
        if score.status == "failed":
            yield Problem(suite, score.item, f"{how}: it cannot be scored: {score.error}")
            continue
        rates = {name: score.values[name] for name in RATES if name in score.values}
        below = [f"{name} {value:g}" for name, value in rates.items() if value < RIGHT]
        if not rates or below:
            listed = ", ".join(below) or "no accuracy"
            yield Problem(suite, score.item, f"{how}: the right answer {right!r} scores {listed}")


def _not_wrong(suite: str, how: str, scores: Iterable[Score]) -> Iterator[Problem]:
    for score in scores:
        above = [f"{name} {score.values[name]:g}" for name in RATES if score.values.get(name, 0.0) > 1 - RIGHT]
        if score.status != "failed" and above:
            yield Problem(suite, score.item, f"{how}: an empty answer, wrong choices preferred, scores {above[0]}")


def _benchmark(suite: Suite, spec: BenchmarkSuite, students: Sequence[Lengths]) -> Iterator[Problem]:
    """The same for a public benchmark, through lm-evaluation-harness, on its first documents by digest.

    What is right is read from the library's own rows, and judged by its own metric.
    """
    few = spec.model_copy(update={"limit": min(spec.limit or DOCUMENTS, DOCUMENTS)})
    try:
        tasks = benchmarks.benchmark_tasks(few)
    except benchmarks.NotReachable as why:
        yield Problem(suite.name, "", str(why), wrong=False)
        return
    documents = benchmarks.chosen_documents(tasks, few.limit)
    blind = benchmarks.score_benchmark(few, tasks, Oracle({})).scores
    for score in (s for s in blind if s.status == "failed"):
        yield Problem(suite.name, score.item, f"{spec.benchmark}: it cannot be scored: {score.error}")
    rights = {s.item: s.gold for s in blind if s.gold and s.status != "failed"}
    broken = {s.item for s in blind if s.status == "failed"}
    right_answers: dict[str, Gold] = {}
    for task, index, name in documents:
        if name in broken:  # its question may not even render, and it is not asked
            continue
        question = str(task.doc_to_text(documents_of(task)[index])).strip()
        gold = rights.get(name)
        if gold is None:
            yield Problem(suite.name, name, "its task does not say what is right", wrong=False)
        elif right_answers.setdefault(question, Gold(gold, tuple(gold.split(" | ")))).text != gold:
            del rights[name]
            yield Problem(suite.name, name, "another document asks the same and has another answer", wrong=False)
    oracle = Oracle(right_answers, endings=True)
    scores = benchmarks.score_benchmark(few, tasks, oracle).scores
    if oracle.lost:
        what = f"{oracle.lost} of its prompts do not end in the question: what is right there is not known here"
        yield Problem(suite.name, "", what, wrong=False)
        return
    yield from _not_right(suite.name, spec.benchmark, (s for s in scores if s.item in rights), rights)
    silent = Oracle(right_answers, endings=True, silent=True)
    scores = benchmarks.score_benchmark(few, tasks, silent).scores
    yield from _not_wrong(suite.name, spec.benchmark, (s for s in scores if s.item in rights))
    for student in students:
        length = student.text(oracle.longest)
        if length > student.context:
            what = f"{student.name}: its longest prompt has {length} tokens, the context {student.context}"
            what = f"{what}; such documents fail by name, take fewer examples"
            yield Problem(suite.name, "", what, wrong=student.counted)


# --- lengths ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lengths:
    """How long texts are to one student, in its own tokens."""

    name: str
    context: int  # tokens
    prompt: Callable[[RenderedPrompt], int]  # tokens of a prompt up to where the answer begins
    text: Callable[[str], int]  # tokens of a text
    counted: bool = True  # with the student's own tokenizer, not estimated


def _lengths(names: Sequence[str], cache: Path, root: Path, run: str) -> tuple[list[Lengths], list[Problem]]:
    """The run's students. One without a tokenizer is estimated, and named in a problem."""
    students: list[Lengths] = []
    problems: list[Problem] = []
    for name in names:
        try:
            students.append(_lengths_of(name, resolve(name, cache, root=root).folder))
        except HarnessError as error:
            students.append(_estimate())
            what = f"lengths were estimated, not counted with the tokenizer of {name}: {error}"
            problems.append(Problem(run, "", what, wrong=False))
    return students, problems


def _lengths_of(student: str, folder: Path) -> Lengths:
    chat = load_chat(student, folder)
    positions = text_number(student, folder / "config.json", "max_position_embeddings") or CONTEXT

    def text(of: str) -> int:
        return len(chat.tokenizer(of, verbose=False)["input_ids"])

    return Lengths(
        name=student,
        context=int(min(positions, chat.tokenizer.model_max_length)),
        prompt=lambda prompt: text(prompt) if isinstance(prompt, str) else len(prompt_ids(chat, prompt)),
        text=text,
    )


def _estimate() -> Lengths:
    def text(of: str) -> int:
        return -(-len(of) // CHARACTERS)

    return Lengths(
        f"at {CHARACTERS} characters a token",
        CONTEXT,
        lambda asked: text(asked if isinstance(asked, str) else read(asked)),
        text,
        counted=False,
    )
