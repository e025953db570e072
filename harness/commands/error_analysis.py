"""Wrong test items of one student, grouped by cause, with everybody's answers side by side.

Read from stored scores alone: no model is loaded. An item may have several causes (`report.causes`). It is listed under
the first that applies, and its other causes are named beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.config.run import Run
from harness.config.ship import ship_cells
from harness.core.markdown import escaped, table
from harness.core.store import write_atomic
from harness.core.terminal import Terminal
from harness.core.text import one_line
from harness.errors import UsageError, nearest
from harness.eval.current import results_of
from harness.eval.results import Results, resolve_student
from harness.metrics.table import metric_of
from harness.records import Cell, Item, Score, Scorecard
from harness.report.analysis import Arm, arms
from harness.report.causes import CAUSES, HALF, causes, given_label, is_wrong
from harness.suites.suite import Suite

PER_GROUP = {"terminal": 3, "file": 25}  # items of a group
SEEDS_ONLY = "seeds_only"
LONGEST = 300  # characters of a text shown


@dataclass(frozen=True)
class WrongItem:
    """One wrong item of the student that is studied."""

    item: str  # its id
    prompt: str
    gold: str
    causes: tuple[str, ...]  # in the order of CAUSES; the first is the group
    pair: tuple[str, str] | None  # (gold label, given label) where labels are confused
    answers: tuple[tuple[str, str, bool], ...]  # (who, answer, right) of every arm, the student's own among them


@dataclass(frozen=True)
class WrongItems:
    """All wrong items of one suite."""

    suite: str
    student: str  # who made them
    items: int  # test items
    failed: int  # of these, never answered: no fault of the student's
    wrong: tuple[WrongItem, ...]
    by_arm: tuple[tuple[str, dict[str, int]], ...]  # (who, cause -> items) of every arm
    called: str = "wrong"  # what they are, in words

    @property
    def groups(self) -> dict[str, list[WrongItem]]:
        """Cause -> wrong items, in the order of CAUSES. Causes without any are left out."""
        grouped = {cause: [wrong for wrong in self.wrong if wrong.causes[0] == cause] for cause in CAUSES}
        return {cause: members for cause, members in grouped.items() if members}

    @property
    def confused(self) -> list[tuple[tuple[str, str], int]]:
        """(gold, answered) -> items, the most frequent pair first, over wrong items answered with a label."""
        counts = Counter(wrong.pair for wrong in self.wrong if wrong.pair)
        return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def analyse_errors(run: Run, suite: str | None, student: str | None, terminal: Terminal) -> list[WrongItems]:
    """Print the groups and write runs/NAME/eval/errors.md, for all suites of the run unless one is named.

    The student is `student` (a part of its name is enough), else the one that `ship` names, else the largest filtered
    size. Raises UsageError for a suite or a student the run has not, for missing scores, and when there is no tuned
    student.
    """
    if suite is not None and suite not in run.suites:
        listed = ", ".join(run.suites)
        raise UsageError(
            f"--suite {suite!r}: {run.name} has no such suite{nearest(suite, run.suites)}; it has: {listed}"
        )
    results = results_of(run)
    ship = ship_cells(run)[0] if run.file.ship and run.file.ship.size else None
    cell = _student(results, student, ship)
    suites = [run.suites[suite]] if suite else list(run.suites.values())
    scored = {card.suite for card in results.cards}
    studies = [study(results, each, cell) for each in suites if each.name in scored]
    if not studies:
        why = f": it was not run: {results.not_run[suite]}" if suite in results.not_run else f"; {run.command('eval')}"
        raise UsageError(f"{results.folder}: no stored scores of {suite or run.name}{why}")
    path = run.folder / "eval" / "errors.md"
    title = f"# {_plain(run.name)}: what {_plain(cell.name)} gets wrong\n\n"
    write_atomic(path, title + "\n".join(map(_markdown, studies)))
    for of_suite in studies:
        terminal.say(_text(of_suite))
    terminal.say(f"errors: {path.relative_to(run.root)}")
    return studies


def study(results: Results, suite: Suite, cell: Cell) -> WrongItems:
    """The wrong items of one student on one suite, beside the base, the other sizes of its data and the seeds alone.

    Raises UsageError when the student was not scored on it.
    """
    beside = _beside(arms(results, suite.name), cell)
    cards = {title: card for title, card in beside if card.cell is not None}
    student = next((title for title, card in beside if card.cell == cell and card.prompting == "zero_shot"), None)
    if student is None:
        raise UsageError(f"{results.folder}: no stored scores of {cell.name} on {suite.name}; eval again")
    scores = {title: {s.item: s for s in results.scores(card) if s.split == "test"} for title, card in cards.items()}
    items = {item.id: item for item in suite.items}
    wrong = {
        title: {
            key: causes(s, items.get(key), suite) for key, s in by_item.items() if is_wrong(s, items.get(key), suite)
        }
        for title, by_item in scores.items()
    }
    wrong_items = []
    for key, why in wrong[student].items():
        item, score = items.get(key), scores[student][key]
        answers = tuple(
            (title, _answer(by_item[key], suite), key not in wrong[title])
            for title, by_item in scores.items()
            if key in by_item
        )
        prompt = item.text if item else f"(item {key}: {_why_unknown(suite)})"
        wrong_items.append(WrongItem(key, prompt, _gold(score, item), why, given_label(score, suite), answers))
    counts = [(title, dict(Counter(why[0] for why in by_item.values()))) for title, by_item in wrong.items()]
    failed = sum(score.status == "failed" for score in scores[student].values())
    return WrongItems(
        suite.name, student, len(scores[student]), failed, tuple(wrong_items), tuple(counts), _called(suite)
    )


def _called(suite: Suite) -> str:
    """What `is_wrong` found, in words."""
    metric = metric_of(suite.primary)
    graded = suite.spec.max_tokens is not None and metric.kind == "share" and metric.better == "higher"
    return f"below {HALF:g} of {metric.title}" if graded else "wrong"


def _student(results: Results, name: str | None, ship: Cell | None) -> Cell:
    """The cell that is studied: the one that is named, else the ship student, else the largest filtered one."""
    if name is not None:
        named = {c.cell.name: c.cell for c in results.cards if c.cell and c.prompting == "zero_shot"}
        return named[resolve_student(name, named)]
    if ship is not None:
        return ship
    tuned = {card.cell for card in results.cards if card.cell and card.cell.size and card.prompting == "zero_shot"}
    best = sorted(tuned, key=lambda c: (c.data == "filtered", c.size, c.student, c.method, -c.random_seed))
    if not best:
        raise UsageError(f"{results.folder}: no tuned student was scored; make train eval RUN={results.run}")
    return best[-1]


def _beside(all_arms: Sequence[Arm], cell: Cell) -> list[tuple[str, Scorecard]]:
    """The base in each prompting, each size of the same data, the seeds alone: one random seed, the cell's if there.

    Of another method only what was tuned on the same rows is beside it.
    """
    picked: list[tuple[str, Scorecard]] = []
    for arm in all_arms:
        if arm.student != cell.student or (arm.kind == "student" and arm.data not in (cell.data, SEEDS_ONLY)):
            continue
        if arm.kind == "student" and arm.method != cell.method and (arm.data, arm.size) != (cell.data, cell.size):
            continue
        same = [c for c in arm.cards if c.cell and c.cell.random_seed == cell.random_seed]
        picked.append((arm.title, (same or list(arm.cards))[0]))
    return picked


def _why_unknown(suite: Suite) -> str:
    """Why the text of an item is not at hand."""
    if not suite.items:
        return "the rows of public benchmarks are not stored"
    return "the suite changed since it was scored"


def _answer(score: Score, suite: Suite) -> str:
    if score.status == "failed":
        return f"(failed: {score.error})"
    if score.output.strip():
        return score.output
    if suite.choices:  # where the written answer counts, the likeliest label is no answer
        return f"(nothing; likeliest: {score.top_choice})" if score.top_choice else "(nothing)"
    return score.top_choice or "(nothing)"


def _gold(score: Score, item: Item | None) -> str:
    return score.gold or " / ".join(item.answers if item else ())


# --- what people read ---------------------------------------------------------------------------------------


def _text(study: WrongItems) -> str:
    """For the terminal: counts, then a few items of each group. Terminal.say drops control characters."""
    lines = [_headline(study)]
    for cause, members in study.groups.items():
        lines.append(f"  {cause}: {len(members)}")
        for wrong in members[: PER_GROUP["terminal"]]:
            lines.append(f"    {_short(wrong.prompt)}")
            lines.append(f"      gold: {_short(wrong.gold)}{_also(wrong)}")
            lines += [f"      {'+' if right else '-'} {arm}: {_short(answer)}" for arm, answer, right in wrong.answers]
        lines += _more(members, PER_GROUP["terminal"], "    ")
    lines += [f"  {gold} taken for {label}: {count}" for (gold, label), count in study.confused[:10]]
    return "\n".join(lines)


def _headline(study: WrongItems) -> str:
    failed = f" ({study.failed} more failed; the report says why)" if study.failed else ""
    return f"{study.suite}: {study.student}: {len(study.wrong)} of {study.items} test items {study.called}{failed}"


def _also(wrong: WrongItem) -> str:
    return f" (also {', '.join(wrong.causes[1:])})" if wrong.causes[1:] else ""


def _more(members: Sequence[WrongItem], listed: int, indent: str = "") -> list[str]:
    return [f"{indent}... and {len(members) - listed} more"] if len(members) > listed else []


def _markdown(study: WrongItems) -> str:
    """For errors.md: the causes of every arm, the confused pairs, the items. What models wrote is escaped."""
    lines = [f"## {_plain(study.suite)}\n", _plain(_headline(study)) + ".\n"]
    by_arm = [
        (_short(arm), *(str(counts.get(cause, 0)) for cause in CAUSES), str(sum(counts.values())))
        for arm, counts in study.by_arm
    ]
    lines.append(table(("wrong items by cause", *CAUSES, "all"), by_arm) + "\n")
    if study.confused:
        pairs = [(_short(gold), _short(label), str(count)) for (gold, label), count in study.confused]
        lines.append(table(("gold", "taken for", "items"), pairs) + "\n")
    for cause, members in study.groups.items():
        lines.append(f"### {cause}: {len(members)}\n")
        for wrong in members[: PER_GROUP["file"]]:
            lines.append(f"**{_plain(wrong.prompt)}** gold: {_plain(wrong.gold)}{_plain(_also(wrong))}\n")
            answers = [(_short(arm), _short(text), "yes" if right else "no") for arm, text, right in wrong.answers]
            lines.append(table(("who", "answer", "right"), answers) + "\n")
        lines += [line + "\n" for line in _more(members, PER_GROUP["file"])]
    return "\n".join(lines) + "\n"


def _short(text: str) -> str:
    flat = one_line(text)
    return flat if len(flat) <= LONGEST else flat[:LONGEST] + "..."


def _plain(text: str) -> str:
    """A text's beginning, as itself on one line of Markdown."""
    return escaped(_short(text))
