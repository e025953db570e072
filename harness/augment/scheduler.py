"""Rows in the making: the teacher is kept busy while what it wrote is read and judged.

One stream of requests goes to the engine: what the rules ask about the rows so far, the next steps of rows that are
begun, and else the first step of another row. A rule that looks at one row alone judges each row once, in parts, as
rows come. A rule that compares rows is given all of them when it is asked for the outcome, and one that chooses among
rows, after those, which of them pass. The outcome is a function
of the completions in the order of places, whatever order they arrived in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.augment.ask import Asker
from harness.augment.chain import Chain, Place
from harness.augment.rows import Judged, Lost
from harness.core.record import compact
from harness.filters.base import Rule
from harness.records import Completion, Request, Row, Verdict

FRUITLESS = 256  # first rows begun of which not a single one is kept, after which no more are begun
OWN = "(own)"  # in the place of a row that was there already, in the place of its label
PART = 16  # rows judged together, at least: a rule may start a process of its own for them


class Maker(Protocol):
    """Makes rows step by step. `augment.plan.Plan` is one."""

    def begin(self, place: Place) -> Chain:
        """A row in the making, of which nothing is written yet."""
        ...

    def requests(self, chain: Chain) -> tuple[Request, ...]:
        """What is asked next: one request or more."""
        ...

    def take(self, chain: Chain, requests: Sequence[Request], answers: Sequence[Completion]) -> Chain | Row | Lost:
        """What becomes of the chain with the answers to those requests."""
        ...


@dataclass(slots=True)
class Begun:
    """A row in the making that waits for answers."""

    place: Place
    maker: Maker
    chain: Chain
    requests: tuple[Request, ...]
    unanswered: int


@dataclass(slots=True)
class Draft:
    """A row that is being judged."""

    row: Row
    questions: tuple[tuple[str, ...], ...]  # keys of what each rule asks about it
    unanswered: int
    verdicts: tuple[Verdict, ...] | None = None  # of the rules that look at one row alone, in their order


class Scheduler:
    """Hands out requests, reads what comes back, and has every row judged."""

    def __init__(self, rules: Sequence[Rule], ask: Asker) -> None:
        self.rules, self.ask = rules, ask
        self.order: list[Place] = []  # of the rows begun, or of own rows; rows keep this order
        self.fruitless = False  # nothing is kept of so many that asking on would be a waste
        self.passing = 0  # rows that no rule on one row alone drops
        self._own: list[Place] = []  # rows that were there already come before those that are written
        self._known: set[Place] = set()
        self._drafts: dict[Place, Draft] = {}
        self._lost: dict[Place, Lost] = {}
        self._questions: deque[Request] = deque()  # not handed out yet
        self._waiting: dict[str, list[Begun | Draft]] = {}  # key of a request -> what waits for its answer
        self._ready: list[Draft] = []  # rows without an open question that are not judged yet
        self._judged = 0
        self._looked = False  # whether it is known that something is kept, or that nothing is

    @property
    def settled(self) -> int:
        """Rows begun of which every answer is there, own rows among them."""
        return len(self._lost) + self._judged + len(self._ready)

    def judge(self, rows: Sequence[Row], tick: Callable[[], None]) -> None:
        """Have rows judged that are there already."""
        self._own = self.order = [(OWN, i) for i in range(len(rows))]
        self._looked = True
        for place, row in zip(self.order, rows, strict=True):
            self._add(place, row)
        self._run(iter(()), None, tick)

    def write(self, places: Iterator[Place], maker: Maker, tick: Callable[[], None]) -> None:
        """Have rows written and judged. Rows that were begun before are as they were.

        `tick` is called after every answer, and once all are judged. Ends early when the work is stopped, or when
        nothing at all is kept.
        """
        self.order = list(self._own)
        self._run(places, maker, tick)

    def outcome(self) -> tuple[list[Judged], list[Lost]]:
        """(Rows with every rule's verdict, what gave no row), both in the order of their places."""
        drafts = [self._drafts[place] for place in self.order if place in self._drafts]
        judged_alone = [(draft.row, draft.verdicts) for draft in drafts if draft.verdicts is not None]
        rows = [row for row, _ in judged_alone]
        lone_verdicts = zip(*(verdicts for _, verdicts in judged_alone), strict=True)
        columns = {
            i: rule.verdicts(rows, [()] * len(rows)) if rule.compares_rows else next(lone_verdicts, ())
            for i, rule in enumerate(self.rules)
            if rule.among is None
        }
        for i, rule in enumerate(self.rules):  # those that choose among what passes, one after the other
            if rule.among is not None:
                passing = [all(column[place].keep for column in columns.values()) for place in range(len(rows))]
                columns[i] = rule.among(rows, passing)
        in_order = [columns[i] for i in range(len(self.rules))]
        judged = [compact(Judged(row=row, verdicts=verdicts)) for row, *verdicts in zip(rows, *in_order, strict=True)]
        return judged, [self._lost[place] for place in self.order if place in self._lost]

    def _run(self, places: Iterator[Place], maker: Maker | None, tick: Callable[[], None]) -> None:
        for completion in self.ask(self._next(places, maker)):
            self._take(completion)
            tick()
        if self.ask.ended():
            self.ask.cut_short |= bool(self._waiting or self._questions or next(places, None))
        unfinished = {id(item): item for items in self._waiting.values() for item in items if isinstance(item, Draft)}
        self._judge([*self._ready, *unfinished.values()])
        tick()

    def _next(self, places: Iterator[Place], maker: Maker | None) -> Iterator[Request | None]:
        """What can be asked now: rows that are begun come before others. None while answers must be waited for."""
        while True:
            if self._questions:
                yield self._questions.popleft()
                continue
            place = None if self._in_doubt() or self.fruitless else next(places, None)
            if place is not None and maker is not None:
                self.order.append(place)
                if place not in self._known:
                    self._known.add(place)
                    self._go_on(place, maker, maker.begin(place))
            elif self._waiting:
                yield None
            else:
                return

    def _go_on(self, place: Place, maker: Maker, chain: Chain | Row | Lost) -> None:
        """Take a row in the making as far as it comes with the answers there are."""
        while isinstance(chain, Chain):
            requests = maker.requests(chain)
            if self._wait(Begun(place, maker, chain, requests, 0), requests):
                return
            chain = maker.take(chain, requests, [self.ask.of(request.key) for request in requests])
        self._add(place, chain)

    def _wait(self, item: Begun | Draft, requests: Sequence[Request]) -> int:
        """Ask what is not answered yet, each request once, and return how many of them are."""
        item.unanswered = 0
        for request in requests:
            if (key := request.key) in self.ask.answers:
                continue
            items = self._waiting.get(key)
            if items is None:
                items = self._waiting[key] = []
                self._questions.append(request)
            elif items[-1] is item:  # it asks the same twice
                continue
            items.append(item)
            item.unanswered += 1
        return item.unanswered

    def _take(self, completion: Completion) -> None:
        for item in self._waiting.pop(completion.request, ()):
            item.unanswered -= 1
            if item.unanswered:
                continue
            if isinstance(item, Draft):
                self._ready.append(item)
            else:
                answers = [self.ask.of(request.key) for request in item.requests]
                self._go_on(item.place, item.maker, item.maker.take(item.chain, item.requests, answers))
        part = max(PART, self._judged // 8)
        if len(self._ready) >= part and self.ask.paid:  # before the engine has work, finding some comes first
            self._judge(self._ready[:part])
        if not self._looked and len(self.order) >= FRUITLESS:
            self._look()

    def _in_doubt(self) -> bool:
        """Whether so many answers gave nothing that the first rows are waited for before more are begun."""
        if self._looked or self.settled < FRUITLESS:
            return False
        self._judge(self._ready)
        if not self._waiting:
            self._look()
        return not self.passing and not self._looked

    def _look(self) -> None:
        """Find out, once, whether anything is kept of the first rows. What came after them decides nothing."""
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
        questions = [rule.requests(entry) for rule in self.rules]
        keys = tuple(tuple(question.key for question in of_rule) for of_rule in questions)
        draft = self._drafts[place] = Draft(entry, keys, 0)
        if not self._wait(draft, [question for of_rule in questions for question in of_rule]):
            self._ready.append(draft)

    def _judge(self, drafts: Sequence[Draft]) -> None:
        """Have the rules that look at one row alone judge rows, the first of those that are ready, or all and more.

        A question that was stopped counts as failed.
        """
        self._ready = self._ready[len(drafts) :]
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
