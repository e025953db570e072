"""How far a student has moved from its base, token by token, on text that the base itself wrote.

Accuracy moves in steps and needs many items. This moves with every weight. The base answers the open prompts
once. Base and student then read the same answers, and at each token what they expect next is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from harness.core.store import write_atomic
from harness.engines.protocols import NextTokens, StudentEngine
from harness.metrics.quality import token_kl
from harness.records import Item, Message, Pair, Score
from harness.suites.generate import fits

TOP = 256  # the base's likeliest tokens that are compared one by one; all others count as one


def reading_pairs(items: Sequence[Item], base: Sequence[Score], engine: StudentEngine) -> list[Pair | None]:
    """Each open prompt with the base's answer as token ids, or None where the base wrote nothing."""
    outputs = {score.item: score.output for score in base}
    pairs: list[Pair | None] = []
    for item in items:
        answer = outputs.get(item.id, "")
        if not answer.strip():
            pairs.append(None)
            continue
        messages = (Message(role="user", content=item.text),)
        context, continuation = engine.prompt_ids(messages), engine.answer_ids(messages, answer)
        pair = Pair(context=context, continuation=continuation)
        pairs.append(pair if fits(pair, engine) else None)
    return pairs


def store_expected(path: Path, items: Sequence[Item], pairs: Sequence[Pair | None], engine: StudentEngine) -> None:
    """Write what the base expects at each token of its own answers."""
    present = [pair for pair in pairs if pair is not None]
    expected = engine.next_tokens(present, TOP)
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
        "items": np.array([item.id for item, pair in zip(items, pairs, strict=True) if pair is not None], dtype="U16"),
        "positions": np.array([len(next_.ids) for next_ in expected], dtype=np.int64),
        "ids": np.concatenate([next_.ids for next_ in expected]) if expected else np.empty((0, TOP), np.int64),
        "logprobs": np.concatenate([next_.logprobs for next_ in expected])
        if expected
        else np.empty((0, TOP), np.float32),
    }
    buffer = BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the keywords for its own flag
    write_atomic(path, buffer.getvalue())


def load_expected(path: Path) -> dict[str, NextTokens]:
    """What `store_expected` wrote, by item id. Items without an answer are not in it."""
    with path.open("rb") as file, np.load(file) as stored:
        ends = np.cumsum(stored["positions"])[:-1]
        ids, logprobs = np.split(stored["ids"], ends), np.split(stored["logprobs"], ends)
        return {str(n): NextTokens(i, p) for n, i, p in zip(stored["items"], ids, logprobs, strict=False)}


def is_whole(path: Path) -> bool:
    """Whether what `store_expected` wrote is there and can be read."""
    try:
        load_expected(path)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return False
    return True


def moved(path: Path, items: Sequence[Item], pairs: Sequence[Pair | None], engine: StudentEngine) -> dict[str, float]:
    """item id -> mean KL divergence (nats per token) of the student from its base, a lower bound. See `token_kl`."""
    expected = load_expected(path)
    readable = [
        (item, pair) for item, pair in zip(items, pairs, strict=True) if pair is not None and item.id in expected
    ]
    if not readable:
        return {}
    base = [expected[item.id] for item, _ in readable]
    student_tokens = engine.next_tokens([pair for _, pair in readable], TOP, at=base)
    return {item.id: kl for (item, _), kl in zip(readable, token_kl(student_tokens, base), strict=True)}
