"""Tuning cells: LoRA on a frozen base, rows packed, the loss on answers only, several cells in one pass.

The base is loaded once for all cells of a student. Cells whose adapters are plain LoRA share each pass over it.
Each has its own optimizer, schedule and clipping, so that it learns what it would learn alone. A
finished cell leaves and the next one enters.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from peft import LoraConfig
from torch import Tensor

from harness.config.methods import Lora
from harness.errors import UsageError
from harness.models.chat_template import TokenizedRow
from harness.models.device import memory_errors
from harness.train.base import SMALLER, Base
from harness.train.full import all_weights
from harness.train.lora import Adapter, PeftWeights, Sharing, fresh, peft_model, shared
from harness.train.packing import Packed, answer_tokens, micro_batches, pack, pad, token_losses, tokens_together
from harness.train.trainee import Job, Step, TokenLosses, Trainee, Weights


@dataclass(frozen=True)
class Passed:
    """One step of every cell in work, and what became of them."""

    trainees: tuple[Trainee, ...]  # all that took part
    steps: tuple[Step, ...]

    @property
    def finished(self) -> list[Trainee]:
        """Those that have done all their steps, or stopped early."""
        return [trainee for trainee in self.trainees if trainee.done and not trainee.failure]

    @property
    def failed(self) -> list[Trainee]:
        """Those that cannot go on."""
        return [trainee for trainee in self.trainees if trainee.failure]


@dataclass(frozen=True)
class Validation:
    """The dev items with their gold answers, and after how many steps of a cell their loss is measured."""

    items: Sequence[TokenizedRow]
    every: int

    def due(self, trainee: Trainee) -> bool:
        """Whether it is measured after the step that the trainee has just done: the last one always counts."""
        done = len(trainee.losses)
        return done == trainee.job.steps or done % self.every == 0


def at_once(base: Base, jobs: Sequence[Job], examples: Mapping[str, TokenizedRow], micro_batch_tokens: int) -> int:
    """How many cells share a pass: as many as have room for one step each in micro_batch_tokens, at least 1."""
    if not base.packs or base.noisy or not jobs:
        return 1
    steps = (tokens_together([examples[row.id] for row in job.rows[: job.batch_size]]) for job in jobs)
    return max(1, min(len(jobs), micro_batch_tokens // max(steps)))


def train_cells(
    base: Base,
    jobs: Sequence[Job],
    examples: Mapping[str, TokenizedRow],
    micro_batch_tokens: int,
    together: int,
    begun: Callable[[Trainee], None] = lambda trainee: None,
    validation: Validation | None = None,
) -> Generator[Passed]:
    """Tune fresh weights for each job, at most `together` in one pass. Yields after each step of those in work.

    `examples` are the rows tokenized, by row id. `begun` is given each trainee before its first step: it may
    put into it what an earlier command had reached. `validation` changes nothing that a cell learns. Who ends
    the iteration early leaves the base as it was. A cell whose loss is no number fails and the others go on. Raises
    UsageError for settings that PEFT refuses, MachineError where the memory does not suffice.
    """
    queue, alone = deque(jobs), list[Job]()
    working: list[Trainee] = []
    while queue or working:
        while queue and len(working) < together:
            job = queue.popleft()
            adapter = _fresh(base, job)
            if adapter is None:
                alone.append(job)
                continue
            working.append(Trainee(job, adapter, adapter.noise))
            begun(working[-1])
        if working:
            yield from _share(base, working, examples, micro_batch_tokens, validation)
        working = [trainee for trainee in working if not (trainee.done or trainee.failure)]
    for job in alone:
        with _alone(base, job) as weights:
            trainee = Trainee(job, weights)
            begun(trainee)
            yield from _steps(base, [trainee], None, examples, micro_batch_tokens, validation)


def peft_config(lora: Lora) -> LoraConfig:
    """The settings as PEFT takes them."""
    return LoraConfig(task_type="CAUSAL_LM", **lora.peft_settings)


def _fresh(base: Base, job: Job) -> Adapter | None:
    """A new adapter that can share passes. None for other kinds of weights."""
    if job.method.lora is None or base.four_bits:
        return None
    with _peft_errors(base):
        return fresh(base.network, peft_config(job.method.lora), job.random_seed)


@contextmanager
def _alone(base: Base, job: Job) -> Iterator[Weights]:
    """Weights that have the base to themselves inside the block."""
    if job.method.lora is None:
        with all_weights(base.network, base.source.folder) as weights:
            yield weights
        return
    with peft_model(base.network, peft_config(job.method.lora), job.random_seed) as wrapped:
        yield PeftWeights(wrapped)


@contextmanager
def _peft_errors(base: Base) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise UsageError(f"train.lora: {base.source.name}: {error}") from error


def _share(
    base: Base,
    trainees: Sequence[Trainee],
    examples: Mapping[str, TokenizedRow],
    micro_batch_tokens: int,
    validation: Validation | None,
) -> Iterator[Passed]:
    """Steps of cells that share their passes, until one of them leaves."""
    sharing = Sharing([trainee.weights for trainee in trainees if isinstance(trainee.weights, Adapter)])
    with shared(base.network, sharing):
        yield from _steps(base, trainees, sharing, examples, micro_batch_tokens, validation)


def _steps(
    base: Base,
    trainees: Sequence[Trainee],
    sharing: Sharing | None,
    examples: Mapping[str, TokenizedRow],
    micro_batch_tokens: int,
    validation: Validation | None,
) -> Iterator[Passed]:
    """A step of every trainee at a time, until one of them leaves. Where one is done already, none takes a step."""
    if any(trainee.done for trainee in trainees):
        yield Passed(tuple(trainees), ())
        return
    base.network.train()
    try:
        while not any(trainee.done or trainee.failure for trainee in trainees):
            started = time.monotonic()
            parts = [[examples[row.id] for row in trainee.next_batch()] for trainee in trainees]
            with memory_errors(f"training {base.source.name}", SMALLER):
                micro_batch_tokens, losses = _in_memory(base, trainees, parts, sharing, micro_batch_tokens)
            taken = [trainee.update(loss) for trainee, loss in zip(trainees, losses, strict=True)]
            seconds = (time.monotonic() - started) / sum(len(e.ids) for part in parts for e in part)
            for trainee, part in zip(trainees, parts, strict=True):
                trainee.count(part, seconds)
            with memory_errors(f"validation of {base.source.name}", SMALLER):
                measured = _validate(base, trainees, validation, sharing, micro_batch_tokens) if validation else {}
            steps = [
                replace(step, tokens_per_second=1 / seconds, validation_loss=measured.get(number))
                for number, step in enumerate(taken)
                if step
            ]
            yield Passed(tuple(trainees), tuple(steps))
    finally:
        base.network.gradient_checkpointing_disable()
        base.network.eval()


def _in_memory(
    base: Base,
    trainees: Sequence[Trainee],
    parts: Sequence[Sequence[TokenizedRow]],
    sharing: Sharing | None,
    micro_batch_tokens: int,
) -> tuple[int, list[TokenLosses]]:
    """`_gradients` in passes that fit the memory: (tokens of a pass that did, the losses).

    Where memory runs out on a GPU, the step is done again in passes of half as many tokens, and when these hold a row,
    with what the backward pass needs computed twice instead of kept. Its result is the same but for rounding.
    """
    longest = max(len(example.ids) for part in parts for example in part)
    while True:
        try:
            return micro_batch_tokens, _gradients(base, trainees, parts, sharing, micro_batch_tokens)
        except torch.OutOfMemoryError:
            for trainee in trainees:
                trainee.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            if micro_batch_tokens > longest:
                micro_batch_tokens //= 2
            elif base.network.is_gradient_checkpointing or not base.network.supports_gradient_checkpointing:
                raise
            elif any(trainee.noise and trainee.job.noisy for trainee in trainees):
                raise  # dropout from generators of its own would be another in the second computation
            else:
                base.network.gradient_checkpointing_enable({"use_reentrant": False})


def _gradients(
    base: Base,
    trainees: Sequence[Trainee],
    parts: Sequence[Sequence[TokenizedRow]],
    sharing: Sharing | None,
    micro_batch_tokens: int,
) -> list[TokenLosses]:
    """Add the gradients of one step to each trainee's weights. Returns each one's losses.

    Every answer token of a trainee's whole step weighs the same, so how it is cut into passes changes nothing.
    """
    totals = [answer_tokens(part) for part in parts]
    losses = [TokenLosses() for _ in parts]
    with torch.random.fork_rng():
        for trainee in trainees:
            trainee.reseed()
        for rows, packed, lost in _passes(base, parts, sharing, micro_batch_tokens):
            shares = torch.tensor([1 / totals[number] for _, number in rows], device=base.device)
            torch.autograd.backward((lost * shares[packed.owner]).sum())
            for (row, number), loss in zip(rows, _by_row(lost, packed, len(rows)), strict=True):
                losses[number].add(row, loss, totals[number])
    return losses


def _validate(
    base: Base, trainees: Sequence[Trainee], validation: Validation, sharing: Sharing | None, micro_batch_tokens: int
) -> dict[int, float]:
    """Measure the dev items with the weights of every trainee that is due. Returns (its number -> its loss).

    No gradient and no random number is drawn, so that what is learned stays the same bits.
    """
    due = [validation.due(trainee) and not trainee.failure for trainee in trainees]
    losses = {number: TokenLosses() for number, is_due in enumerate(due) if is_due}
    if not losses:
        return {}
    total = answer_tokens(validation.items)
    parts = [validation.items if is_due else () for is_due in due]
    base.network.eval()
    with torch.no_grad():
        for rows, packed, lost in _passes(base, parts, sharing, micro_batch_tokens):
            for (row, number), loss in zip(rows, _by_row(lost, packed, len(rows)), strict=True):
                losses[number].add(row, loss, total)
    base.network.train()
    for number, measured in losses.items():
        trainees[number].validate(measured)
    return {number: measured.mean for number, measured in losses.items() if not trainees[number].failure}


def _passes(
    base: Base, parts: Sequence[Sequence[TokenizedRow]], sharing: Sharing | None, micro_batch_tokens: int
) -> Iterator[tuple[list[tuple[TokenizedRow, int]], Packed, Tensor]]:
    """Forward passes over the rows of all parts, each part through its own trainee's weights.

    Of each pass: its rows, each with the number of its part, how they are laid out, the loss of each answer token.
    """
    for piece in micro_batches(parts, micro_batch_tokens, alone=not base.packs):
        taking = [(number, rows) for number, rows in enumerate(piece) if rows]
        rows = [(row, number) for number, of_part in taking for row in of_part]
        if base.packs:
            packed = pack([of_part for _, of_part in taking], base.device)
        else:
            packed = pad([row for row, _ in rows], base.device)
        if sharing:
            ends = packed.ends or (packed.input_ids.numel(),)
            places = (slice(first, end) for first, end in itertools.pairwise((0, *ends)))
            sharing.parts = [(next(places), number) for number, _ in taking]
        with base.mixed_precision():
            lost = token_losses(base.network, packed, base.windows)
        yield rows, packed, lost


def _by_row(losses: Tensor, packed: Packed, rows: int) -> list[float]:
    """Sums of the answer tokens' losses, row by row."""
    sums = torch.zeros(rows, device=losses.device).index_add_(0, packed.owner, losses.detach())
    return sums.tolist()
