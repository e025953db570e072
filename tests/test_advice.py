"""What to do next: every rule speaks where it should, is silent elsewhere, and the most urgent one comes first."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isfinite

import pytest

from harness.augment.funnel import Funnel
from harness.records import Scorecard
from harness.report.advice import RULES, Situation, next_steps
from harness.report.analysis import Arm, Difference
from harness.report.growth import Growth
from harness.report.headline import Alternative, Headline, Reading
from harness.report.student_view import AgainstSeeds
from harness.stats import Interval
from harness.stats.contrasts import Slope, SlopeVerdict
from harness.stats.forecast import BackTest, Forecast


def interval(low: float, high: float, n: int = 342) -> Interval:
    return Interval(estimate=(low + high) / 2 if isfinite(low) else 0.0, low=low, high=high, method="Tango", n=n)


def headline(low: float, high: float, changed: int = 60, detectable: float | None = 0.09) -> Headline:
    tuned = Reading(Arm("small", "filtered", 256, "trained", ()), "accuracy")
    rival = Reading(Arm("tfidf_logistic_regression", "seeds_only", 64, "zero_shot", ()), "accuracy")
    against = Difference(interval(low, high), "these weights", detectable, changed=changed, units=342)
    return Headline(tuned, 0.6, (Alternative(rival, 0.6 - (low + high) / 2, against),), (), 342, against)


def of_seeds(found: Headline) -> Headline:
    seeds_only = Reading(Arm("small", "seeds_only", 64, "trained", ()), "accuracy")
    return replace(found, alternatives=(replace(found.rival, reading=seeds_only),))


def of_passages(found: Headline, passages: int) -> Headline:
    """The same where so many passages are what the interval counts."""
    counted = found.rival.difference.interval.model_copy(update={"n": passages})
    against = replace(found.rival.difference, interval=counted, units=passages, unit="passages")
    return replace(found, alternatives=(replace(found.rival, difference=against),))


def growth(verdict: SlopeVerdict, gain: tuple[float, float] = (0.01, 0.05), covered: bool = True) -> Growth:
    """`gain`: of the forecast of the next doubling."""
    slope = Slope(
        interval=interval(0.01, 0.03), verdict=verdict, question="these weights", changed=80, units=342, unit="items"
    )
    told = interval(0.55, 0.65) if covered else interval(0.75, 0.85)
    value = interval(0.6 + gain[0], 0.6 + gain[1])
    return Growth(
        "accuracy",
        (16, 64, 256),
        slope,
        Forecast(rows=512, value=value, gain=interval(*gain)),
        BackTest(forecast=Forecast(rows=256, value=told, gain=interval(*gain)), measured=0.6),
    )


FUNNEL = Funnel(
    wanted=10, requested=40, dropped={"judge": 25, "length": 5}, would_drop={"judge": 25, "length": 5}, kept=10,
    kept_by_label={"": 10},
)  # fmt: skip
CALM = FUNNEL.model_copy(update={"dropped": {"judge": 5, "length": 5}, "kept": 30, "kept_by_label": {"": 30}})
SPARE = CALM.model_copy(update={"kept": 400, "kept_by_label": {"": 400}})
BETTER, WORSE, UNDECIDED = headline(0.02, 0.1), headline(-0.1, -0.02), headline(-0.06, 0.04)
NOTHING_KNOWN = headline(-inf, inf, changed=0, detectable=None)
OPEN = headline(-0.08, 0.28)  # better on these items, and perhaps by much
FLAT = growth("no measurable slope", (-0.02, 0.02))
NO_SLOPE = replace(FLAT, slope=None, forecast=None, back_test=None)


def against_seeds(low: float, high: float, rows: int = 256) -> AgainstSeeds:
    arms = [Arm("small", data, size, "trained", ()) for data, size in (("filtered", rows), ("seeds_only", 64))]
    against = Difference(interval(low, high), "these weights", 0.09, changed=60, units=342)
    return AgainstSeeds(arms[0], arms[1], 0.58, against)


CASES = [
    ("finish-first", Situation(BETTER, growth("rises"), unfinished="eval was stopped"), "eval was stopped"),
    ("use-the-cheaper-alternative", Situation(WORSE, growth("no measurable slope")), "measurably better"),
    ("use-the-cheaper-alternative", Situation(UNDECIDED, growth("no measurable slope")), "as good as"),
    ("use-the-cheaper-alternative", Situation(UNDECIDED, None), "TF-IDF"),
    ("use-the-cheaper-alternative", Situation(WORSE, None), "one size says nothing of more rows"),
    ("use-the-cheaper-alternative", Situation(WORSE, FLAT), "more rows show no gain"),
    ("use-the-cheaper-alternative", Situation(WORSE, growth("falls")), "more rows hurt"),
    ("use-the-cheaper-alternative", Situation(WORSE, growth("inconclusive")), "cannot tell whether more rows help"),
    ("use-the-cheaper-alternative", Situation(WORSE, NO_SLOPE), "cannot tell whether more rows help"),
    ("use-the-cheaper-alternative", Situation(headline(-0.6, -0.5), growth("rises")), "16 times the rows would not"),
    ("use-the-cheaper-alternative", Situation(of_seeds(UNDECIDED), FLAT), "needs no teacher and is as good as"),
    ("use-the-cheaper-alternative", Situation(of_seeds(WORSE), FLAT), "Do not ship a student of these rows"),
    (
        "decide-first",
        Situation(of_seeds(OPEN), FLAT),
        "whether the rows pay. small, 64 rows (seeds only) needs no teacher",
    ),
    ("decide-first", Situation(OPEN, growth("no measurable slope")), "TF-IDF"),
    ("decide-first", Situation(OPEN, None), "needs no training."),
    (
        "decide-first",
        Situation(of_seeds(headline(-0.001, 0.04)), FLAT, against_seeds=against_seeds(0.003, 0.037)),
        "not decided whether the rows pay",
    ),
    ("more-items", Situation(headline(-0.001, 0.02, changed=4, detectable=None), None), "nor how many could"),
    ("more-items", Situation(of_passages(UNDECIDED, 30), None), "there are 342"),
    ("use-the-rows-there-are", Situation(BETTER, growth("inconclusive"), funnel=SPARE), "400 rows are kept"),
    ("use-the-rows-there-are", Situation(OPEN, growth("rises"), funnel=SPARE), "400 rows are kept"),
    ("use-the-rows-there-are", Situation(WORSE, None, funnel=SPARE), "saw 256 of them"),
    (
        "write-more-seeds",
        Situation(OPEN, None, against_seeds=against_seeds(-0.03, 0.05)),
        "256 rows are not",
    ),
    ("write-more-seeds", Situation(BETTER, None, against_seeds=against_seeds(-0.09, -0.02)), "the 64 seeds alone"),
    (
        "write-more-seeds",
        Situation(WORSE, None, against_seeds=against_seeds(-0.09, -0.02)),
        "are measurably worse than",
    ),
    (
        "use-the-rows-there-are",
        Situation(WORSE, growth("rises"), funnel=SPARE, against_seeds=against_seeds(-0.09, -0.02)),
        "400 rows are kept",
    ),
    ("make-more-rows", Situation(WORSE, growth("rises")), "512 of them are forecast to bring +3.0 points [+1.0, +5.0]"),
    ("make-more-rows", Situation(BETTER, growth("rises", (-0.02, 0.06))), "cannot tell from no gain"),
    ("make-more-rows", Situation(BETTER, growth("rises", covered=False)), "missed the largest size"),
    ("more-items", Situation(UNDECIDED, growth("rises")), "342"),
    ("stop-making-rows", Situation(BETTER, FLAT), "between 16 and 256 they made no measurable difference"),
    (
        "stop-making-rows",
        Situation(BETTER, growth("falls")),
        "on fewer rows, and read some of them: between 16 and 256",
    ),
    ("stop-making-rows", Situation(BETTER, replace(growth("rises"), metric="gold_nll")), "measurably worse"),
    ("mix-in-general-rows", Situation(BETTER, growth("rises"), ("arc: accuracy",)), "arc: accuracy"),
    ("look-at-the-filter", Situation(BETTER, growth("rises"), funnel=FUNNEL), "judge: it drops 62%"),
    ("try-a-larger-student", Situation(UNDECIDED, FLAT), "shows that more of these rows help small"),
    ("train-more-seeds", Situation(BETTER, growth("rises")), "random_seeds"),
]
SILENT = [
    ("write-more-seeds", Situation(OPEN, None)),
    ("write-more-seeds", Situation(OPEN, None, against_seeds=against_seeds(0.02, 0.09))),
    ("write-more-seeds", Situation(OPEN, None, against_seeds=against_seeds(-0.03, 0.05, rows=100))),
    ("write-more-seeds", Situation(None, None, against_seeds=against_seeds(-0.03, 0.05))),
    ("finish-first", Situation(BETTER, growth("rises"))),
    ("use-the-cheaper-alternative", Situation(BETTER, growth("no measurable slope"))),
    ("use-the-cheaper-alternative", Situation(WORSE, growth("rises"))),
    ("use-the-cheaper-alternative", Situation(OPEN, growth("no measurable slope"))),
    ("use-the-cheaper-alternative", Situation(NOTHING_KNOWN, FLAT)),
    (
        "use-the-cheaper-alternative",
        Situation(of_seeds(headline(-0.001, 0.04)), FLAT, against_seeds=against_seeds(0.003, 0.037)),
    ),
    ("decide-first", Situation(NOTHING_KNOWN, FLAT)),
    ("decide-first", Situation(UNDECIDED, None)),
    ("decide-first", Situation(BETTER, None)),
    ("decide-first", Situation(headline(-0.02, 0.04), None)),
    ("use-the-rows-there-are", Situation(OPEN, growth("rises"), funnel=CALM)),
    ("use-the-rows-there-are", Situation(BETTER, growth("no measurable slope"), funnel=SPARE)),
    ("use-the-rows-there-are", Situation(WORSE, FLAT, funnel=SPARE, against_seeds=against_seeds(-0.09, -0.02))),
    ("use-the-rows-there-are", Situation(UNDECIDED, FLAT, funnel=SPARE)),  # do not tune for this
    ("use-the-rows-there-are", Situation(OPEN, growth("falls"), funnel=SPARE)),
    ("use-the-rows-there-are", Situation(OPEN, growth("rises"), funnel=SPARE, one_pool=False)),  # human rows are fewer
    ("make-more-rows", Situation(None, growth("rises"), funnel=SPARE)),
    ("make-more-rows", Situation(WORSE, growth("rises"), funnel=SPARE)),
    ("make-more-rows", Situation(headline(-0.6, -0.5), growth("rises"))),  # do not ship
    ("make-more-rows", Situation(WORSE, growth("no measurable slope"))),
    ("make-more-rows", Situation(WORSE, growth("inconclusive"))),
    ("make-more-rows", Situation(WORSE, growth("rises", (-0.03, 0.04)))),
    ("more-items", Situation(BETTER, growth("rises"))),
    ("more-items", Situation(headline(-0.01, 0.02, detectable=0.03), growth("rises"))),
    ("stop-making-rows", Situation(UNDECIDED, growth("no measurable slope"))),
    ("stop-making-rows", Situation(BETTER, growth("inconclusive"))),
    ("stop-making-rows", Situation(BETTER, NO_SLOPE)),
    ("stop-making-rows", Situation(BETTER, replace(growth("falls"), metric="gold_nll"))),
    ("mix-in-general-rows", Situation(BETTER, growth("rises"))),
    ("look-at-the-filter", Situation(BETTER, growth("rises"), funnel=CALM)),
    ("try-a-larger-student", Situation(BETTER, FLAT)),
    ("try-a-larger-student", Situation(UNDECIDED, growth("no measurable slope"))),  # forecast to be worth having
    ("try-a-larger-student", Situation(OPEN, FLAT, funnel=SPARE)),
    ("train-more-seeds", Situation(WORSE, growth("rises"))),
]


@pytest.mark.parametrize(("rule", "situation", "said"), CASES)
def test_a_rule_speaks_where_it_applies(rule: str, situation: Situation, said: str) -> None:
    sentences = {step.rule: step.sentence for step in next_steps(situation)}
    assert said in sentences[rule]


@pytest.mark.parametrize(("rule", "situation"), SILENT)
def test_a_rule_is_silent_where_it_does_not(rule: str, situation: Situation) -> None:
    assert rule not in {step.rule for step in next_steps(situation)}


def test_every_rule_is_tried_both_ways() -> None:
    names = {rule.__name__.replace("_", "-") for rule in RULES}
    assert {rule for rule, *_ in CASES} == names
    assert {rule for rule, *_ in SILENT} == names


def test_the_most_urgent_comes_first_and_there_is_always_something_to_do() -> None:
    steps = next_steps(Situation(WORSE, FLAT, ("a: b",), "", FUNNEL))
    assert [step.rule for step in steps] == [
        "use-the-cheaper-alternative", "mix-in-general-rows", "look-at-the-filter", "try-a-larger-student",
    ]  # fmt: skip
    recipe = replace(BETTER.alternatives[0].difference, question="this recipe")
    sure = replace(BETTER, alternatives=(replace(BETTER.alternatives[0], difference=recipe),))
    assert [step.rule for step in next_steps(Situation(sure, growth("rises", (0.0, 0.01))))] == ["ship-it"]


@pytest.mark.parametrize("found", [None, headline(-0.035, -0.005), headline(-0.03, 0.01, detectable=0.04)])
def test_only_a_student_that_is_better_is_blessed(found: Headline | None) -> None:
    (step,) = next_steps(Situation(found, growth("rises", (0.002, 0.014)) if found else None))
    assert step.rule == "not-shown"


def test_where_scores_are_missing_nothing_else_is_advised() -> None:
    (step,) = next_steps(Situation(WORSE, FLAT, ("a: b",), "items failed", FUNNEL))
    assert step.rule == "finish-first"


def test_few_changed_items_are_no_verdict() -> None:
    few = headline(0.0, 0.02, changed=2, detectable=None)
    assert "more-items" in {step.rule for step in next_steps(Situation(few, growth("rises")))}


def test_the_number_of_items_is_what_power_says() -> None:
    from harness.stats.power import items_needed_from

    needed = items_needed_from(UNDECIDED.rival.difference.interval, 0.05)
    for found in (UNDECIDED, of_passages(UNDECIDED, 171), of_passages(UNDECIDED, 38)):
        (said,) = [step.sentence for step in next_steps(Situation(found, None)) if step.rule == "more-items"]
        assert "test items; there are 342" in said
        assert abs(int(said.split("about ")[1].split()[0]) - needed) <= 9, "items, whatever the interval counts"


def test_what_an_answer_takes_is_said_where_it_is_known() -> None:
    card = Scorecard(
        key="k", suite="s", suite_digest="d", student="x", student_key="k", prompting="zero_shot", items=10, scored=10,
        unparsed=0, failed=0, metrics={},
    )  # fmt: skip
    arms = [
        replace(reading.arm, cards=(card.model_copy(update={"seconds": seconds}),))
        for reading, seconds in ((OPEN.reading, 2.0), (OPEN.rival.reading, 15.0))
    ]
    rival = replace(OPEN.rival, reading=replace(OPEN.rival.reading, arm=arms[1]))
    timed = replace(OPEN, reading=replace(OPEN.reading, arm=arms[0]), alternatives=(rival,))
    (said,) = [step.sentence for step in next_steps(Situation(timed, None)) if step.rule == "decide-first"]
    assert said.endswith("and takes 1.5 s an answer where the student takes 0.2.")
