"""Log-likelihoods of public benchmarks by prefix tree: against the bound, and lm-evaluation-harness's own backend.

    HARNESS_BENCHMARKS=FOLDER python -m tests.bench.bench_tree_scoring [BENCHMARK ...] [--items 100] [--theirs]

The bound is the number of distinct tree nodes times this model's best time per token, the minimum over plain causal
forward passes of several shapes with logits of one position a row; "+ head" adds the output head's best time per
position for every position whose logits are needed. It is measured before and after every timed run. Both sides
get the same token ids, so neither tokenizes while it is timed; theirs is run at every batch size given.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from harness.engines.prefix_tree.tree import grow
from harness.engines.transformers import CPU_NODES, TransformersEngine
from harness.models.resolve import resolve
from harness.records import Loglikelihood, Pair
from harness.suites.benchmark import BenchmarkSuite
from harness.suites.benchmarks import benchmark_tasks, score_benchmark

ROOT = Path(__file__).parents[2]
SHAPES = [(1, 256), (1, 512), (2, 256), (4, 128), (8, 64), (16, 32), (8, 128)]  # rows x tokens
SUBJECTS = 57  # of MMLU
EXAMPLES = {"arc_challenge": 25, "hellaswag": 0, "mmlu": 5, "truthfulqa_mc2": 0}  # shown before each question


class Recording:
    """An engine that keeps what it was asked and how long it took."""

    def __init__(self, inner: TransformersEngine) -> None:
        self._inner = inner
        self.pairs: list[Pair] = []
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Loglikelihood]:
        """The inner engine's, timed."""
        self.pairs += pairs
        started = time.perf_counter()
        found = self._inner.loglikelihood(pairs)
        self.seconds += time.perf_counter() - started
        return found


class Best:
    """The least time seen per token of the body, and per position of the output head."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.shapes: dict[tuple[int, int], float] = {}
        self.head = float("inf")

    @property
    def token(self) -> float:
        """Seconds, at the best shape."""
        return min(self.shapes.values())

    def measure(self) -> None:
        """Once through all shapes."""
        import torch

        with torch.inference_mode():
            for rows, length in SHAPES:
                ids = torch.randint(100, 40_000, (rows, length)) % self._model.config.vocab_size

                def forward(ids: torch.Tensor = ids) -> None:
                    self._model(input_ids=ids, logits_to_keep=1, use_cache=False)

                self.shapes[rows, length] = min(timed(forward) / rows / length, self.shapes.get((rows, length), 1e9))
            hidden = torch.randn(256, self._model.config.hidden_size, dtype=self._model.dtype)
            self.head = min(timed(lambda: self._model.get_output_embeddings()(hidden)) / 256, self.head)


class Line(NamedTuple):
    """What one benchmark gave."""

    name: str
    pairs: list[Pair]
    nodes: int  # distinct in the tree of all requests
    computed: int  # run through the model
    reads: int  # distinct nodes whose logits are needed
    engine: float  # seconds
    whole: float  # seconds, with prompts, tokenizing and metrics
    theirs: dict[int, float]  # batch size -> seconds


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def suite_of(name: str, items: int) -> BenchmarkSuite:
    """`items` of a benchmark; of MMLU as many in a hundred as two per subject."""
    limit = round(items * 2 * SUBJECTS / 100) if name == "mmlu" else items
    return BenchmarkSuite(kind="benchmark", benchmark=name, num_fewshot=EXAMPLES.get(name, 0), limit=limit)


def run(name: str, items: int, engine: TransformersEngine, lm: Any, sizes: Sequence[int], best: Best) -> Line:
    """Time both sides on one benchmark."""
    suite = suite_of(name, items)
    tasks = benchmark_tasks(suite)
    recording: Any = Recording(engine)
    best.measure()
    before = engine.nodes
    whole = timed(lambda: score_benchmark(suite, tasks, recording))
    computed = engine.nodes - before
    best.measure()
    pairs = recording.pairs
    tree = grow([p.context + p.continuation[:-1] for p in pairs], [len(p.context) - 1 for p in pairs])
    reads = len({int(node) for path in tree.paths for node in path})
    theirs: dict[int, float] = {}
    for size in sizes:
        lm.batch_size_per_gpu = size
        requests = [(("", ""), list(pair.context), list(pair.continuation)) for pair in pairs]
        theirs[size] = timed(lambda asked=requests: lm._loglikelihood_tokens(asked, disable_tqdm=True))  # type: ignore[misc]
        print(f"{name}: lm-evaluation-harness at batch size {size}: {theirs[size]:.1f} s")
    best.measure()
    return Line(name, pairs, len(tree), computed, reads, recording.seconds, whole, theirs)


def table(lines: Sequence[Line], best: Best) -> None:
    """One line per benchmark; times in seconds."""
    heads = [
        "nodes",
        "computed",
        "tokens",
        "engine",
        "whole",
        "bound",
        "ratio",
        "+head",
        "ratio",
        "theirs",
        "at",
        "theirs/ours",
    ]
    print(f"{'benchmark':16}" + "".join(f"{head:>12}" for head in heads))
    for line in lines:
        bound = line.nodes * best.token
        more = bound + line.reads * best.head
        tokens = sum(len(p.context) + len(p.continuation) - 1 for p in line.pairs)
        cells = [line.nodes, line.computed, tokens, f"{line.engine:.2f}", f"{line.whole:.2f}", f"{bound:.2f}"]
        cells += [f"{line.engine / bound:.2f}", f"{more:.2f}", f"{line.engine / more:.2f}"]
        if line.theirs:
            size = min(line.theirs, key=lambda size: line.theirs[size])
            cells += [f"{line.theirs[size]:.2f}", size, f"{line.theirs[size] / line.engine:.2f}"]
        print(f"{line.name:16}" + "".join(f"{cell:>12}" for cell in cells))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what is measured, and with what settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="*", default=list(EXAMPLES), help="tasks of lm-evaluation-harness")
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--theirs", action="store_true", help="run lm-evaluation-harness's backend as well")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    asked = parser.parse_args(arguments)
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    if asked.threads:
        torch.set_num_threads(asked.threads)
    folder = resolve(asked.model, ROOT / "runs/.cache").folder
    engine = TransformersEngine(folder, device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    lm = HFLM(pretrained=plain, tokenizer=engine.tokenizer, backend="causal", device="cpu", batch_size=1)
    names = ("torch", "transformers", "lm_eval")
    print(", ".join(f"{name} {version(name)}" for name in names) + f", Python {platform.python_version()}")
    print(
        f"{asked.model}, bfloat16, CPU, {torch.get_num_threads()} threads; ours: passes of {CPU_NODES} nodes;"
        f" theirs: attention {plain.config._attn_implementation}, logits cache on"
    )
    best = Best(plain)
    best.measure()
    engine.loglikelihood([Pair(context=(1, 2, 3), continuation=(4,))])
    lines = [
        run(name, asked.items, engine, lm, asked.batch_sizes if asked.theirs else [], best) for name in asked.benchmarks
    ]
    print("best time per token: " + ", ".join(f"{r}x{n} {s * 1e3:.3f} ms" for (r, n), s in best.shapes.items()))
    print(f"best time of the output head per position: {best.head * 1e3:.3f} ms")
    table(lines, best)


if __name__ == "__main__":
    main()
