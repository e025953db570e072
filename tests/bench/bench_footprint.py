"""The memory that train estimates against the peak that it measures: one process for each setting.

    .venv/bin/python tests/bench/bench_footprint.py [--student NAME]

Rows are random words. Prints the estimate as train says it, the measured peak and their ratio.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from pathlib import Path

from tests.process import succeed

SETTINGS = [  # words of a prompt and an answer, tokens of a pass, rank, random seeds
    (60, 4, 1024, 16, 1),
    (60, 4, 4096, 16, 4),
    (60, 4, 1024, 128, 1),
    (200, 200, 1024, 16, 1),
    (200, 200, 4096, 16, 1),
    (400, 4, 1024, 16, 1),
]
WORDS = ("the", "bike", "rider", "battery", "a", "parcel", "of", "wheel", "shop", "why", "new", "key", "when", "road")


def measured(student: str, prompt: int, answer: int, tokens: int, rank: int, seeds: int) -> tuple[str, int]:
    """(What train says of the memory, the peak in bytes) for rows of so many words."""
    draw = random.Random(0)
    rows = [
        {name: " ".join(draw.choices(WORDS, k=count)) for name, count in (("question", prompt), ("answer", answer))}
        for _ in range(32)
    ]
    items = [{"question": f"why {n}?", "answer": "so"} for n in range(16)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "runs").mkdir()
        (root / "suites").mkdir()
        for path, lines in (("rows.jsonl", rows), ("suites/x.jsonl", items)):
            (root / path).write_text("".join(json.dumps(line) + "\n" for line in lines))
        (root / "suites/x.yaml").write_text("kind: answers\nitems: suites/x.jsonl\n")
        (root / "runs/m.yaml").write_text(
            "task: {system: Answer.}\naugment: {rows_file: rows.jsonl}\neval: {suites: [x]}\n"
            f"train: {{students: [{student}], sizes: [32], epochs: 1, min_steps: 2, batch_size: 16, max_length: 2048,"
            f" micro_batch_tokens: {tokens}, lora: {{r: {rank}}}, random_seeds: {list(range(seeds))}}}\n"
        )
        succeed(root, "augment", "m")
        said = succeed(root, "train", "m")
        (estimate,) = re.findall(r"about (.*) of memory at the peak", said)
        cells = (root / "runs/.cache/students").glob("*/cell.json")
        return estimate, max(json.loads(cell.read_text())["peak_memory"] for cell in cells)


def main() -> None:
    """Print a line for each setting."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--student", default="smollm2-135m-instruct")
    student = parser.parse_args().student
    for setting in SETTINGS:
        estimate, peak = measured(student, *setting)
        number, unit = re.match(r"([\d.]+) (MiB|GiB)", estimate).groups()  # type: ignore[union-attr]
        ratio = float(number) * 2 ** (30 if unit == "GiB" else 20) / peak
        print(
            f"words {setting[:2]}, tokens {setting[2]}, r {setting[3]}: {estimate}; {peak / 2**30:.2f} GiB; {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
