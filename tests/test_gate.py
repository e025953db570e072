"""The gate's rules: every row of the table with its boundary, and what must hold whatever the scores."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.check.rules import Decision, Evidence, Rule, decide, overall
from harness.stats import Floats
from harness.stats.contrasts import Question
from harness.stats.design import INDEPENDENT, Design
from harness.stats.score_matrix import ScoreMatrix

WEIGHTS: Question = "these weights"
RECIPE: Question = "this recipe"
Z = 1.6448536


def margin(limit: float, metric: str = "accuracy", better: str = "higher") -> Rule:
    return Rule("suite", metric, "margin", limit, "lower" if better == "lower" else "higher")


def evidence(before: Floats, now: Floats, design: Design = INDEPENDENT) -> Evidence:
    """Scores of shape (random seeds, items) on the same items."""
    return Evidence(ScoreMatrix.numbered(before, design), ScoreMatrix.numbered(now, design))


def flips(n: int, wins: int, losses: int) -> Evidence:
    """0/1 scores of two students on `n` items; `wins` are right only now, `losses` only before."""
    before, now = np.ones((1, n)), np.ones((1, n))
    before[0, :wins] = 0.0
    now[0, wins : wins + losses] = 0.0
    return evidence(before, now)


def shifted(by: float, n: int = 50) -> Evidence:
    """Real values that all moved by exactly `by`: an interval without width."""
    before = np.full((1, n), 3.25)
    return evidence(before, before + by)


def one(rule: Rule, pair: Evidence, question: Question = WEIGHTS) -> Decision:
    return decide([(rule, pair)], question)[0]


# --- the table ------------------------------------------------------------------------------------------------


def test_no_item_changed_passes_from_the_number_of_items_that_the_margin_needs() -> None:
    # without a flip Tango's lower end is -z^2 / (n + z^2): -0.006718 for 400 items
    assert pytest.approx(-0.0067184, abs=1e-7) == -(Z**2) / (400 + Z**2)
    assert one(margin(0.00672), flips(400, 0, 0)).verdict == "pass"
    found = one(margin(0.00671), flips(400, 0, 0))
    assert found.verdict == "inconclusive"
    assert "reaches across -0.00671" in found.note


@pytest.mark.parametrize(
    ("limit", "verdict"), [(0.25 + 1e-9, "pass"), (0.25, "inconclusive"), (0.25 - 1e-9, "regressed")]
)
def test_a_difference_on_the_line_itself_is_undecided(limit: float, verdict: str) -> None:
    assert one(margin(limit), shifted(-0.25)).verdict == verdict
    assert one(margin(limit, better="lower"), shifted(0.25)).verdict == verdict


@pytest.mark.parametrize(
    ("by", "verdict", "shade"),
    [
        (0.5, "pass", "improved"),
        (2.0**-40, "pass", "improved"),
        (0.0, "pass", "equivalent"),
        (-0.25, "pass", "worse, within the margin"),
        (-0.5, "inconclusive", ""),
        (-0.75, "regressed", ""),
    ],
)
def test_what_a_difference_comes_to_with_a_margin_of_a_half(by: float, verdict: str, shade: str) -> None:
    found = one(margin(0.5), shifted(by))
    assert (found.verdict, found.shade) == (verdict, shade)
    mirrored = one(margin(0.5, better="lower"), shifted(-by))
    assert (mirrored.verdict, mirrored.shade) == (verdict, shade)


def test_shades_of_0_1_scores() -> None:
    # 1000 items: two-sided 95% about 1.96 sqrt(flips) / n around the difference
    assert one(margin(0.05), flips(1000, 60, 20)).shade == "improved"  # 0.04 +- 0.017
    assert one(margin(0.05), flips(1000, 40, 40)).shade == "equivalent"  # 0 +- 0.018
    assert one(margin(0.05), flips(1000, 5, 30)).shade == "worse, within the margin"  # -0.025 +- 0.012
    wide = one(margin(0.05), flips(1000, 160, 120))  # 0.04 +- 0.033: above 0, and so improved
    assert wide.shade == "improved"
    open_ended = one(margin(0.05), flips(1000, 150, 125))  # 0.025 +- 0.033: neither above 0 nor below 0.05
    assert (open_ended.verdict, open_ended.shade) == ("pass", "")


def test_a_regression_and_a_doubt_of_0_1_scores() -> None:
    assert one(margin(0.03), flips(400, 5, 60)).verdict == "regressed"
    found = one(margin(0.03), flips(400, 20, 28))
    assert found.verdict == "inconclusive"
    assert "items would tell" in found.note


def test_holm_takes_back_what_is_only_significant_alone() -> None:
    suspect = flips(400, 10, 38)  # -0.07 against a margin of 0.04
    alone = one(margin(0.04), suspect)
    assert alone.p is not None
    assert 0.01 < alone.p < 0.05
    assert alone.verdict == "regressed"
    rules = [(margin(0.04), suspect)] + [(margin(0.2, f"other {i}"), flips(400, 5, 5)) for i in range(5)]
    adjusted = decide(rules, WEIGHTS)[0]
    assert adjusted.p == pytest.approx(6 * alone.p)
    assert adjusted.verdict == "inconclusive"
    assert "alone" in adjusted.note
    assert "adjusted for all rules" in adjusted.note
    assert "reaches across" not in adjusted.note  # its interval does not
    strong = decide([(margin(0.04), flips(400, 0, 80)), *rules[1:]], WEIGHTS)[0]
    assert strong.verdict == "regressed"


def test_holm_steps_down() -> None:
    strong, weak = flips(400, 0, 80), flips(400, 10, 38)
    first, second = decide([(margin(0.04, "a"), strong), (margin(0.04, "b"), weak)], WEIGHTS)
    assert first.verdict == "regressed"
    alone = one(margin(0.04), weak).p
    assert second.p == alone  # the last of the ordered p values is not multiplied


@pytest.mark.parametrize(
    ("bound", "limit", "verdict"),
    [
        ("min", 0.85, "pass"),
        ("min", 0.9, "inconclusive"),
        ("min", 0.95, "regressed"),
        ("max", 0.95, "pass"),
        ("max", 0.9, "inconclusive"),
        ("max", 0.85, "regressed"),
    ],
)
def test_a_value_of_its_own(bound: str, limit: float, verdict: str) -> None:
    # 360 of 400 right; Wilson at 90%: 0.9 - 0.0266, 0.9 + 0.0220
    pair = flips(400, 0, 40)
    rule = Rule("suite", "accuracy", "min" if bound == "min" else "max", limit)
    found = one(rule, pair)
    assert found.verdict == verdict
    assert found.shade == ""
    assert found.limit == f"{bound} {limit:g}"


def test_a_value_exactly_on_its_bound_is_undecided() -> None:
    pair = shifted(0.0)
    for bound, inside, outside in (("min", 3.0, 3.5), ("max", 3.5, 3.0)):
        rule = Rule("suite", "words", "min" if bound == "min" else "max", 3.25)
        assert one(rule, pair).verdict == "inconclusive"
        assert one(replace(rule, limit=inside), pair).verdict == "pass"
        assert one(replace(rule, limit=outside), pair).verdict == "regressed"


def test_a_margin_as_a_share_of_the_baseline() -> None:
    # the baseline is 3.25: 10% of it are 0.325
    share = Rule("suite", "words", "margin_share", 0.1)
    assert one(share, shifted(-0.3125)).verdict == "pass"
    assert one(share, shifted(-0.34375)).verdict == "regressed"
    assert one(replace(share, better="lower"), shifted(0.3125)).verdict == "pass"
    assert one(replace(share, better="lower"), shifted(0.34375)).verdict == "regressed"
    negative = evidence(np.full((1, 9), -4.0), np.full((1, 9), -4.5))  # a share of a negative number is a distance too
    assert one(replace(share, limit=0.25), negative).shade == "worse, within the margin"


def test_one_student_scored_alike_passes_any_margin() -> None:
    few = replace(flips(20, 0, 0), same=True)
    found = one(margin(0.001), few)
    assert (found.verdict, found.shade) == ("pass", "the same weights")
    assert one(margin(0.001), replace(few, same=False)).verdict == "inconclusive"
    wrong = replace(few, now=few.now.zeros(), before=few.before.zeros())
    below = one(Rule("suite", "accuracy", "min", 0.5), wrong)
    assert below.verdict == "regressed"  # a value of its own is judged all the same


def test_one_student_scored_otherwise_is_judged_by_its_scores() -> None:
    # its key is the same, but another machine or library trained or scored it: what counts is what it answers
    assert one(margin(0.03), replace(flips(400, 5, 60), same=True)).verdict == "regressed"


def test_values_that_went_missing_leave_a_pass_undecided() -> None:
    before = np.full((1, 100), 3.25)
    now = before.copy()
    now[0, :5] = np.nan
    found = one(margin(0.5), evidence(before, now))  # 5% may be missing
    assert (found.verdict, found.items, found.total) == ("pass", 95, 100)
    now[0, 5] = np.nan
    found = one(margin(0.5), evidence(before, now))
    assert found.verdict == "inconclusive"
    assert "6 items that had a value have none now" in found.note
    assert one(margin(0.5), evidence(now, before)).verdict == "pass"  # values that are new lose nothing
    assert one(margin(0.5), evidence(before, now - 1.0)).verdict == "regressed"  # what is left is bad enough


def test_nothing_to_pair() -> None:
    nan, some = np.full((1, 4), np.nan), np.ones((1, 4))
    found = one(margin(0.5), evidence(nan, some))
    assert (found.verdict, found.items, found.before, found.difference) == ("inconclusive", 0, None, None)
    assert "too few items" in found.note
    single = evidence(np.array([[0.5, np.nan]]), np.array([[0.75, 1.0]]))
    assert one(margin(0.5), single).verdict == "inconclusive"
    assert one(Rule("suite", "words", "min", 0.1), evidence(some, nan)).verdict == "inconclusive"


def test_a_failure_comes_before_a_regression_and_that_before_a_doubt() -> None:
    def told(*verdicts: str) -> str:
        draft = Decision(margin(0.1), "pass", WEIGHTS, 1, 1)
        words = {"pass": 0.0, "regressed": -1.0, "inconclusive": -0.5}
        found = [
            replace(draft, verdict="failed") if word == "failed" else one(margin(0.5), shifted(words[word]))
            for word in verdicts
        ]
        assert [d.verdict for d in found] == list(verdicts)
        return overall(found)

    assert told("pass", "pass") == "pass"
    assert told("pass", "inconclusive") == "inconclusive"
    assert told("inconclusive", "regressed", "pass") == "regressed"
    assert told("regressed", "failed", "inconclusive") == "failed"


# --- the recipe, the design of the items, noise ----------------------------------------------------------------


def seeds(count: int, by: float, spread: float = 0.0, items: int = 200) -> Evidence:
    """Real scores of `count` random seeds a side; the sides differ by `by`, seeds by `spread`."""
    rng = np.random.default_rng(0)
    of_items = rng.normal(0.5, 0.1, items)
    of_seeds = spread * (np.arange(count) - (count - 1) / 2)[:, None]
    before = of_items + of_seeds + rng.normal(0, 0.01, (count, items))
    return evidence(before, of_items + by + of_seeds + rng.normal(0, 0.01, (count, items)))


def test_a_recipe_needs_three_random_seeds_a_side() -> None:
    two = one(margin(0.5), seeds(2, 0.0), RECIPE)
    assert two.verdict == "inconclusive"
    assert two.note == "a recipe needs 3 random seeds a side; there are 2"
    assert one(margin(0.5), seeds(2, 0.0)).verdict == "pass"  # these weights may be asked about
    three = one(margin(0.5), seeds(3, 0.0), RECIPE)
    assert (three.verdict, three.question) == ("pass", RECIPE)
    lopsided = replace(seeds(3, 0.0), before=seeds(3, 0.0).before.of_seeds([0]))
    assert one(margin(0.5), lopsided, RECIPE).note == "a recipe needs 3 random seeds a side; there are 1"
    value = one(Rule("suite", "accuracy", "min", 0.1), seeds(2, 0.0), RECIPE)
    assert value.verdict == "inconclusive"


def test_a_recipe_is_judged_by_the_spread_of_its_seeds() -> None:
    pair = seeds(3, -0.02, spread=0.03)
    assert one(margin(0.04), pair).verdict == "pass"  # these three students
    found = one(margin(0.04), pair, RECIPE)
    assert found.verdict == "inconclusive"
    assert "more random seeds or items would tell" in found.note
    assert one(margin(0.04), seeds(3, -0.02, spread=0.001), RECIPE).verdict == "pass"
    assert one(margin(0.04), seeds(3, -0.08, spread=0.001), RECIPE).verdict == "regressed"


def test_a_recipe_without_change_is_the_same_weights_too() -> None:
    pair = replace(seeds(3, 0.0, spread=0.2), same=True)
    same = replace(pair, now=pair.before)
    assert one(margin(0.001), same, RECIPE).shade == "the same weights"


def test_a_recipe_of_other_students_that_changed_nothing_passes_no_margin_by_that_alone() -> None:
    right = np.ones((3, 50))
    found = one(margin(0.001), evidence(right, right), RECIPE)
    assert found.difference is not None
    assert found.difference.low < -0.001 < 0.001 < found.difference.high
    assert found.verdict == "inconclusive"
    assert one(margin(0.2), evidence(right, right), RECIPE).verdict == "pass"


def test_passages_that_flip_as_a_whole_count_as_passages() -> None:
    # 50 passages of 8; two lose all of theirs, two win all: sqrt(4 x 64) / 400 = 0.04 instead of sqrt(32) / 400
    before, now = np.ones((1, 400)), np.ones((1, 400))
    before[0, :16] = 0.0
    now[0, 16:32] = 0.0
    groups = tuple(f"passage {i // 8}" for i in range(400))
    assert one(margin(0.04), evidence(before, now)).verdict == "pass"
    found = one(margin(0.04), evidence(before, now, Design(groups)))
    assert found.verdict == "inconclusive"
    assert "clusters of items would tell" in found.note
    assert found.difference is not None
    assert "50 clusters" in found.difference.method
    few = tuple(f"passage {i // 100}" for i in range(400))
    assert "too few passages" in one(margin(0.4), evidence(before, now, Design(few))).note


def test_what_differs_between_subjects_is_no_spread() -> None:
    # one subject rises by about 1, the other falls by about 1: fixed parts of the suite, not chance
    wave = 0.01 * np.sin(np.arange(200))
    now = np.where(np.arange(200) < 100, 1.0, -1.0) + wave
    strata = ("up",) * 100 + ("down",) * 100
    before = np.zeros((1, 200))
    assert one(margin(0.05), evidence(before, now[None])).verdict == "inconclusive"
    assert one(margin(0.05), evidence(before, now[None], Design(strata=strata))).verdict == "pass"


def test_groups_follow_their_items_when_some_have_no_value() -> None:
    groups = tuple(f"passage {i // 4}" for i in range(80))
    before = np.random.default_rng(1).normal(3, 1, (1, 80))
    before[0, ::5] = np.nan
    pair = evidence(before, before + 0.5, Design(groups, ("a",) * 40 + ("b",) * 40))
    found = one(margin(0.1), pair)
    assert (found.verdict, found.shade, found.items) == ("pass", "improved", 64)


def test_noise_of_scoring_turns_a_pass_into_a_doubt() -> None:
    pair = shifted(-0.25)
    # margin 0.5, distance 0.25: 1.645 x 0.15 = 0.247 stays inside, 1.645 x 0.16 = 0.263 does not
    assert one(margin(0.5), replace(pair, noise=0.15)).verdict == "pass"
    found = one(margin(0.5), replace(pair, noise=0.16))
    assert found.verdict == "inconclusive"
    assert found.difference is not None
    assert found.difference.low == pytest.approx(-0.25 - Z * 0.16)
    assert found.difference.high == pytest.approx(-0.25 + Z * 0.16)
    assert "noise of scoring" in found.difference.method
    assert one(margin(0.125), replace(pair, noise=0.1)).verdict == "inconclusive"  # and a regression too


def test_noise_joins_the_width_as_the_root_of_squares() -> None:
    plain, noisy = flips(400, 20, 28), replace(flips(400, 20, 28), noise=0.02)
    a, b = one(margin(0.03), plain).difference, one(margin(0.03), noisy).difference
    assert a is not None
    assert b is not None
    assert b.high - b.estimate == pytest.approx(math.hypot(a.high - a.estimate, Z * 0.02))
    assert b.estimate - b.low == pytest.approx(math.hypot(a.estimate - a.low, Z * 0.02))


def test_a_value_has_the_noise_of_one_scoring_and_a_recipe_holds_it_already() -> None:
    rule = Rule("suite", "words", "min", 3.0)  # the value is 3.25; 1.645 x 0.21 / sqrt(2) = 0.244
    assert one(rule, replace(shifted(0.0), noise=0.21)).verdict == "pass"
    assert one(rule, replace(shifted(0.0), noise=0.22)).verdict == "inconclusive"
    a, b = (one(margin(0.5), replace(seeds(3, 0.0), noise=noise), RECIPE).difference for noise in (0.0, 9.0))
    assert a == b


# --- whatever the scores ------------------------------------------------------------------------------------------


@st.composite
def compared(draw: st.DrawFn) -> Evidence:
    """0/1 scores of two students."""
    n = draw(st.integers(10, 400))
    wins = draw(st.integers(0, n))
    return flips(n, wins, draw(st.integers(0, n - wins)))


LIMITS = st.floats(0.001, 0.5)


@settings(deadline=None, max_examples=60)
@given(compared(), LIMITS)
def test_swapping_sides_and_direction_says_the_same(pair: Evidence, limit: float) -> None:
    there = one(margin(limit), pair)
    back = one(margin(limit, better="lower"), replace(pair, before=pair.now, now=pair.before))
    assert (there.verdict, there.shade) == (back.verdict, back.shade)
    assert there.difference is not None
    assert back.difference is not None
    assert there.difference.low == pytest.approx(-back.difference.high, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(compared(), LIMITS)
def test_nobody_is_improved_and_regressed_and_swapping_an_improvement_is_no_improvement(
    pair: Evidence, limit: float
) -> None:
    there = one(margin(limit), pair)
    back = one(margin(limit), replace(pair, before=pair.now, now=pair.before))
    if there.verdict == "regressed":
        assert back.verdict == "pass"
        # a regression is beyond its margin at a one-sided 95%, an improvement above 0 at a two-sided 95%: few items
        # and a small margin may show the first and not the second
        found = pair.difference(there.question)
        assert found is not None
        assert back.shade == ("improved" if found.interval(0.95).high < 0 else "")
    if there.shade == "improved":
        assert back.shade != "improved"
    if there.shade == "equivalent":
        assert (back.verdict, back.shade) == ("pass", "equivalent")


@settings(deadline=None, max_examples=60)
@given(compared(), LIMITS)
def test_a_verdict_agrees_with_the_interval_that_is_shown(pair: Evidence, limit: float) -> None:
    found = one(margin(limit), pair)
    assert found.difference is not None
    assert (found.verdict == "pass") == (found.difference.low > -limit)
    if abs(found.difference.high + limit) > 1e-6:
        assert (found.verdict == "regressed") == (found.difference.high < -limit)


@settings(deadline=None, max_examples=60)
@given(compared(), LIMITS, LIMITS)
def test_a_wider_margin_never_makes_it_worse(pair: Evidence, a: float, b: float) -> None:
    order = ("regressed", "inconclusive", "pass")
    narrow, wide = (one(margin(limit), pair) for limit in sorted((a, b)))
    assert order.index(narrow.verdict) <= order.index(wide.verdict)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(compared(), LIMITS), min_size=1, max_size=5), st.integers(0, 100))
def test_the_order_of_rules_does_not_matter(drawn: list[tuple[Evidence, float]], random_seed: int) -> None:
    rules = [(margin(limit, f"metric {i}"), pair) for i, (pair, limit) in enumerate(drawn)]
    mixed = [rules[i] for i in np.random.default_rng(random_seed).permutation(len(rules))]
    assert sorted(decide(rules, WEIGHTS), key=lambda d: d.rule.metric) == sorted(
        decide(mixed, WEIGHTS), key=lambda d: d.rule.metric
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(compared(), LIMITS), min_size=1, max_size=4))
def test_another_rule_never_makes_a_regression_of_what_was_none(drawn: list[tuple[Evidence, float]]) -> None:
    rules = [(margin(limit, f"metric {i}"), pair) for i, (pair, limit) in enumerate(drawn)]
    together = decide(rules, WEIGHTS)
    for (rule, pair), decision in zip(rules, together, strict=True):
        alone = one(rule, pair)
        assert decision.verdict == alone.verdict or (alone.verdict, decision.verdict) == (
            "regressed",
            "inconclusive",
        )
        assert (decision.verdict == "pass") == (alone.verdict == "pass")


@settings(deadline=None, max_examples=60)
@given(compared(), LIMITS, st.floats(0, 0.2))
def test_noise_never_adds_a_verdict(pair: Evidence, limit: float, noise: float) -> None:
    quiet, noisy = one(margin(limit), pair), one(margin(limit), replace(pair, noise=noise))
    assert noisy.verdict in (quiet.verdict, "inconclusive")
