"""Rows to order: how many to begin of each ordered value, and how to draw attributes so that they come.

Everything is a function of the run file and of what became of the rows so far. So the same stored calls give the same
rounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil

from harness.augment.funnel import Counts, facet
from harness.config.attributes import Attribute
from harness.config.quotas import LABEL, Quota, Quotas

LOWEST_RATE = 0.05  # a keep rate that is seen lower, from few rows, is not believed
TRIED = 64  # rows begun, after which a value that never came is taken to come at the lowest rate

Demand = dict[str, dict[str, int]]  # attribute -> value -> rows to begin with it
Weights = dict[str, dict[str, float]]  # attribute -> each of its values -> weight


def label_targets(labels: Sequence[str], rows: int, quota: Mapping[str, int]) -> dict[str, int]:
    """Kept rows wanted of each label: its quota. Labels without one share what is left of `rows` evenly.

    Where all have one, what is left is shared by all.
    """
    sharing = [label for label in labels if label not in quota] or labels
    each = ceil(max(rows - sum(quota.values()), 0) / len(sharing))
    return {label: quota.get(label, 0) + (each if label in sharing else 0) for label in labels}


def rows_to_begin(attributes: Mapping[str, Attribute], quotas: Quotas, seen: Counts, rate: float, begun: int) -> Demand:
    """Rows to begin with each ordered value, so that what is missing of it is likely kept.

    `rate` is the keep rate of all `begun` rows. A value of which few rows were begun is taken to be kept like all. An
    attribute under a condition asks for rows in which its condition holds.
    """
    demand: Demand = {}
    for name, quota in quotas.items():
        if name == LABEL:
            continue
        counts = seen.get(facet(name), {})
        drawn_rows = sum(drawn for drawn, _ in counts.values())
        steered = all(attributes[other].values for other in attributes[name].when)
        # a condition on a number, or on what is computed, is left to chance
        holds = 1.0 if steered or begun < TRIED else max(drawn_rows / begun, LOWEST_RATE)
        demand[name] = {}
        for value, wanted in quota.items():
            drawn, kept = counts.get(value, (0, 0))
            never = not drawn and begun >= TRIED
            of_value = LOWEST_RATE if never else max((kept + rate) / (drawn + 1), min(LOWEST_RATE, rate))
            demand[name][value] = ceil(round(max(wanted - kept, 0) / (of_value * holds), 6))
    for name in reversed(list(attributes)):
        for other, allowed in attributes[name].when.items():
            if attributes[other].values:
                _ask_for_condition(demand, name, other, {v: w for v in allowed if (w := attributes[other].values[v])})
    return demand


def _ask_for_condition(demand: Demand, name: str, other: str, allowed: Mapping[str, float]) -> None:
    """Ask for as many rows in which `other` has a value that is allowed as are asked for with a value of `name`."""
    of_other = demand.get(other, {})
    lacking = sum(demand.get(name, {}).values()) - sum(of_other.get(value, 0) for value in allowed)
    if lacking > 0:
        shares = {value: ceil(lacking * weight / sum(allowed.values())) for value, weight in allowed.items()}
        demand[other] = {**of_other, **{value: of_other.get(value, 0) + n for value, n in shares.items()}}


def most_to_begin(demand: Demand) -> int:
    """Rows that answer the whole demand: a row has a value of every attribute."""
    return max((sum(values.values()) for values in demand.values()), default=0)


def draw_weights(
    attributes: Mapping[str, Attribute], quotas: Quotas, demand: Demand, wanted: int, begin: int
) -> Weights:
    """How attributes are drawn for the next `begin` rows of a run that wants `wanted` rows written.

    As many rows as the demand says get an ordered value. The others get one that is not ordered, by the attribute's
    own weights.
    """
    weights: Weights = {}
    for name, values in demand.items():
        ordered = allot(values, begin)
        rest = begin - sum(ordered.values())
        others = _others(attributes[name], quotas.get(name, {}), wanted)
        weights[name] = {
            value: ordered.get(value, 0) + rest * others.get(value, 0) / sum(others.values())
            for value in attributes[name].values
        }
    return weights


def _others(attribute: Attribute, quota: Quota, wanted: int) -> Mapping[str, float]:
    """Weights for rows that no demand claims: those of values without a quota, or of all where each has one.

    Quotas that leave no row to others are the weights themselves.
    """
    if quota and sum(quota.values()) >= wanted:
        return quota
    without = {value: weight for value, weight in attribute.values.items() if value not in quota and weight}
    return without or attribute.values


def allot(needed: Mapping[str, int], room: int, *, cheapest_first: bool = True) -> dict[str, int]:
    """What of these needs there is room for.

    The cheapest first, so that a value that hardly ever comes takes nothing from the others.
    """
    order: Iterable[str] = sorted(needed, key=lambda name: needed[name]) if cheapest_first else needed
    given: dict[str, int] = {}
    for name in order:
        given[name] = min(needed[name], room)
        room -= given[name]
    return {name: given[name] for name in needed}
