"""How the next token is picked, and when an answer is finished, apart from any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from harness.engines.prefix_tree.guided import Decode, Guide
from harness.records import Completion, Request

# Most likely tokens looked at first for top_p: sorting the whole vocabulary takes 10 times as long.
NARROW = (512, 8192)
REPORTED = 20  # alternatives reported for the first token where choices are asked for
END = -1  # closes a choice's ids: any token that ends a turn


class Answer:
    """One request while it is being answered."""

    def __init__(
        self,
        request: Request,
        prompt: tuple[int, ...],
        limit: int,
        choices: Mapping[tuple[int, ...], str],
        ends: tuple[int, ...],
        decode: Decode,
        guide: Guide | None = None,
    ) -> None:
        """`limit`: tokens it may have. `choices`: ids, closed by END -> text. `ends`: ids that end a turn.

        `guide`: what the text must become, where it is written by a schema.
        """
        self.guide = guide
        self.request, self.prompt, self.limit = request, prompt, limit
        self.choices, self.ends, self._decode = choices, ends, decode
        self.written: list[int] = []
        self.first_logprobs: dict[str, float] = {}
        # The draws belong to the request, so they do not depend on what else is in the batch.
        random = torch.Generator().manual_seed(int(request.key[:15], 16))
        sampled = request.sampling.temperature > 0
        self.draws = torch.rand(limit if sampled else 0, generator=random, dtype=torch.float64).tolist()

    def allowed(self, logits: torch.Tensor) -> list[int]:
        """Token ids that may come next when the answer is guided. `logits`: [vocabulary]."""
        if self.guide:
            found = self.guide.allowed(self.written, logits, self._decode, first=not self.draws)
            return found or list(self.ends)  # a vocabulary that cannot write the form
        at = len(self.written)
        tokens: set[int] = set()
        for ids in self._open():
            tokens.update(self.ends if ids[at] == END else (ids[at],))
        return sorted(tokens)

    def _open(self) -> list[tuple[int, ...]]:
        """The choices that what is written so far can still become."""
        return [ids for ids in self.choices if ids[: len(self.written)] == tuple(self.written)]

    def look_at_first(self, logits: torch.Tensor) -> None:
        """Note the first position's log-probabilities. `logits`: [vocabulary], float32, before any mask."""
        count = max(self.request.sampling.logprobs, REPORTED if self.choices else 0)
        if not count:
            return
        logprobs = torch.log_softmax(logits, dim=-1)
        best = logprobs.topk(min(count, len(logprobs)))
        by_text: dict[str, float] = {}
        for token, value in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            by_text.setdefault(self._decode([token], False), value)
        for ids in self.choices:  # a choice's own token wins over another that reads the same
            by_text[self._decode([ids[0]], False)] = float(logprobs[ids[0]])
        self.first_logprobs = by_text

    def take(self, token: int) -> Completion | None:
        """Add a token, and return the completion once it is finished."""
        if self.choices:
            return self._take_choice(token)
        self.written.append(token)
        if token in self.ends:
            return self._finished(self._decode(self.written[:-1], True), "stop", len(self.written))
        if self.guide and self.guide.complete(text := self._decode(self.written, True)):
            return self._finished(text, "stop", len(self.written))
        if self.request.sampling.stop:
            text = self._decode(self.written, True)
            places = [at for stop in self.request.sampling.stop if (at := text.find(stop)) >= 0]
            if places:
                return self._finished(text[: min(places)], "stop", len(self.written))
        if len(self.written) >= self.limit:
            return self._finished(self._decode(self.written, True), "length", len(self.written))
        return None

    def _take_choice(self, token: int) -> Completion | None:
        """Once a single choice is left, the rest of it is certain and is not computed."""
        at = len(self.written)
        fits = any(ids[at] == token for ids in self._open())
        self.written.append(token if fits else END)
        open_choices = self._open()
        if len(open_choices) > 1:
            return None
        return self._finished(self.choices[open_choices[0]], "stop", len(open_choices[0]))

    def _finished(self, text: str, why: Literal["stop", "length"], tokens: int) -> Completion:
        return Completion(
            request=self.request.key,
            text=text,
            finish_reason=why,
            prompt_tokens=len(self.prompt),
            completion_tokens=tokens,
            first_logprobs=self.first_logprobs,
        )


def pick(logits: torch.Tensor, live: Sequence[Answer]) -> list[int]:
    """The next token of each answer. `logits`: [answers, vocabulary], float32. Guided rows are masked."""
    for row, answer in enumerate(live):
        if answer.choices or answer.guide:
            allowed = torch.tensor(answer.allowed(logits[row]), device=logits.device)
            permitted = logits[row, allowed].clone()
            logits[row] = -torch.inf
            logits[row, allowed] = permitted
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    sampled = [row for row, answer in enumerate(live) if answer.draws]
    if sampled:
        settings = [live[row].request.sampling for row in sampled]
        draws = [live[row].draws[len(live[row].written)] for row in sampled]
        temperatures = torch.tensor([s.temperature for s in settings], device=logits.device)
        chosen = draw(
            torch.softmax(logits[sampled] / temperatures[:, None], dim=-1), [s.top_p for s in settings], draws
        )
        for row, token in zip(sampled, chosen, strict=True):
            tokens[row] = token
    return tokens


def draw(probabilities: torch.Tensor, top_p: Sequence[float], draws: Sequence[float]) -> list[int]:
    """One token per row by inverting the cumulative distribution of its nucleus.

    `probabilities`: [rows, vocabulary]. `draws`: uniform in [0, 1). The nucleus is the smallest set of most
    likely tokens whose mass reaches `top_p` (Holtzman et al. 2020).
    """
    tokens = [0] * len(draws)
    untrimmed = [row for row, p in enumerate(top_p) if p >= 1]  # no nucleus to find, so no order either
    if untrimmed:
        at = _column([draws[row] for row in untrimmed], probabilities)
        for row, token in zip(untrimmed, _invert(probabilities[untrimmed].double(), at), strict=True):
            tokens[row] = token
    pending = [row for row, p in enumerate(top_p) if p < 1]
    vocabulary = probabilities.shape[-1]
    for width in [w for w in NARROW if w < vocabulary] + [vocabulary]:
        if not pending:
            break
        limit = _column([top_p[row] for row in pending], probabilities)
        at = _column([draws[row] for row in pending], probabilities)
        ordered = probabilities[pending].topk(width, dim=-1)
        values = ordered.values.double()
        places = _invert(torch.where(values.cumsum(-1) - values < limit, values, 0.0), at)
        for i, row in enumerate(pending):
            tokens[row] = int(ordered.indices[i, places[i]])
        reached = (values.sum(-1) >= limit[:, 0]).tolist()
        pending = [row for row, settled in zip(pending, reached, strict=True) if not settled]
    return tokens


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, device=like.device, dtype=torch.float64)[:, None]


def _invert(weights: torch.Tensor, at: torch.Tensor) -> list[int]:
    cumulative = weights.cumsum(-1)
    places = torch.searchsorted(cumulative, at * cumulative[:, -1:], right=True)[:, 0]
    last = (weights > 0).double().cumsum(-1).argmax(-1)  # rounding must not pick beyond the last possible one
    indices: list[int] = torch.minimum(places, last).tolist()
    return indices
