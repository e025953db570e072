"""Tokens a second of training, beside TRL's SFTTrainer on the same rows, and beside what this machine can do.

    pip install trl==1.16.0      # beside this project; nothing else here needs it
    HARNESS_BENCHMARKS=FOLDER python -m tests.bench.bench_train [--steps 12] [--cells 8] [--trl pad group free pack]

Both tune the same LoRA on the same token ids: short rows (the default task's items, 128 of them) and long ones
(GSM8K, answers of 80 to 250 tokens), 8 rows a step, the first two steps left out as start-up. A token is one of a row,
counted once for each time that the row is seen, padding not at all. TRL runs in this process on the same loaded base
with a fresh adapter, without gradient checkpointing; `pad` is its default, `group` batches rows of like length, `free`
is padding-free, `pack` packs. Passes go ours, theirs, theirs, ours. Quality is the mean loss on the same 100 held-out
rows, read by plain transformers. The bound is 4 x weights x tokens, the products of a forward pass and of a backward
pass to the inputs, at the rate that this machine reaches in the model's own matrix shapes; "tokens computed" counts a
shared beginning once. A grid is 8 cells of as many steps.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from harness.augment.rows import seed_rows
from harness.config.load import load_run
from harness.config.methods import Lora, Method
from harness.core.json_file import lines_of, parse_object
from harness.models.chat_template import Chat, TokenizedRow, load_chat, tokenize_row
from harness.models.device import peak_memory
from harness.models.resolve import Model, resolve
from harness.records import Example, Message, Provenance, Row
from harness.train.base import Base, load_base
from harness.train.loop import at_once, peft_config, train_cells
from harness.train.packing import pad, token_losses, tokens_together
from harness.train.sizes import batches
from harness.train.trainee import Job

ROOT = Path(__file__).resolve().parents[2]
STUDENT = "smollm2-135m-instruct"
ROWS, HELD_OUT, BATCH, LEFT_OUT = 128, 100, 8, 2  # the last: steps of start-up
RATE, WARMUP = 1e-3, 0.1
LONG = range(80, 251)  # answer tokens
MICRO_BATCH_TOKENS = 1024


@dataclass(frozen=True)
class Rows:
    """What is trained on and what is held out."""

    name: str
    train: tuple[Row, ...]
    held_out: tuple[Row, ...]
    examples: Mapping[str, TokenizedRow]


@dataclass(frozen=True)
class Measured:
    """What one training took."""

    side: str
    speed: float  # tokens a second, without start-up
    loss: float  # held out


def short_rows(chat: Chat) -> Rows:
    """The default task's items as rows."""
    run = load_run(ROOT / "runs/helpdesk.yaml")
    items = [item for item in run.suites["helpdesk"].items if item.gold is not None]
    labelled = [
        Example(fields={"text": i.text}, answer=i.choices[i.gold], label=i.choices[i.gold])
        for i in items
        if i.gold is not None
    ]
    return split("short rows", chat, seed_rows(run.task, run.prompts.student, labelled))


def long_rows(chat: Chat) -> Rows:
    """GSM8K's questions with their answers."""
    path = Path(os.environ["HARNESS_BENCHMARKS"]) / "gsm8k_train.jsonl"
    rows = []
    for number, line in lines_of(path):
        stored = parse_object(line, path, number)
        messages = (
            Message(role="user", content=str(stored["question"])),
            Message(role="assistant", content=str(stored["answer"])),
        )
        example = Example(fields={"text": messages[0].content}, answer=messages[1].content)
        row = Row(messages=messages, example=example, provenance=Provenance(source="own"))
        if tokenize_row(chat, row).learned_tokens in LONG:
            rows.append(row)
        if len(rows) == ROWS + HELD_OUT:
            break
    return split("long rows", chat, rows)


def split(name: str, chat: Chat, rows: Sequence[Row]) -> Rows:
    """The first rows to train on, the next ones held out."""
    used = rows[: ROWS + HELD_OUT]
    return Rows(name, tuple(used[:ROWS]), tuple(used[ROWS:]), {row.id: tokenize_row(chat, row) for row in used})


# --- the two sides


def ours(base: Base, rows: Rows, steps: int, cells: int = 1) -> tuple[Measured, list[Any]]:
    """Train as `make train` does: (what was measured, the trainees)."""
    method = Method(learning_rate=RATE, lora=Lora())
    jobs = [Job(f"cell {n}", str(n), rows.train, steps, n, method, BATCH, RATE, WARMUP) for n in range(cells)]
    together = at_once(base, jobs, rows.examples, MICRO_BATCH_TOKENS)
    trainees: dict[str, Any] = {}
    started, before = 0.0, 0
    for passed in train_cells(base, jobs, rows.examples, MICRO_BATCH_TOKENS, together):
        trainees |= {trainee.job.key: trainee for trainee in passed.trainees}
        if not started and len(passed.trainees[0].losses) == LEFT_OUT:
            started, before = time.monotonic(), sum(trainee.tokens for trainee in trainees.values())
    speed = (sum(trainee.tokens for trainee in trainees.values()) - before) / (time.monotonic() - started)
    loss = float("nan")
    if cells == 1:
        with tempfile.TemporaryDirectory() as folder:
            trainees["0"].weights.save(Path(folder))
            loss = held_out_loss(base.source, rows, Path(folder))
    print(f"  ours, {cells} cells: {speed:.0f} tokens/s", flush=True)
    return Measured("ours", speed, loss), list(trainees.values())


WAYS: dict[str, dict[str, Any]] = {
    "pad": {},
    "group": {"train_sampling_strategy": "group_by_length"},
    "free": {"padding_free": True, "max_length": None},
    "pack": {"packing": True, "max_length": 512},
}


def theirs(source: Model, tokenizer: Any, rows: Rows, steps: int, way: str) -> Measured:
    """Train with TRL's SFTTrainer."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback

    trl: Any = importlib.import_module("trl")

    class Clock(TrainerCallback):  # type: ignore[misc]
        started = ended = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if state.global_step == LEFT_OUT:
                self.started = time.monotonic()
            self.ended = time.monotonic()

    examples = [rows.examples[row.id] for row in rows.train]
    network = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.bfloat16)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = trl.SFTConfig(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=RATE,
            lr_scheduler_type="linear", warmup_steps=max(1, round(WARMUP * steps)), gradient_checkpointing=False,
            bf16=True, use_cpu=not torch.cuda.is_available(), report_to=[], logging_strategy="no", save_strategy="no",
            completion_only_loss=True, disable_tqdm=True, seed=0, **WAYS[way],
        )  # fmt: skip
        data = Dataset.from_list(
            [
                {"input_ids": list(e.ids), "completion_mask": [int(i >= e.answer_start) for i in range(len(e.ids))]}
                for e in examples
            ]
        )
        trainer = trl.SFTTrainer(
            network, config, train_dataset=data, peft_config=peft_config(Lora()), processing_class=tokenizer,
            callbacks=[clock],
        )  # fmt: skip
        read = 0

        def counting(*args: Any, inner: Any = trainer.training_step, **others: Any) -> Any:
            nonlocal read
            inputs = args[1] if len(args) > 1 else others["inputs"]
            if trainer.state.global_step >= LEFT_OUT:
                mask = inputs.get("attention_mask")
                read += int(mask.sum() if mask is not None else inputs["input_ids"].numel())
            return inner(*args, **others)

        trainer.training_step = counting
        trainer.train()
        trainer.model.save_pretrained(Path(folder) / "adapter")
        loss = held_out_loss(source, rows, Path(folder) / "adapter")
    gc.collect()
    print(f"  TRL, {way}: {read / (clock.ended - clock.started):.0f} tokens/s", flush=True)
    return Measured(f"TRL, {way}", read / (clock.ended - clock.started), loss)


def held_out_loss(source: Model, rows: Rows, adapter: Path) -> float:
    """Mean loss of the held-out rows' answer tokens in nats, by plain transformers and PEFT."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.bfloat16)
    network = PeftModel.from_pretrained(network, adapter).eval()
    losses = []
    with torch.no_grad():
        for start in range(0, len(rows.held_out), BATCH):
            examples = [rows.examples[row.id] for row in rows.held_out[start : start + BATCH]]
            losses.append(token_losses(network, pad(examples, torch.device("cpu")), {}))
    return torch.cat(losses).mean().item()


# --- the bound


def matrix_rate(network: Any, tokens: int) -> float:
    """FLOP a second in the model's own linear layers on so many tokens, best of some rounds."""
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    inputs = {m.in_features: torch.randn(tokens, m.in_features).to(m.weight.dtype) for m in layers}
    work = sum(2 * tokens * m.weight.numel() for m in layers)
    best = float("inf")
    with torch.no_grad():
        for _ in range(5):
            started = time.monotonic()
            for layer in layers:
                layer(inputs[layer.in_features])
            best = min(best, time.monotonic() - started)
    return work / best


def needed(network: Any, rows: Rows, steps: int) -> tuple[float, float]:
    """(FLOP of the frozen products in `steps` steps, the share of tokens that sharing beginnings leaves to compute)."""
    layers = [m for name, m in network.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in name]
    used = [[rows.examples[row.id] for row in batch] for batch in batches(rows.train, steps, BATCH, 0)]
    seen = sum(len(e.ids) for batch in used for e in batch)
    computed = sum(tokens_together(batch) for batch in used)
    return 4.0 * sum(m.weight.numel() for m in layers) * computed, computed / seen


@contextmanager
def silent() -> Iterator[None]:
    """Without what libraries print on the way."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield


def compare(rows: Rows, base: Base, chat: Chat, steps: int, cells: int, ways: Sequence[str]) -> None:
    """Print one table."""
    lengths = [len(rows.examples[row.id].ids) for row in rows.train]
    what = f"{len(rows.train)} of {min(lengths)} to {max(lengths)} tokens"
    print(f"\n{rows.name}: {what}, {steps} steps of {BATCH}, {torch.get_num_threads()} threads")
    first, _ = ours(base, rows, steps)
    others = [theirs(base.source, chat.tokenizer, rows, steps, way) for way in ways]
    best = max(others, key=lambda m: m.speed, default=None)
    again = [theirs(base.source, chat.tokenizer, rows, steps, best.side.removeprefix("TRL, "))] if best else []
    second, _ = ours(base, rows, steps)
    print(f"{'':14}{'tokens/s':>10}{'again':>10}{'held-out loss':>15}")
    print(f"{'ours':14}{first.speed:>10.0f}{second.speed:>10.0f}{second.loss:>15.4f}")
    for other in others:
        once_more = f"{again[0].speed:>10.0f}" if best and other.side == best.side else f"{'':>10}"
        print(f"{other.side:14}{other.speed:>10.0f}{once_more}{other.loss:>15.4f}")
    if best:
        ratio = (first.speed + second.speed) / (best.speed + again[0].speed)
        print(f"ratio to TRL at its best: {ratio:.2f} (aim 2.5), loss {second.loss / best.loss - 1:+.1%}")
    single = max(first.speed, second.speed)
    work, share = needed(base.network, rows, steps)
    rate = matrix_rate(base.network, MICRO_BATCH_TOKENS)
    most = rate / work * sum(len(rows.examples[r.id].ids) for b in batches(rows.train, steps, BATCH, 0) for r in b)
    print(
        f"bound: {rate / 1e9:.0f} GFLOP/s in its matrices, {share:.0%} of the tokens computed: {most:.0f} tokens/s;"
        f" reached {single / most:.0%} of it"
    )
    if cells > 1:
        grid, _ = ours(base, rows, steps, cells)
        print(
            f"a grid of {cells} cells: {grid.speed:.0f} tokens/s, {single / grid.speed:.3f} of the time of its cells"
            f" at the best single speed (aim 1.05)"
        )
    print(f"peak memory of the process {peak_memory(torch.device('cpu')) / 2**30:.1f} GiB")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--rows", nargs="+", default=["short", "long"], choices=["short", "long"])
    parser.add_argument("--trl", nargs="*", default=list(WAYS), choices=list(WAYS))
    options = parser.parse_args()
    source = resolve(STUDENT, ROOT / "runs/.cache", root=ROOT)
    chat = load_chat(source.name, source.folder)
    with silent():
        for name in options.rows:
            rows = {"short": short_rows, "long": long_rows}[name](chat)
            base = load_base(source, [rows.examples[row.id] for row in rows.train])
            compare(rows, base, chat, options.steps, options.cells, options.trl)


if __name__ == "__main__":
    main()
