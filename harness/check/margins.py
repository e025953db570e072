"""How many items and random seeds a margin needs, for a person who plans a suite."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.check.rules import LEVEL
from harness.core.aligned import aligned
from harness.errors import UsageError
from harness.stats import power

HEADS = ("items that change", "items, these weights", "items, this recipe", "random seeds a side")


def table(margin: float, flips: Sequence[float], seed_spread: float) -> str:
    """Per share of changing items: what shows, with a power of 0.8, that nothing got worse by the margin.

    "These weights" needs items alone. "This recipe" is given twice as many, and the seeds it then needs.
    Raises UsageError for a margin or share outside (0, 1), or a negative spread.
    """
    if not 1e-4 <= margin < 1:
        raise UsageError(f"--margin {margin}: it must be at least 0.0001 and below 1, e.g. 0.03 for three points")
    wrong = [share for share in flips if not 1e-6 <= share <= 1]
    if wrong:
        raise UsageError(f"--flips {wrong[0]}: a share of items is above 0 and at most 1, e.g. 0.1")
    if not 0 <= seed_spread <= 1:
        raise UsageError(f"--seed-spread {seed_spread}: the standard deviation of a rate lies between 0 and 1")
    rows = []
    for share in flips:
        items = power.items_needed(share, margin, LEVEL)
        error = math.sqrt(share / (2 * items))
        seeds = power.seeds_needed(seed_spread, error, margin, LEVEL)
        enough = f"over {power.MOST_SEEDS}" if seeds is None else str(seeds)
        rows.append((f"{100 * share:g}%", str(items), str(2 * items), enough))
    return (
        f"to show that nothing is worse by {margin:g}, when nothing is (power 0.8; seeds spread by {seed_spread:g}):\n"
        + aligned([HEADS, *rows])
        + "\nTwo students tuned alike change 5 to 20% of the items; an unlike one changes more."
    )
