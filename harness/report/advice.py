"""What to do next, by stated rules. Each looks at what the report knows of one student and says one thing, or nothing.

The rules are tried in the order of `RULES`, and all that apply are given, the most urgent first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from harness.augment.funnel import Funnel
from harness.report import wording
from harness.report.growth import Growth
from harness.report.headline import Headline
from harness.report.paired import verdict_words
from harness.report.student_view import AgainstSeeds
from harness.stats.power import items_needed_from
from harness.suites.summary import LOWER_IS_BETTER

WORTH_FINDING = 0.05  # a difference of scores between 0 and 1 that a suite should be able to find
WORTH_HAVING = 0.01  # a gain of the next doubling that is worth its rows
NAMED = 3  # of what broke
SPARE = 0.5  # of the largest size: so many kept rows beyond it are worth a further size
MANY = 2  # times as many rows as seeds, that should be worth more than these
DOUBLINGS = 4  # of the rows, in which they should catch up with a better alternative
MOSTLY = 0.5  # share of the rows lost at one filter from which it decides what the data are


@dataclass(frozen=True)
class Situation:
    """What a report knows of one student, as far as the next step depends on it."""

    headline: Headline | None  # None: there is nothing to compare with
    growth: Growth | None  # None: there are fewer than two sizes
    broke: tuple[str, ...] = ()  # what tuning measurably made worse, "suite: metric"
    unfinished: str = ""  # why scores are missing; empty where all are there
    funnel: Funnel | None = None  # None: augment made no rows
    against_seeds: AgainstSeeds | None = None  # None: nothing was tuned on the seeds alone
    one_pool: bool = True  # whether every kind of data draws from all kept rows, so that all may see more of them


@dataclass(frozen=True)
class Step:
    """One thing to do next."""

    rule: str  # its name in the documentation
    sentence: str


def next_steps(situation: Situation) -> list[Step]:
    """All rules that apply, the most urgent first. Never empty: else it says whether to bless.

    Where scores are missing, it says so alone: all else would be advice on numbers that are going to change.
    """
    steps = [Step(rule.__name__.replace("_", "-"), said) for rule in RULES if (said := rule(situation))]
    if steps:
        return steps[:1] if situation.unfinished else steps
    if situation.headline is None or situation.headline.verdict != "better":
        return [
            Step(
                "not-shown", "Nothing here shows that the student is better than its best alternative: do not ship it."
            )
        ]
    return [Step("ship-it", "Nothing stands against this student: bless it, and let `check` guard it.")]


def finish_first(situation: Situation) -> str:
    """Scores are missing: no other advice is sure."""
    return f"Finish the evaluation first: {situation.unfinished}." if situation.unfinished else ""


def more_items(situation: Situation) -> str:
    """The headline is undecided, and the items could not have found a difference that matters."""
    headline = situation.headline
    if headline is None or headline.verdict in ("better", "worse"):
        return ""
    interval, detectable = headline.rival.difference.interval, headline.rival.difference.minimum_detectable
    metric = headline.reading.metric
    if not wording.bounded(metric) or (detectable is not None and detectable <= WORTH_FINDING):
        return ""
    aim = wording.amount(metric, WORTH_FINDING)
    if detectable is None or not _estimable(headline) or interval.high == interval.low:
        return f"Write more items: these cannot tell a difference of {aim}, nor how many could."
    # the interval counts passages where items share them
    needed = ceil(items_needed_from(interval, WORTH_FINDING) * headline.items / interval.n)
    return (
        f"Write more items: a difference of {aim} takes about {needed} test items; there are {headline.items}, enough"
        f" for one of {wording.amount(metric, detectable)}."
    )


def use_the_cheaper_alternative(situation: Situation) -> str:
    """The alternative is better, or looks as good and the items leave no room for much more; and rows do not help.

    Or rows help too little to catch up with it.
    """
    headline = situation.headline
    if headline is None or headline.verdict == "better" or not _estimable(headline):
        return ""
    if _rows_catch_up(situation) or _may_pay(situation):
        return ""
    rival, of_seeds = headline.rival.reading.title, _rival_is_of_seeds(headline)
    if headline.verdict == "worse":
        ship = "Do not ship a student of these rows" if of_seeds else "Do not ship a tuned student"
        return f"{ship}: {rival} is measurably better, and {_what_rows_do(situation.growth)}."
    if of_seeds:
        return f"Tune on the seeds alone: {rival} needs no teacher and is as good as these items can tell."
    return f"Do not tune for this: {rival} needs no training and is as good as these items can tell."


def decide_first(situation: Situation) -> str:
    """The student looks better, by as much as matters perhaps, and the items cannot tell."""
    headline = situation.headline
    if headline is None or not _may_pay(situation):
        return ""
    arm, rival = headline.reading.arm, headline.rival.reading
    times = arm.seconds_an_answer, rival.arm.seconds_an_answer
    cost = f", and takes {times[1]:.3g} s an answer where the student takes {times[0]:.3g}" if all(times) else ""
    if _rival_is_of_seeds(headline):
        return f"It is not decided whether the rows pay. {rival.title} needs no teacher{cost}."
    return f"It is not decided whether tuning pays. {rival.title} needs no training{cost}."


def write_more_seeds(situation: Situation) -> str:
    """Several times as many rows as seeds bring nothing measurable beyond the seeds."""
    against, verdict = situation.against_seeds, _rows_against_seeds(situation)
    if against is None or against.rows.size < MANY * against.seeds.size or verdict in ("", "better"):
        return ""
    how = "measurably worse than" if verdict == "worse" else "not measurably better than"
    return (
        f"Write more seeds, or read some rows and mend prompts and filters: {against.rows.size} rows are {how}"
        f" the {against.seeds.size} seeds alone."
    )


def use_the_rows_there_are(situation: Situation) -> str:
    """Kept rows lie unused, and it is not shown that more of them hurt, bring no gain or cannot catch up."""
    headline, growth, left = situation.headline, situation.growth, _unused(situation)
    if headline is None or not left:
        return ""
    if growth and (growth.effect == "hurt" or stop_making_rows(situation) or use_the_cheaper_alternative(situation)):
        return ""
    if _rows_against_seeds(situation) == "worse" and not _rows_help(situation):
        return ""
    largest = headline.reading.arm.size
    return f"Raise train.sizes: {largest + left} rows are kept, and the largest student saw {largest} of them."


def make_more_rows(situation: Situation) -> str:
    """Rows help, all that there are were used, and the next doubling is forecast to be worth having."""
    growth = situation.growth
    if growth is None or not growth.helps or _unused(situation) or use_the_cheaper_alternative(situation):
        return ""
    largest = growth.sizes[-1]
    if growth.forecast is None:
        return f"Make more rows: they still help at {largest}. Double them."
    gain = growth.forecast.gain
    good, worst = _good(growth.metric, gain.estimate), min(_good(growth.metric, end) for end in (gain.low, gain.high))
    if good < WORTH_HAVING:
        return ""
    sure = "" if worst > 0 else ", which this run cannot tell from no gain"
    change = wording.change(growth.metric, gain.estimate, gain.low, gain.high)
    said = f"Make more rows: {growth.forecast.rows} of them are forecast to bring {change}{sure}."
    if growth.back_test and not growth.back_test.covered:
        said += " The same forecast missed the largest size of this run: add one size before paying for rows."
    return said


def stop_making_rows(situation: Situation) -> str:
    """The student is better than the alternative, and rows no longer help, or hurt."""
    headline, growth = situation.headline, situation.growth
    if headline is None or growth is None or headline.verdict != "better":
        return ""
    sizes = f"between {growth.sizes[0]} and {growth.sizes[-1]}"
    if growth.effect == "hurt":
        return f"Train on fewer rows, and read some of them: {sizes} more of them made the student measurably worse."
    return f"Stop making rows: {sizes} they made no measurable difference." if growth.effect == "no gain" else ""


def look_at_the_filter(situation: Situation) -> str:
    """One filter drops most of the rows: it decides what the data are, and costs most of the calls."""
    funnel = situation.funnel
    if funnel is None or not funnel.requested or not funnel.dropped:
        return ""
    name, dropped = max(funnel.dropped.items(), key=lambda item: item[1])
    if dropped <= MOSTLY * funnel.requested:
        return ""
    share = f"{dropped / funnel.requested:.0%}"
    return f"Look at the filter {name}: it drops {share} of the rows. Read some of them, then change it or the prompts."


def mix_in_general_rows(situation: Situation) -> str:
    """Tuning broke something that the student could do."""
    if not situation.broke:
        return ""
    more = len(situation.broke) - NAMED
    named = "; ".join(situation.broke[:NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"Mix in general rows (a replay arm in train.data) or lower train.learning_rate: tuning broke {named}."


def try_a_larger_student(situation: Situation) -> str:
    """More rows promise nothing and the alternative is not beaten: what is missing may be the student's size."""
    headline, growth = situation.headline, situation.growth
    if headline is None or growth is None or growth.helps or headline.verdict == "better":
        return ""
    if use_the_rows_there_are(situation):
        return ""
    if growth.forecast and _good(growth.metric, growth.forecast.gain.estimate) >= WORTH_HAVING:
        return ""
    return f"Or try a larger student: nothing here shows that more of these rows help {headline.reading.arm.student}."


def train_more_seeds(situation: Situation) -> str:
    """The verdict is about one training only."""
    headline = situation.headline
    if headline is None or headline.rival.difference.question != "these weights" or headline.verdict != "better":
        return ""
    return "Train three random seeds (train.random_seeds) before you trust the recipe: this is about these weights."


def _rows_help(situation: Situation) -> bool:
    return situation.growth is not None and situation.growth.helps


def _what_rows_do(growth: Growth | None) -> str:
    """What more rows do for a student that is behind and that they do not bring there."""
    if growth is None:
        return "one size says nothing of more rows"
    return {
        "help": f"at the best slope that this run allows, {2**DOUBLINGS} times the rows would not catch up",
        "hurt": "more rows hurt",
        "no gain": "more rows show no gain",
        "not known": "these items cannot tell whether more rows help",
    }[growth.effect]


def _rows_catch_up(situation: Situation) -> bool:
    """Whether rows help, and at the best end of their slope reach the strongest alternative in a few doublings."""
    headline, growth = situation.headline, situation.growth
    if headline is None or growth is None or growth.slope is None or not growth.helps:
        return False
    metric, slope = headline.reading.metric, growth.slope.interval
    behind = _good(metric, headline.rival.value - headline.value)
    return behind <= DOUBLINGS * max(_good(metric, end) for end in (slope.low, slope.high))


def _rival_is_of_seeds(headline: Headline) -> bool:
    """Whether the strongest alternative is a student too, tuned on the seeds alone."""
    return headline.rival.reading.arm.kind == "student"


def _rows_against_seeds(situation: Situation) -> str:
    """How the rows compare with the seeds alone, in words. Empty where nothing was tuned on these."""
    against, headline = situation.against_seeds, situation.headline
    return verdict_words(headline.reading.metric, against.difference) if against and headline else ""


def _estimable(headline: Headline) -> bool:
    """Whether the items say anything of the difference to the strongest alternative."""
    return headline.rival.difference.verdict != "not estimable"


def _may_pay(situation: Situation) -> bool:
    """Whether an undecided student did better on these items, and may be better by as much as matters.

    Or is better than the seeds alone, its strongest alternative, but for the allowance that is made for the others.
    """
    headline = situation.headline
    if headline is None or headline.verdict in ("better", "worse") or not _estimable(headline):
        return False
    if _rival_is_of_seeds(headline) and _rows_against_seeds(situation) == "better":
        return True
    metric, interval = headline.reading.metric, headline.rival.difference.interval
    if _good(metric, headline.value - headline.rival.value) <= 0:
        return False
    return (
        not wording.bounded(metric) or max(_good(metric, end) for end in (interval.low, interval.high)) > WORTH_FINDING
    )


def _good(metric: str, change: float) -> float:
    """A change of a metric, positive where it is for the better."""
    return -change if metric in LOWER_IS_BETTER else change


def _unused(situation: Situation) -> int:
    """Kept rows beyond the largest size, where they are as many again as half of it, and all sizes may have them."""
    if situation.funnel is None or not situation.one_pool:
        return 0
    headline, growth = situation.headline, situation.growth
    largest = headline.reading.arm.size if headline else growth.sizes[-1] if growth else 0
    left = situation.funnel.kept - largest
    return left if left >= SPARE * largest else 0


RULES: tuple[Callable[[Situation], str], ...] = (
    finish_first,
    use_the_cheaper_alternative,
    decide_first,
    write_more_seeds,
    use_the_rows_there_are,
    make_more_rows,
    more_items,
    stop_making_rows,
    mix_in_general_rows,
    look_at_the_filter,
    try_a_larger_student,
    train_more_seeds,
)
