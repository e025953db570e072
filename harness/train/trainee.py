"""One cell in training: its weights, its optimizer, and how far it has come."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from harness.config.methods import Method
from harness.models.chat_template import TokenizedRow
from harness.records import Row
from harness.train.sizes import batches

GRADIENT_NORM = 1.0


class Weights(Protocol):
    """What tuning changes."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All of it, in one order."""

    def save(self, folder: Path) -> None:
        """Write it so that eval can load it. Raises OSError or SafetensorError where it cannot be written."""


@dataclass(frozen=True)
class Job:
    """What one cell is trained on and how."""

    name: str  # the cell's, for people
    key: str
    rows: Sequence[Row]
    steps: int
    random_seed: int
    method: Method
    batch_size: int
    learning_rate: float  # at its peak
    warmup_ratio: float
    patience: int | None = None  # validations without a lower loss after which it stops early. None: it never does

    @property
    def noisy(self) -> bool:
        """Whether it has dropout of its own."""
        return self.method.lora is not None and self.method.lora.lora_dropout > 0

    def rate(self, step: int) -> float:
        """The learning rate of step 0..steps-1: up in a line over the first share `warmup_ratio`, then down in a line.

        The rate of the first and of the last step is above 0.
        """
        rising = math.ceil(self.warmup_ratio * self.steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * (self.steps - step) / (self.steps - rising)


@dataclass
class TokenLosses:
    """A mean loss of one cell, put together row by row."""

    mean: float = 0.0  # over all answer tokens, nats
    bad: list[str] = field(default_factory=list)  # ids of rows whose loss is no number

    def add(self, row: TokenizedRow, loss: float, tokens: int) -> None:
        """Count a row's summed loss in, of rows with so many answer tokens in all."""
        self.mean += loss / tokens
        if not math.isfinite(loss):
            self.bad.append(row.row)


@dataclass(frozen=True)
class Step:
    """One step of one cell."""

    cell: str
    step: int  # from 1
    steps: int
    loss: float  # mean over its answer tokens, nats
    gradient_norm: float  # before clipping
    learning_rate: float
    tokens_per_second: float = 0.0  # of all cells that shared its passes
    validation_loss: float | None = None  # mean over the answer tokens of the dev items, nats, where it was measured


class Trainee:
    """A job in work. `losses` holds a mean for each step done, in nats per answer token.

    `validation` holds (steps done, mean loss of the dev items) for each validation. A job that may stop early keeps a
    copy of the weights at the lowest of them, and leaves with it.
    """

    def __init__(self, job: Job, weights: Weights, noise: torch.Generator | None = None) -> None:
        self.job, self.weights, self.noise = job, weights, noise
        self.optimizer = torch.optim.AdamW(weights.parameters, lr=job.learning_rate, weight_decay=0.0, fused=True)
        self.losses: list[float] = []
        self.validation: list[tuple[int, float]] = []
        self.best: list[Tensor] = []  # the weights at `best_step`, of a job that may stop early
        self.tokens = 0  # read in all steps, rows counted one by one
        self.seconds = 0.0  # of its steps, without validation; of a pass that several share, by tokens
        self.failure = ""  # why it cannot go on
        self._batches = batches(job.rows, job.steps, job.batch_size, job.random_seed)

    @property
    def done(self) -> bool:
        """Whether it takes no more steps."""
        return len(self.losses) == self.job.steps or self.stopped

    @property
    def stopped(self) -> bool:
        """Whether its validation loss has not fallen for so many validations that it stops early."""
        losses = [loss for _, loss in self.validation]
        patience = self.job.patience
        return patience is not None and bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience

    @property
    def best_step(self) -> int | None:
        """The steps done at its lowest validation loss. None without a validation."""
        return min(self.validation, key=lambda measured: measured[1])[0] if self.validation else None

    def next_batch(self) -> tuple[Row, ...]:
        """The rows of the next step."""
        return next(self._batches)

    def reseed(self) -> None:
        """Begin the random numbers of the next step (dropout), which depend on the random seed and the step alone."""
        seed = hashlib.sha256(f"{self.job.random_seed} {len(self.losses)}".encode()).digest()
        number = int.from_bytes(seed[:7])
        torch.manual_seed(number)
        if self.noise:
            self.noise.manual_seed(number)

    def update(self, loss: TokenLosses) -> Step | None:
        """One step of the optimizer with the gradients there are. None, and a failure, where they are no numbers."""
        done, rate = len(self.losses), self.job.rate(len(self.losses))
        norm = float(nn.utils.clip_grad_norm_(self.weights.parameters, GRADIENT_NORM))
        if not (math.isfinite(loss.mean) and math.isfinite(norm)):
            rows = f" (rows {', '.join(loss.bad[:8])})" if loss.bad else ""
            self.failure = (
                f"step {done + 1} of {self.job.steps}: the loss is {loss.mean}{rows} and the gradient's norm {norm};"
                f" a smaller learning rate ({self.job.learning_rate:g} now) or a larger train.warmup_ratio"
                " usually helps"
            )
            return None
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(round(loss.mean, 6))
        return Step(self.job.name, done + 1, self.job.steps, loss.mean, norm, rate)

    def validate(self, loss: TokenLosses) -> None:
        """Take the loss of the dev items after the last step. Fails where it is no number."""
        done = len(self.losses)
        if not math.isfinite(loss.mean):
            items = ", ".join(loss.bad[:8])
            self.failure = f"step {done} of {self.job.steps}: the validation loss is {loss.mean} (dev items {items})"
            return
        self.validation.append((done, round(loss.mean, 6)))
        if self.job.patience is None:
            return
        if self.best_step == done:
            self.best = [weight.detach().clone() for weight in self.weights.parameters]
        if self.done:
            for weight, best in zip(self.weights.parameters, self.best, strict=True):
                weight.data.copy_(best)

    def count(self, rows: Sequence[TokenizedRow], seconds_a_token: float) -> None:
        """Count a step's rows in."""
        tokens = sum(len(row.ids) for row in rows)
        self.tokens += tokens
        self.seconds += tokens * seconds_a_token

    def resume(
        self, losses: Sequence[float], validation: Sequence[tuple[int, float]], tokens: int, seconds: float
    ) -> None:
        """Go on after the steps whose losses these are. Weights and optimizer are the caller's to restore."""
        next(islice(self._batches, len(losses), len(losses)), None)
        self.losses, self.validation = list(losses), list(validation)
        self.tokens, self.seconds = tokens, seconds
