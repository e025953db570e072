"""A check before a teacher is asked anything: every piece of the documents fits into its context."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from harness.augment.chain import imagined
from harness.augment.plan import Plan
from harness.config.run import Run
from harness.config.teacher import Teacher, VLLMTeacher
from harness.errors import UsageError
from harness.models.resolve import resolve
from harness.models.teachers import place_of
from harness.models.token_count import TURN_TOKENS, Count, fast_tokenizer
from harness.records import Request


def require_pieces_fit(plan: Plan, run: Run) -> None:
    """Raises UsageError for a prompt about a piece that is too long for a teacher whose context is known."""
    for name, teacher in run.file.all_teachers.items():
        if isinstance(teacher, VLLMTeacher):
            count = functools.partial(teacher_tokens, teacher, run.cache, run.root)
            require_short_prompts(plan, f"runs/{run.name}.yaml", name, teacher.max_model_len, count)


def require_short_prompts(plan: Plan, place: str, name: str, most: int, count: Callable[[], Count]) -> None:
    """Raises UsageError for a prompt about a piece that has `most` tokens, the answer included, of those to a teacher.

    What earlier steps will write is taken to be one word. `place` is the run file, which calls the teacher `name`.
    `count` loads the teacher's tokenizer, and is called only where a prompt has as many bytes as the context tokens.
    """
    asked = ((source, r) for source, r in _prompts(plan) if r.model == plan.teachers.model(name))
    long = [(source, r) for source, r in asked if len(_text(r).encode()) + TURN_TOKENS >= most]
    if not long:
        return
    tokens = count()
    lengths = [
        (tokens(_text(r)) + TURN_TOKENS * len(r.messages), source, r.origin.template, r.template_digest)
        for source, r in long
    ]
    beyond = [length for length in lengths if length[0] >= most]
    if beyond:
        longest, source, template, _ = max(beyond)
        pieces = len({source for _, source, _, _ in beyond})
        raise UsageError(
            f"{place}: augment.documents: {pieces} of {len(plan.documents)} pieces are too long for the teacher:"
            f" {source} makes a prompt of {longest} tokens with {template}, and {place_of(name)}.max_model_len is"
            f" {most}, completion included: lower documents.words, or raise it"
        )


def teacher_tokens(teacher: Teacher, cache: Path, root: Path) -> Count:
    """Counts tokens as the teacher does. Without a tokenizer that is quick to load every text has none."""
    model = resolve(teacher.model, cache, teacher.revision, root)
    return fast_tokenizer(model.folder) or (lambda text: 0)


def _prompts(plan: Plan) -> Iterator[tuple[str, Request]]:
    """(source of the piece, request) of every step about each piece that the first round has."""
    for place in islice(plan.places(plan.first_round()), len(plan.documents)):
        chain = plan.begin(place)
        while not chain.complete and chain.document is not None:
            yield chain.document.source, plan.requests(chain)[0]
            chain = imagined(chain, "word")


def _text(request: Request) -> str:
    return request.prompt or "".join(message.content for message in request.messages)
