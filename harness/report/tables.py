"""Markdown tables of a report: metrics by arm, by label and by tag, and costs. Every cell is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.core.markdown import Strong, escaped, table
from harness.core.text import named_label
from harness.eval.results import Results
from harness.metrics.table import METRICS, metric_of
from harness.report import wording
from harness.report.analysis import Arm, has, matrix, sheet, unknown
from harness.report.headline import Headline, Reading
from harness.stats import Floats, Interval, classification, contrasts
from harness.stats.design import Design
from harness.stats.score_matrix import ScoreMatrix

COLUMNS = (
    "preferred", "accuracy", "choice_accuracy", "macro_f1", "token_f1", "rouge_l", "exact", "valid", "abstained",
    "wrong", "made_up", "gold_probability", "stop_rate", "words",
)  # fmt: skip
HEADS = {"accuracy": "written answer", "choice_accuracy": "by log-likelihood", "preferred": "preferred"}
MOST_CONFUSED = 8  # pairs of labels listed
SPREAD = (
    "words",
    "length_ratio",
    "rep_3",
    "repeat_share",
    "compression_ratio",
    "misspelling_rate",
    "prompt_similarity",
)
WHOLE = ("distinct_1", "distinct_2", "distinct_3", "compression_all", "cut_share")
MONEY = "money for 1,000 answers"  # at report.price_per_hour


def share(interval: Interval) -> str:
    """A value with its interval."""
    if math.isinf(interval.low):
        return f"{interval.estimate:.3f} (interval not estimable)"
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def interval_of(scores: ScoreMatrix, bounded: bool = False) -> Interval:
    """The mean over the items that have a value, with its interval. From three random seeds on they vary too.

    `bounded`: between 0 and 1, which an interval of real values does not know by itself.
    """
    scores = scores.select(scores.complete)
    estimate = contrasts.level(scores, random_seed=0) if scores.items else None
    if estimate is None:
        return unknown(scores.mean if scores.items else 0.0, len(scores.items))
    return estimate.interval().within(0.0, 1.0) if bounded else estimate.interval()


def value_interval(results: Results, arm: Arm, metric: str) -> Interval:
    """The mean of a metric over test items, with its interval."""
    return interval_of(matrix(results, arm, metric, "test"), wording.bounded(metric))


def main(
    results: Results, suite_arms: Sequence[Arm], metrics: Sequence[str], answer: Headline | str, labels: Sequence[str]
) -> str:
    """A table of the metrics of arms, then the intervals of all but the primary one, whose own stand in the first.

    In bold what the headline compares.

    `metrics`: the primary one, then the suite's. Those that a user's own suite computes have a column, too.
    """
    if not suite_arms:
        return ""
    primary, *rest = metrics
    names = dict.fromkeys((primary, *(name for name in rest if name not in METRICS), *COLUMNS))
    columns = [name for name in names if _in_table(results, suite_arms, name, labels)]
    compared = {(r.arm.title, r.metric) for r in _compared(answer)}
    rows, widths = [], []
    for arm in suite_arms:
        intervals = [_interval(results, arm, name, labels) for name in columns]
        cells = []
        for name, interval in zip(columns, intervals, strict=True):
            first = name == primary or (arm.title, name) in compared
            cells.append(_cell(arm, name, interval, with_interval=first, strong=(arm.title, name) in compared))
        unparsed = str(round(sum(card.unparsed for card in arm.cards) / len(arm.cards)))
        rows.append([arm.title, *cells, unparsed])
        ends = [_ends(name, interval) for name, interval in zip(columns, intervals, strict=True) if name != primary]
        widths.append([arm.title, *ends])
    heads = {name: HEADS.get(name, wording.title(name)) for name in columns}
    text = table(["candidate", *heads.values(), "unparsed"], rows)
    count = len(sheet(results, suite_arms[0].cards[0], "test").failed)
    known = [(head, metric_of(name).meaning) for name, head in heads.items()]
    meanings = "; ".join(f"{head}: {meaning}" for head, meaning in known if meaning)
    about = (
        f"{count} test items; rates divide by all of them. Unparsed counts all items, dev too. Bold: what the headline"
        " compares. Every interval is a 95% one of its own number alone; the headline's is of the paired difference."
        f" {escaped(meanings)}."
    )
    others = [head for name, head in heads.items() if name != primary]
    intervals_of_others = f"\n\n{table(['95% interval of', *others], widths)}" if others else ""
    return f"{text}\n\n{about}{intervals_of_others}\n"


def _compared(answer: Headline | str) -> list[Reading]:
    return [answer.reading, answer.rival.reading] if isinstance(answer, Headline) else []


def _in_table(results: Results, suite_arms: Sequence[Arm], name: str, labels: Sequence[str]) -> bool:
    return bool(labels) if name == "macro_f1" else any(has(results, arm, name) for arm in suite_arms)


def _interval(results: Results, arm: Arm, name: str, labels: Sequence[str]) -> Interval | None:
    """An arm's value of a column with its interval, or None."""
    if name == "macro_f1":
        has_macro_f1 = arm.metric(name) is not None
        return interval_of(_f1_values(results, arm, labels), bounded=True) if has_macro_f1 else None
    return value_interval(results, arm, name) if has(results, arm, name) else None


def _f1_values(results: Results, arm: Arm, labels: Sequence[str]) -> ScoreMatrix:
    """What each item adds to macro-F1, so that the mean is macro-F1."""
    sheets = [sheet(results, card, "test") for card in arm.cards]
    rows = [
        classification.macro_f1_values(
            columns.gold, [named_label(output, labels) or "" for output in columns.outputs], labels
        )
        for columns in sheets
    ]
    return ScoreMatrix(np.array(rows), sheets[0].items, sheets[0].design)


def _cell(arm: Arm, name: str, interval: Interval | None, with_interval: bool, strong: bool) -> str:
    """A number, or with `with_interval` also its interval."""
    if interval is None:
        return ""
    if with_interval and not arm.complete:
        return "incomplete"
    number = f"{interval.estimate:.1f}" if name == "words" else f"{interval.estimate:.3f}"
    text = share(interval) if with_interval else number
    return Strong(text) if strong else text


def _ends(name: str, interval: Interval | None) -> str:
    """The ends of an interval."""
    if interval is None:
        return ""
    if math.isinf(interval.low):
        return "not estimable"
    digits = 1 if name == "words" else 3
    return f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def other_suite(results: Results, suite_arms: Sequence[Arm], metrics: Sequence[str]) -> str:
    """A line per arm of a suite that is not the task's own. `metrics`: the primary one, then the suite's."""
    primary, *rest = metrics
    of_the_user = [name for name in rest if name not in METRICS and name != primary]
    titles = [wording.title(name) for name in of_the_user]
    heads = ("candidate", wording.title(primary), "chance", *titles, "p(gold)", "prompt tokens", "seconds an item")
    rows = []
    for arm in suite_arms:
        items = sum(card.items for card in arm.cards)
        guess = arm.cards[0].chance
        value, *of_user, gold = (
            share(value_interval(results, arm, name)) if has(results, arm, name) else ""
            for name in (primary, *of_the_user, "gold_probability")
        )
        rows.append(
            [
                arm.title,
                value if arm.complete else "incomplete",
                "" if guess is None else f"{guess:.3f}",
                *of_user,
                gold,
                f"{sum(card.prompt_tokens for card in arm.cards) / items:.0f}",
                f"{arm.seconds_an_answer:.3f}",
            ]
        )
    return table(heads, rows)


def distributions(results: Results, suite_arms: Sequence[Arm]) -> str:
    """Percentiles of the text metrics over answers, untuned and at the largest size of each kind of data."""
    largest = [
        a for a in suite_arms if a.kind == "student" and a.size == max(b.size for b in suite_arms if b.data == a.data)
    ]
    columns = [a for a in suite_arms if a.kind == "base"] + largest
    rows = []
    for metric in SPREAD:
        row = [wording.title(metric)]
        for arm in columns:
            scores = matrix(results, arm, metric, "test").values
            finite = scores[np.isfinite(scores)]
            spread = np.percentile(finite, [5, 50, 95]) if finite.size else ()
            row.append(" / ".join(f"{value:.3g}" for value in spread))
        if any(row[1:]):
            rows.append(row)
    totals = []
    for metric in WHOLE:
        values = [arm.metric(metric) for arm in columns]
        if any(value is not None for value in values):
            totals.append([wording.title(metric), *("" if v is None else f"{v:.3g}" for v in values)])
    return table(("5% / 50% / 95% of the answers, then of all together", *(a.title for a in columns)), [*rows, *totals])


def costs(suite_arms: Sequence[Arm], price_per_hour: float | None = None) -> str:
    """The cost of an answer by arm: prompt tokens, tokens written, seconds, tokens a second, and money at a price."""
    rows = []
    for arm in suite_arms:
        items = sum(card.items for card in arm.cards)
        seconds = sum(card.seconds for card in arm.cards)
        read, written = sum(card.prompt_tokens for card in arm.cards), sum(card.answer_tokens for card in arm.cards)
        speed = f"{(read + written) / seconds:.0f}" if seconds and read else ""
        counts = [f"{read / items:.0f}" if read else "", f"{written / items:.1f}" if read else ""]
        priced = [] if price_per_hour is None else [thousand_answers(arm.seconds_an_answer, price_per_hour)]
        rows.append([arm.title, *counts, f"{arm.seconds_an_answer:.3f}", speed, *priced])
    heads = ["candidate", "prompt tokens", "tokens written", "seconds an answer", "tokens/s"]
    return table([*heads, *([] if price_per_hour is None else [MONEY])], rows)


def thousand_answers(seconds: float, price_per_hour: float) -> str:
    """What a thousand answers of so many seconds cost on a machine at this price."""
    return f"{1000 * seconds * price_per_hour / 3600:.3g}"


def by_label(results: Results, arm: Arm, labels: Sequence[str]) -> str:
    """Precision, recall and F1 of every label on test items, over all random seeds, and the commonest confusions."""
    sheets = [sheet(results, card, "test") for card in arm.cards]
    gold = [name for columns in sheets for name in columns.gold]
    predicted = [named_label(output, labels) or "" for columns in sheets for output in columns.outputs]
    # a passage, or an item that several random seeds answered, counts once
    clusters = [name for columns in sheets for name in columns.design.clusters or columns.items]
    design = Design.from_names(clusters, [""] * len(clusters))
    scores = classification.per_label(gold, predicted, labels)
    rows = []
    for label in scores.labels:
        values = classification.label_values(gold, predicted, label.label)
        rows.append([label.label, str(label.gold), *(_of_label(per_item, design) for per_item in values)])
    text = table(("label", "items", "precision", "recall", "F1"), rows)
    confused = [f"{gold} as {taken or 'no label'} {n}" for gold, taken, n in scores.confused()[:MOST_CONFUSED]]
    if not confused:
        return text
    names = [label.label for label in scores.labels]
    matrix_rows = [[name, *map(str, row)] for name, row in zip(names, scores.confusion.tolist(), strict=True)]
    counts = table(("is / taken for", *names, "no label"), matrix_rows)
    most = escaped(f"Most often confused: {', '.join(confused)}.")
    return f"{text}\n\n{most}\n\n{counts}"


def _of_label(values: Floats, design: Design) -> str:
    """One number of a label. 0 without an interval where no item counts for it, so that nothing varies."""
    if not np.nansum(values):
        return "0.000"
    return share(interval_of(ScoreMatrix.numbered(values, design), bounded=True))


def by_tag(results: Results, compared: Sequence[Arm], metric: str) -> str:
    """A metric for each tag of the test items, one column an arm. Empty where no item has a tag."""
    if not compared:
        return ""
    tagged = sheet(results, compared[0].cards[0], "test").tags
    rows = []
    for tag in sorted({tag for tags in tagged for tag in tags}):
        has_tag = np.array([tag in tags for tags in tagged])
        row = [tag, str(int(has_tag.sum()))]
        for arm in compared:
            scores = matrix(results, arm, metric, "test").select(has_tag)
            row.append(share(interval_of(scores, wording.bounded(metric))) if scores.complete.any() else "")
        rows.append(row)
    return table(("tag", "items", *(arm.title for arm in compared)), rows) if rows else ""
