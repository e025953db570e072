"""Rows in the making: the teacher is kept busy while what it wrote is read and judged.

One stream of requests goes to the engine: what the rules ask about the rows so far, and else the next row to be
written. A rule that looks at one row alone judges each row once, in parts, as rows come. A rule that compares rows is
given all of them when it is asked for the outcome. The outcome is a function of the completions in request order,
whatever order they arrived in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harness.augment.ask import Asker
from harness.augment.rows import Judged, Lost
from harness.filters.base import Rule
from harness.records import Completion, Request, Row, Verdict

FRUITLESS = 256  # first requests of which not a single row is kept, after which no more rows are asked for
PART = 16  # rows judged together, at least: a rule may start a process of its own for them


Place = tuple[str, str]  # a request's key and label: two labels may be asked for in the same words


@dataclass
class Draft:
    """A row that is being judged."""

    row: Row
    questions: tuple[tuple[Request, ...], ...]  # what each rule asks about it
    unanswered: int
    verdicts: tuple[Verdict, ...] | None = None  # of the rules that look at one row alone, in their order


class Scheduler:
    """Hands out requests, reads what comes back, and has every row judged.

    `read` makes a row of a completion, or says why there is none.
    """

    def __init__(self, rules: Sequence[Rule], read: Callable[[Request, Completion], Row | Lost], ask: Asker) -> None:
        self.rules, self.read, self.ask = rules, read, ask
        self.order: list[Place] = []  # of this round's requests, or of own rows; rows keep this order
        self.fruitless = False  # nothing is kept of so many that asking on would be a waste
        self.passing = 0  # rows that no rule on one row alone drops
        self._drafts: dict[Place, Draft] = {}
        self._lost: dict[Place, Lost] = {}
        self._written: dict[str, list[Request]] = {}  # what the teacher is writing, by request key
        self._questions: deque[Request] = deque()  # not handed out yet
        self._waiting: dict[str, list[Draft]] = {}  # key of a question -> the rows that it is about
        self._ready: list[Draft] = []  # rows without an open question that are not judged yet
        self._judged = 0
        self._looked = False  # whether it is known that something is kept, or that nothing is

    def judge(self, rows: Sequence[Row], tick: Callable[[], None]) -> None:
        """Have rows judged that are there already."""
        self.order = [(str(i), "") for i in range(len(rows))]
        self._looked = True
        for place, row in zip(self.order, rows, strict=True):
            self._add(place, row)
        self._run(iter(()), tick)

    def write(self, requests: Iterator[Request], tick: Callable[[], None]) -> None:
        """Have rows written and judged. Rows of requests that were answered before are as they were.

        `tick` is called after every answer. Ends early when the work is stopped, or when nothing at all is kept.
        """
        self.order = []
        self._run(requests, tick)

    def outcome(self) -> tuple[list[Judged], list[Lost]]:
        """(Rows with every rule's verdict, what gave no row), both in request order."""
        drafts = [self._drafts[place] for place in self.order if place in self._drafts]
        judged_alone = [(draft.row, draft.verdicts) for draft in drafts if draft.verdicts is not None]
        rows = [row for row, _ in judged_alone]
        lone_verdicts = zip(*(verdicts for _, verdicts in judged_alone), strict=True)
        columns = [
            rule.verdicts(rows, [()] * len(rows)) if rule.compares_rows else next(lone_verdicts, ())
            for rule in self.rules
        ]
        judged = [Judged(row=row, verdicts=verdicts) for row, *verdicts in zip(rows, *columns, strict=True)]
        return judged, [self._lost[place] for place in self.order if place in self._lost]

    def _run(self, requests: Iterator[Request], tick: Callable[[], None]) -> None:
        answered = True
        while answered:  # a pass ends when there is nothing to ask until one in flight is answered
            answered = False
            for completion in self.ask(self._next(requests)):
                answered = True
                self._take(completion)
                tick()
        if self.ask.stop():
            rest = next(self._next(requests), None)
            self.ask.cut_short |= bool(rest or self._written or self._waiting)
        unfinished = {id(draft): draft for drafts in self._waiting.values() for draft in drafts}
        self._judge([*self._ready, *unfinished.values()])

    def _next(self, requests: Iterator[Request]) -> Iterator[Request]:
        """What can be asked now: a row that has been written is judged before another is begun."""
        while True:
            if self._questions:
                yield self._questions.popleft()
                continue
            request = None if self.fruitless or self._in_doubt() else next(requests, None)
            if request is None:
                return
            key = request.key
            place = (key, request.origin.label)
            self.order.append(place)
            if place in self._drafts or place in self._lost:
                continue
            if key in self.ask.answers:  # the same prompt, answered for another label
                self._add(place, self.read(request, self.ask.answers[key]))
                continue
            self._written.setdefault(key, []).append(request)
            if len(self._written[key]) == 1:
                yield request

    def _take(self, completion: Completion) -> None:
        for request in self._written.pop(completion.request, ()):
            self._add((completion.request, request.origin.label), self.read(request, completion))
        for draft in self._waiting.pop(completion.request, ()):
            draft.unanswered -= 1
            if not draft.unanswered:
                self._ready.append(draft)
        if len(self._ready) >= max(PART, self._judged // 8):
            self._judge(self._ready)
        if not self._looked and len(self.order) >= FRUITLESS:
            self._look()

    def _in_doubt(self) -> bool:
        """Whether so many answers gave nothing that the first requests are waited for before more is asked."""
        if self._looked or len(self._lost) + self._judged + len(self._ready) < FRUITLESS:
            return False
        self._judge(self._ready)
        return not self.passing

    def _look(self) -> None:
        """Find out, once, whether anything is kept of the first requests. What came after them decides nothing."""
        first = self.order[:FRUITLESS]
        settled = (p in self._lost or (p in self._drafts and not self._drafts[p].unanswered) for p in first)
        if not all(settled):
            return
        self._looked = True
        self._judge(self._ready)
        order, self.order = self.order, first
        self.fruitless = not any(row.kept for row in self.outcome()[0])
        if not self.fruitless:
            self.order = order

    def _add(self, place: Place, entry: Row | Lost) -> None:
        if isinstance(entry, Lost):
            self._lost[place] = entry
            return
        questions = tuple(rule.requests(entry) for rule in self.rules)
        keys = {q.key: q for of_rule in questions for q in of_rule if q.key not in self.ask.answers}
        draft = self._drafts[place] = Draft(entry, questions, len(keys))
        for question_key, question in keys.items():
            if question_key not in self._waiting:
                self._questions.append(question)
            self._waiting.setdefault(question_key, []).append(draft)
        if not keys:
            self._ready.append(draft)

    def _judge(self, drafts: Sequence[Draft]) -> None:
        """Have the rules that look at one row alone judge rows. A question that was stopped counts as failed."""
        self._ready = []
        rows = [draft.row for draft in drafts]
        columns = [
            rule.verdicts(rows, [[self.ask.of(q) for q in draft.questions[i]] for draft in drafts])
            for i, rule in enumerate(self.rules)
            if not rule.compares_rows
        ]
        for draft, *verdicts in zip(drafts, *columns, strict=True):
            draft.verdicts, draft.questions = tuple(verdicts), ()
            self.passing += all(verdict.keep for verdict in verdicts)
        self._judged += len(drafts)
