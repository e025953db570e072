"""How many requests may be with an endpoint at once: fewer when it throttles, slowly more while it answers.

Additive increase and multiplicative decrease, as TCP finds its window (RFC 5681). Nothing here knows HTTP.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

Outcome = Literal["answered", "throttled", "failed"]

LOOK_S = 0.2  # how often a request that waits for its turn looks whether it is still wanted


class Pace:
    """A limit of requests in flight that many threads share: it starts at `first`, and is between 1 and `most`.

    The first answer raises it to `most`. A request that is throttled halves it, unless it was sent before the last
    halving: the refusals of one burst are one event. From then on each round of `limit` answers adds 1.
    """

    def __init__(self, first: int, most: int) -> None:
        self.limit = min(first, most)
        self._most = most
        self._opening = True  # until the first answer, or the first that is throttled
        self._flying = 0
        self._halvings = 0
        self._answers = 0  # since the limit last changed, to requests sent since the last halving
        self._changed = threading.Condition()

    def begin(self, given_up: Callable[[], bool]) -> int | None:
        """Wait until one more request may be sent. Returns what `end` is told of it.

        None where `given_up` turned true before its turn came: it is not to be sent, and has no `end`.
        """
        with self._changed:
            if self._flying >= self.limit:
                while self._flying >= self.limit and not given_up():
                    self._changed.wait(LOOK_S)
                if given_up():
                    return None
            self._flying += 1
            return self._halvings

    def end(self, begun: int, outcome: Outcome) -> int | None:
        """Count the outcome of a request that `begin` let through. Returns the new limit where this lowered it."""
        with self._changed:
            self._flying -= 1
            before = self.limit
            if begun == self._halvings:  # an outcome from before the last halving tells nothing of the limit since
                self._learn(outcome)
            self._changed.notify(1 + max(0, self.limit - before))
            return self.limit if self.limit < before else None

    def _learn(self, outcome: Outcome) -> None:
        if outcome == "throttled":
            self.limit, self._halvings, self._answers = max(1, self.limit // 2), self._halvings + 1, 0
            self._opening = False
        elif outcome == "answered" and self._opening:
            self.limit, self._opening = self._most, False
        elif outcome == "answered":
            self._answers += 1
            if self._answers >= self.limit:
                self.limit, self._answers = min(self._most, self.limit + 1), 0
