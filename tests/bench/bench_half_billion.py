"""Time and memory of one cell of a 0.5B student on this machine: random weights in Qwen2.5-0.5B's shape.

    python -m tests.bench.bench_half_billion [ROWS [UPDATES]]

The seeds of the default run are the rows, tokenized by the bundled model's tokenizer.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from harness.augment.rows import seed_rows
from harness.config.load import load_run
from harness.models.chat_template import load_chat
from harness.models.resolve import resolve

ROOT = Path(__file__).parents[2]
SHAPE = {  # Qwen2.5-0.5B: 494 million weights with tied embeddings
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
}


def main(rows: int = 16, steps: int = 4) -> None:
    """Train one short cell, print what it took and what the default cell sizes would take."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from harness.models.device import peak_memory
    from harness.train.base import load_base
    from harness.train.learning_rate import peak_rate
    from harness.train.loop import train_cells
    from harness.train.preflight import preflight
    from harness.train.trainee import Job

    run = load_run(ROOT / "runs/helpdesk.yaml")
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name) / "half-billion", Path(name) / "cache"
        bundled = resolve("smollm2-135m-instruct", run.cache).folder
        shutil.copytree(bundled, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **SHAPE), dtype=torch.bfloat16)
        weights = sum(p.numel() for p in model.parameters())
        model.save_pretrained(folder)
        del model
        source = resolve(str(folder), cache)
        used = seed_rows(run.task, run.prompts.student, run.seeds)[:rows]
        examples = preflight(load_chat(source.name, source.folder), used, run.file.train)
        started = time.monotonic()
        base = load_base(source, list(examples.values()))
        loaded = time.monotonic() - started
        train = run.file.train
        method = train.by_method[""]
        rate = peak_rate(method, source.name, source.folder)
        job = Job("cell", "", used, steps, 0, method, train.batch_size, rate, train.warmup_ratio)
        *_, passed = train_cells(base, [job], examples, train.micro_batch_tokens, 1)
    trainee = passed.trainees[0]
    speed = trainee.tokens / trainee.seconds
    print(f"{weights / 1e6:.0f}M weights, {base.dtype}, {torch.get_num_threads()} threads, {rows} rows, {steps} steps")
    print(f"load {loaded:.1f} s; {trainee.tokens} tokens in {trainee.seconds:.1f} s = {speed:.0f} tokens/s")
    print(f"peak memory {peak_memory(base.device) / 2**30:.2f} GiB (the whole process)")
    print(f"a cell of 32 steps of 8 rows: {trainee.seconds / steps * 32 / 60:.1f} min")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
