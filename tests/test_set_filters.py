"""Filters that compare rows, and those that choose among them: novelty, meaning, balance, diversity."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from harness.augment.ask import Asker
from harness.augment.scheduler import Scheduler
from harness.augment.work import bundled_embedder
from harness.core.terminal import Stop
from harness.engines.call_cache import CallCache
from harness.errors import UsageError
from harness.filters import Balance, Context, Diverse, Filter, Length, Novelty, SemanticDuplicate
from harness.filters.meaning import Vectors, facility_location, k_center
from harness.metrics.answers import rouge_l
from harness.records import Row
from tests.project import context, labelled, row, verdicts_of
from tests.test_row_filters import answered
from tests.test_steps import ANSWER, ASK, ROW, project, run_it

# --- novelty ---


def test_novelty_names_the_nearest_text_and_prefers_the_seed() -> None:
    seed = labelled("write a poem about the sea in winter", "repair")
    rows = [
        row("write a poem about the sea in summer"),
        row("list three rivers in Africa"),
        row("list three lakes in Africa"),
        row("Name the capital of Chad."),
    ]
    said = verdicts_of(Novelty(), rows, context(seeds=[seed]))
    assert [v.keep for v in said] == [False, True, False, True]
    assert said[0].reason == "too like a seed (ROUGE-L 0.88, below 0.7 wanted)"
    assert (said[0].score, said[0].against) == (7 / 8, seed.text)
    assert (said[2].score, said[2].against) == (0.8, rows[1].text)
    assert [v.keep for v in verdicts_of(Novelty(threshold=0.9), rows, context(seeds=[seed]))] == [True] * 4


WORDS = st.lists(st.sampled_from(["my", "bike", "is", "late", "red", "the", "brake", "now"]), max_size=9).map(" ".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(WORDS, max_size=9), st.lists(WORDS, max_size=3), st.sampled_from([0.3, 0.5, 0.7, 1.0]))
def test_novelty_says_what_rouge_l_of_every_pair_says(texts: list[str], seeds: list[str], threshold: float) -> None:
    said = verdicts_of(
        Novelty(threshold=threshold), [row(t) for t in texts], context(seeds=[labelled(s, "repair") for s in seeds])
    )
    earlier = list(seeds)
    for text, verdict in zip(texts, said, strict=True):
        scores = [rouge_l(text, other) for other in earlier]
        best = max(scores, default=0.0)
        assert verdict.keep == (best < threshold - 1e-9)
        if verdict.keep:
            earlier.append(text)
        else:
            assert verdict.score == pytest.approx(best)
            assert rouge_l(text, verdict.against) == pytest.approx(best)


def test_five_thousand_rows_are_compared_with_each_other_in_seconds() -> None:
    draw = random.Random(0)
    vocabulary = [f"w{i}" for i in range(2000)]
    weights = [1 / (i + 10) for i in range(2000)]
    rows = [row(" ".join(draw.choices(vocabulary, weights, k=draw.randint(8, 40)))) for _ in range(5000)]
    started = time.process_time()
    said = verdicts_of(Novelty(), rows, context())
    assert time.process_time() - started < 20  # 1 s on a free core
    assert sum(v.keep for v in said) > 4900


# --- meaning: texts are degrees of a circle ---


class Circle:
    """Embeds "30" as the point at 30 degrees, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.update(texts)
        angles = [math.radians(float(text)) for text in texts]
        return np.array([[math.cos(a), math.sin(a)] for a in angles], np.float32).reshape(len(texts), 2)


def on_circle(seeds: Sequence[str] = (), circle: Circle | None = None) -> Context:
    return replace(context(seeds=[labelled(s, "repair") for s in seeds]), embedder=lambda: circle or Circle())


def kept(rule: Filter, degrees: Sequence[float], seeds: Sequence[str] = ()) -> list[float]:
    rows = [row(str(d)) for d in degrees]
    return [d for d, v in zip(degrees, verdicts_of(rule, rows, on_circle(seeds)), strict=True) if v.keep]


def test_a_semantic_duplicate_is_near_a_seed_or_a_row_that_was_kept() -> None:
    said = verdicts_of(SemanticDuplicate(), [row(t) for t in ("20", "60", "80", "100", "")], on_circle(["0"]))
    assert [v.keep for v in said] == [False, True, False, True, True]  # 100 is near 80 alone, which is gone
    assert said[0].reason == "it means what a seed means (cosine 0.940, below 0.9 wanted)"
    assert (said[2].reason[:37], said[2].score, said[2].against) == (
        "it means what an earlier row means (c", 0.9397, "60",
    )  # fmt: skip
    assert kept(SemanticDuplicate(threshold=0.95), [20, 60, 80], ["0"]) == [20, 60, 80]
    assert verdicts_of(SemanticDuplicate(), [], on_circle()) == []


def test_a_text_is_embedded_once_however_often_rows_are_judged() -> None:
    circle = Circle()
    rule = SemanticDuplicate().prepare(on_circle(["0"], circle))
    for count in (2, 4):
        rule.verdicts([row(t) for t in ("10", "10", "50", "90")[:count]], [()] * count)
    assert circle.asked == {"0": 1, "10": 1, "50": 1, "90": 1}


def test_the_real_embeddings_find_the_same_question_in_other_words() -> None:
    texts = ["Where is my parcel?", "Could you tell me where my parcel is?", "The brake squeaks in the rain."]
    where = replace(context(), embedder=bundled_embedder)
    said = verdicts_of(SemanticDuplicate(threshold=0.8), [row(text) for text in texts], where)
    assert [v.keep for v in said] == [True, False, True]


def test_a_run_keeps_as_many_diverse_rows_as_it_says_of_those_that_pass(tmp_path: Path) -> None:
    filters = [{"kind": "diverse", "rows": 6, "on": "answer"}, {"kind": "format", "forbid": "[24680]"}]
    run = project(tmp_path, [ASK, ANSWER], ROW, rows=6, requests_per_row=3, max_requests_per_row=3, filters=filters)
    _, funnel = run_it(run)
    assert (funnel.requested, funnel.kept) == (18, 6)
    assert funnel.dropped == {"diverse": 3, "format": 9}  # 9 of the numbers to 17 have an even digit


# --- balance ---


def labels_kept(rule: Balance, labels: str) -> str:
    names = {"b": "billing", "d": "delivery", "r": "repair"}
    rows = [row(f"{label} {i}", names[label]) for i, label in enumerate(labels)]
    return "".join(c for c, v in zip(labels, verdicts_of(rule, rows, context()), strict=True) if v.keep)


def test_balance_keeps_the_first_of_each_label() -> None:
    assert labels_kept(Balance(most=2), "bbdbrbd") == "bbdrd"
    assert labels_kept(Balance(max_ratio=1), "bbdbrbd") == "bdr"
    assert labels_kept(Balance(max_ratio=2.5), "bbdbrbd") == "bbdrd"
    assert labels_kept(Balance(max_ratio=1), "") == ""
    rows = [row(str(i), "billing") for i in range(3)] + [row("3", "repair")]
    said = verdicts_of(Balance(max_ratio=2), rows, context())
    assert said[2].reason == ("2 rows of label 'billing' stand before it, at most 2 may be, 2 times the 1 of 'repair'")
    assert said[2].against == "billing"


def test_balance_goes_by_an_attribute_too() -> None:
    rows = [answered(str(i), "yes", {"tone": tone}) for i, tone in enumerate(["kind", "kind", "rude", "kind"])]
    said = verdicts_of(Balance(attribute="tone", most=1), rows, replace(context(), labels={}))
    assert [v.keep for v in said] == [True, False, True, False]
    assert said[3].reason == "2 rows of tone 'kind' stand before it, at most 1 may be"


def test_a_balance_that_cannot_be_is_refused() -> None:
    for limits in ({}, {"most": 2, "max_ratio": 2.0}):
        with pytest.raises(ValidationError, match="give one of most"):
            Balance(**limits)
    with pytest.raises(UsageError, match="balance: the task has no labels: name an attribute"):
        Balance(most=1).prepare(replace(context(), labels={}))


@settings(deadline=None)
@given(st.text("bdr", max_size=30), st.integers(1, 5))
def test_balance_keeps_all_that_the_limit_allows(labels: str, most: int) -> None:
    assert Counter(labels_kept(Balance(most=most), labels)) == {c: min(n, most) for c, n in Counter(labels).items()}
    balanced = Counter(labels_kept(Balance(max_ratio=most), labels))
    rarest = min(Counter(labels).values(), default=0)
    assert balanced == {c: min(n, most * rarest) for c, n in Counter(labels).items()}


# --- diversity ---


def test_k_center_reaches_for_what_is_rare_and_facility_location_for_what_stands_for_many() -> None:
    degrees = [0, 2, 4, 6, 8, 60, 62, 64, 150]
    assert kept(Diverse(rows=2), degrees) == [0, 150]
    assert kept(Diverse(rows=3), degrees) == [0, 64, 150]
    assert kept(Diverse(rows=2), degrees, ["0"]) == [64, 150]
    # each group has its middle
    grouped = [0, 2, 4, 6, 8, 120, 122, 124, 240]
    assert kept(Diverse(rows=3, by="facility_location"), grouped) == [4, 122, 240]
    assert kept(Diverse(rows=1, by="facility_location"), grouped, ["3"]) == [122]
    assert kept(Diverse(rows=9), degrees) == degrees


def test_what_is_not_chosen_names_its_nearest_kept_row() -> None:
    said = verdicts_of(Diverse(rows=2), [row(t) for t in ("0", "10", "90")], on_circle())
    assert said[1].reason == "not among the 2 most diverse rows: cosine 0.985 to one that is kept"
    assert (said[1].score, said[1].against) == (0.9848, "0")


def points(degrees: Sequence[float]) -> Vectors:
    return Circle().embed([str(d) for d in degrees])


DEGREES = st.lists(st.integers(0, 359), min_size=2, max_size=9, unique=True)


def radius(vectors: Vectors, chosen: Sequence[int]) -> float:
    """The largest distance of a point to the nearest one that is chosen."""
    return float(np.sqrt(np.maximum(0, 2 - 2 * vectors @ vectors[list(chosen)].T)).min(axis=1).max())


def covered(vectors: Vectors, chosen: Sequence[int]) -> float:
    return float(np.maximum(vectors @ vectors[list(chosen)].T, 0).max(axis=1).sum())


@settings(deadline=None, max_examples=60)
@given(DEGREES, st.data())
def test_greedy_choices_are_as_good_as_theory_says(degrees: list[int], data: st.DataObject) -> None:
    vectors = points(degrees)
    count = data.draw(st.integers(1, len(degrees) - 1))
    none = vectors[:0]
    centres, facilities = k_center(vectors, count, none), facility_location(vectors, count, none)
    every = list(combinations(range(len(degrees)), count))
    assert len(set(centres)) == len(set(facilities)) == count
    # Gonzalez 1985: no more than twice the best radius
    assert radius(vectors, centres) <= 2 * min(radius(vectors, chosen) for chosen in every) + 1e-3
    # Nemhauser et al. 1978: at least 1 - 1/e of the best cover
    assert covered(vectors, facilities) >= (1 - 1 / math.e) * max(covered(vectors, chosen) for chosen in every) - 1e-3


@settings(deadline=None, max_examples=60)
@given(DEGREES, st.integers(1, 8))
def test_the_lazy_choice_is_the_plain_one(degrees: list[int], count: int) -> None:
    vectors, count = points(degrees), min(count, len(degrees))
    plain: list[int] = []
    for _ in range(count):
        gains = [
            round(covered(vectors, [*plain, i]) - (covered(vectors, plain) if plain else 0), 3)
            for i in range(len(degrees))
        ]
        best = max(gain for i, gain in enumerate(gains) if i not in plain)
        step = facility_location(vectors, len(plain) + 1, vectors[:0])[len(plain)]
        assert gains[step] >= best - 2e-3
        plain.append(step)
    assert plain == facility_location(vectors, count, vectors[:0])


# --- choosing among what passes ---


def test_what_another_filter_drops_takes_no_place(tmp_path: Path) -> None:
    rules = [
        Balance(most=2).prepare(context()),  # stands first and chooses after the filter that does not choose
        Length(min_words=2).prepare(context()),
        Diverse(rows=3).prepare(on_circle()).named("second"),
    ]
    texts = [("1", "billing"), ("2", "billing"), ("30 x", "billing"), ("40 x", "billing"), ("50 x", "billing")]
    texts += [("90 x", "repair"), ("170 x", "repair"), ("3", "repair")]

    class Degrees(Circle):
        def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            return super().embed([text.split()[0] for text in texts])

    rules[2] = Diverse(rows=3).prepare(replace(on_circle(), embedder=Degrees)).named("second")
    cache = CallCache(tmp_path / "calls.sqlite")
    scheduler = Scheduler(rules, Asker(cache, pytest.fail, Stop()))
    scheduler.judge([row(text, label) for text, label in texts], lambda: None)
    judged, _ = scheduler.outcome()
    cache.close()
    assert [[v.filter for v in one.verdicts] for one in judged] == [["balance", "length", "second"]] * 8
    dropped = {one.row.text: [v.filter for v in one.verdicts if not v.keep] for one in judged}
    assert dropped == {
        "1": ["length"], "2": ["length"], "3": ["length"], "50 x": ["balance"], "40 x": ["second"],
        "30 x": [], "90 x": [], "170 x": [],
    }  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=12), st.integers(1, 6))
def test_a_rule_that_chooses_says_nothing_of_rows_that_do_not_pass(passing: list[bool], count: int) -> None:
    rows: list[Row] = [row(str(7 * i)) for i in range(len(passing))]
    for rule in (Diverse(rows=count).prepare(on_circle()), Balance(most=count).prepare(context())):
        assert rule.among is not None
        said = rule.among(rows, passing)
        assert [v.row for v in said] == [r.id for r in rows]
        assert all(v.keep for v, passes in zip(said, passing, strict=True) if not passes)
        assert sum(v.keep for v, passes in zip(said, passing, strict=True) if passes) == min(count, sum(passing))


def test_an_example_without_the_attribute_is_a_value_of_its_own() -> None:
    rows = [answered("a", "x"), answered("b", "x"), answered("c", "x", {"tone": "kind"})]
    assert [v.keep for v in verdicts_of(Balance(attribute="tone", most=1), rows, context())] == [True, False, True]
