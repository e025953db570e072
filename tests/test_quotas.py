"""Rows to order: so many kept ones of a label or of an attribute's value, or an end that says what is missing."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.augment.forecast import LEVEL, Forecast, Part, Tried, forecast
from harness.augment.funnel import Funnel
from harness.augment.plan import Plan, Round, plan_rows
from harness.augment.preview import preview
from harness.augment.quotas import allot, draw_weights, label_targets, most_to_begin, rows_to_begin
from harness.augment.stage import augment
from harness.commands.hard_examples import smaller
from harness.config.attributes import Attribute
from harness.config.inputs import rows_source
from harness.config.load import load_run
from harness.config.quotas import Quotas
from harness.config.run import Augment, Run
from harness.config.task import TaskFile
from harness.core.record import digest
from harness.core.terminal import Stop
from harness.errors import UsageError
from harness.records import Request
from tests.fakes import FakeGenerator, Passing, Quiet, prompt_of
from tests.project import row, write_project
from tests.test_steps import ANSWER, ASK, TEACHERS, project, rows_of, say

SHORT = {**ASK, "filters": [{"kind": "length", "max_words": 4}]}
LEVELS = {"difficulty": ["easy", "hard"]}


def ordering(
    root: Path, attributes: dict[str, Any], quotas: Quotas, step: dict[str, Any] = SHORT, **changes: Any
) -> Run:
    """A run of 40 rows whose prompts say what was drawn."""
    template = "Write question {{ index }} " + " ".join(f"{{{{ {name} }}}}" for name in attributes)
    changes = {"rows": 40, "requests_per_row": 1.5, "max_requests_per_row": 8} | changes
    return project(root, [step, ANSWER], files={"ask": template}, attributes=attributes, quotas=quotas, **changes)


def keeping(rates: Mapping[str, float]) -> Callable[[Request], str]:
    """Writes a question that the filter keeps, as often as the rates of the words in its prompt allow."""

    def written(request: Request) -> str:
        words = prompt_of(request).split()
        if request.origin.step != "question":
            return say(request)
        kept = random.Random(prompt_of(request)).random() < min(
            (rates[word] for word in words if word in rates), default=1
        )
        return f"why {words[2]}?" if kept else "this is much too long"

    return written


def run_it(run: Run, rates: Mapping[str, float]) -> tuple[Quiet, Passing, Funnel]:
    terminal, engine = Quiet(), Passing(FakeGenerator(keeping(rates)))
    funnel = augment(run, TEACHERS, lambda: engine, terminal, Stop())
    assert funnel is not None
    return terminal, engine, funnel


def asking(terminal: Quiet) -> list[str]:
    """What was said at the beginning of later rounds."""
    return [line for line in terminal.said if "; asking " in line]


# --- without quotas nothing changes

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
ATTRIBUTES = st.dictionaries(
    NAMES,
    st.dictionaries(NAMES, st.integers(0, 9), min_size=1).filter(lambda values: any(values.values())),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A plan of which tests change settings and task."""
    return plan_rows(project(tmp_path_factory.mktemp("base"), [ASK, ANSWER]), TEACHERS)


def with_settings(base: Plan, labels: int = 0, own: int = 0, **settings: Any) -> Plan:
    """The plan of other settings, for a task with so many labels and so many own rows of the first label."""
    task = TaskFile(system="x", labels={f"label {i}": "what it is" for i in range(labels)})
    step: dict[str, Any] = {"path": "a.j2", "shots": 0, "sampling": {}}
    changed = Augment.model_validate({"templates": [step], **settings})
    plan = replace(base, task=task, settings=changed, own=(row("a text", "label 0"),) * own)
    return replace(plan, weights=plan.first_weights())


@given(
    labels=st.integers(0, 6).filter(lambda n: n != 1),
    own=st.integers(0, 60),
    numbers=st.tuples(st.integers(1, 300), st.sampled_from([1, 1.5, 2.3]), st.sampled_from([2.3, 4, 9.7])),
    pool=st.none() | st.integers(1, 90),
    begun=st.integers(0, 400),
    rates=st.lists(st.floats(0, 1), min_size=6, max_size=6),
)
def test_rounds_without_quotas_are_as_they_were(
    base: Plan, labels: int, own: int, numbers: tuple[int, float, float], pool: int | None, begun: int,
    rates: list[float],
) -> None:  # fmt: skip
    rows, first, most = numbers
    settings = {"rows": rows, "requests_per_row": first, "max_requests_per_row": most, "pool_every": pool}
    plan = with_settings(base, labels, own, **settings)
    names = plan.labels
    wanted = ceil(max(rows - own, 0) * first)
    assert plan.first_round() == dict.fromkeys(names, ceil(min(wanted, pool or wanted) / len(names)))

    requested = dict.fromkeys(names, begun)
    kept = Counter({name: int(begun * rate) for name, rate in zip(names, rates, strict=False)})
    room = int(rows * most) - sum(requested.values())
    next_round = plan.next_round(requested, kept, Counter(), {})
    if kept.total() >= rows or room <= 0 or (not kept.total() and sum(requested.values()) >= 64):
        assert next_round is None
        return
    room, expected = min(room, pool or room), {}
    for name, n in requested.items():
        missing = max(0, ceil(rows / len(names)) - kept[name])
        more = min(ceil(missing / max(kept[name] / max(n, 1), 0.05)), room)
        expected[name], room = n + more, room - more
    assert next_round == Round(expected, {})


@given(ATTRIBUTES, st.integers(0, 10_000))
def test_draws_without_quotas_are_as_they_were(base: Plan, attributes: dict[str, dict[str, float]], j: int) -> None:
    plan = with_settings(base, attributes={name: {"values": values} for name, values in attributes.items()})
    draw = random.Random(digest("attributes", base.random_seed, "", j))
    expected = {name: draw.choices(list(values), list(values.values()))[0] for name, values in attributes.items()}
    assert plan.begin(("", j)).attributes == expected


# --- what quotas ask for


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 90), max_size=6),
    st.integers(1, 6),
    st.integers(0, 100),
)
def test_targets_of_labels_hold_every_quota_and_all_rows(quota: dict[str, int], labels: int, more: int) -> None:
    names = list("abcdef"[:labels])
    quota = {name: n for name, n in quota.items() if name in names}
    rows = sum(quota.values()) + more
    targets = label_targets(names, rows, quota)
    assert rows <= sum(targets.values()) < rows + labels
    assert all(targets[name] >= n for name, n in quota.items())
    others = {n for name, n in targets.items() if name not in quota}
    assert len(others) <= 1, "what is left is shared evenly"
    assert targets == quota | {name: targets[name] for name in names if name not in quota or len(quota) == labels}


@given(ATTRIBUTES, st.data(), st.integers(1, 400), st.floats(0.05, 1))
def test_weights_share_the_rows_that_are_begun_and_never_draw_what_has_none(
    attributes: dict[str, dict[str, float]], data: st.DataObject, rows: int, rate: float
) -> None:
    drawable = {name: [v for v, weight in values.items() if weight] for name, values in attributes.items()}
    quotas: Quotas = {
        name: data.draw(st.dictionaries(st.sampled_from(values), st.integers(1, 50), min_size=1))
        for name, values in drawable.items()
    }
    of = {name: Attribute(values=values) for name, values in attributes.items()}
    demand = rows_to_begin(of, quotas, {}, rate, 0)
    begin = max(rows, most_to_begin(demand))
    weights = draw_weights(of, quotas, demand, rows, begin)
    for name, values in attributes.items():
        assert list(weights[name]) == list(values)
        assert sum(weights[name].values()) == pytest.approx(begin)
        assert all(weights[name][value] == 0 for value, weight in values.items() if not weight)
        for value, n in quotas[name].items():
            assert weights[name][value] >= n, "at least what is ordered, for no more than all are kept"


@given(st.dictionaries(NAMES, st.integers(0, 50)), st.integers(0, 120))
def test_what_there_is_room_for_goes_to_the_cheapest_first(needed: dict[str, int], room: int) -> None:
    given_room = allot(needed, room)
    assert sum(given_room.values()) == min(room, sum(needed.values()))
    cut = [needed[name] for name in needed if given_room[name] < needed[name]]
    assert all(needed[name] <= min(cut, default=50) for name in needed if given_room[name] == needed[name] > 0)


def test_what_is_missing_is_asked_for_at_the_keep_rate_of_its_value() -> None:
    of = {"difficulty": Attribute(values={"easy": 1, "hard": 1, "odd": 1})}
    seen = {"attribute difficulty": {"easy": (99, 79), "hard": (99, 9), "odd": (79, 0)}}
    demand = rows_to_begin(of, {"difficulty": {"easy": 70, "hard": 20, "odd": 3}}, seen, 0.5, 277)
    assert demand == {"difficulty": {"easy": 0, "hard": ceil(11 / 0.095), "odd": ceil(3 / 0.05)}}
    weights = draw_weights(of, {"difficulty": {"hard": 20, "odd": 3}}, demand, 100, 200)
    assert weights == {"difficulty": {"easy": 200 - 116 - 60, "hard": 116, "odd": 60}}


def test_an_attribute_under_a_condition_asks_for_rows_in_which_it_holds() -> None:
    of = {
        "difficulty": Attribute(values={"easy": 9, "hard": 1}),
        "trap": Attribute.model_validate({"values": ["units", "negation"], "when": {"difficulty": "hard"}}),
    }
    demand = rows_to_begin(of, {"trap": {"units": 30}}, {}, 0.5, 0)
    assert demand == {"trap": {"units": 60}, "difficulty": {"hard": 60}}
    weights = draw_weights(of, {"trap": {"units": 30}}, demand, 100, 160)
    assert weights["difficulty"] == {"easy": 90, "hard": 70}
    assert weights["trap"] == {"units": 60, "negation": 100}


# --- from a run file to rows


def test_a_quota_is_met_though_a_filter_drops_most_of_its_rows(tmp_path: Path) -> None:
    quotas = {"difficulty": {"easy": 24, "hard": 16}}
    run = ordering(tmp_path, LEVELS, quotas)
    rates = {"easy": 0.9, "hard": 0.2}
    terminal, engine, funnel = run_it(run, rates)
    kept = Counter(row.provenance.attributes["difficulty"] for row in rows_of(run))
    assert kept["hard"] >= 16
    assert kept["easy"] >= 24
    assert {value: ordered.kept for value, ordered in funnel.quotas["difficulty"].items()} == kept
    assert (funnel.complete, funnel.short) == (True, [])
    assert f"  ordered by difficulty: easy {kept['easy']} of 24, hard {kept['hard']} of 16" in funnel.table()
    assert "rows so far, short of difficulty hard " in asking(terminal)[0]
    later = [r for r in engine.requests if r.origin.step == "question"][60:]
    assert Counter(prompt_of(r).split()[3] for r in later)["hard"] == len(later), "nothing else is short"
    # without the order the rarer one stays rare
    plain = ordering(tmp_path / "plain", LEVELS, {})
    run_it(plain, rates)
    assert Counter(row.provenance.attributes["difficulty"] for row in rows_of(plain))["hard"] < 16


def test_the_same_calls_give_the_same_rounds_and_nothing_is_asked_again(tmp_path: Path) -> None:
    quotas = {"difficulty": {"hard": 16}, "tone": {"calm": 10, "angry": 20}}
    attributes = {**LEVELS, "tone": ["calm", "angry", "sad"]}
    rates = {"hard": 0.3, "angry": 0.5}
    run = ordering(tmp_path, attributes, quotas)
    terminal, _, funnel = run_it(run, rates)
    assert len(asking(terminal)) >= 2
    before = (run.folder / "augment/train.jsonl").read_bytes()
    (run.folder / "augment/manifest.json").unlink()
    again, engine, same = run_it(run, rates)
    assert (engine.completed, same.calls_paid) == ([], 0)
    assert asking(again) == asking(terminal)
    assert (run.folder / "augment/train.jsonl").read_bytes() == before
    assert same.quotas == funnel.quotas
    terminal = Quiet()
    assert augment(run, TEACHERS, lambda: engine, terminal, Stop()) is None
    assert "nothing to do" in terminal.said[0]


def test_stopped_in_a_later_round_it_goes_on_to_the_same_rows(tmp_path: Path) -> None:
    quotas, rates = {"difficulty": {"easy": 24, "hard": 16}}, {"hard": 0.2}
    whole, broken = (ordering(tmp_path / name, LEVELS, quotas) for name in ("whole", "broken"))
    _, paid, _ = run_it(whole, rates)

    def die(completions: int) -> None:
        if completions == 130:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        augment(broken, TEACHERS, lambda: Passing(FakeGenerator(keeping(rates)), die), Quiet(), Stop())
    _, engine, _ = run_it(broken, rates)
    assert 0 < len(engine.completed) == len(paid.completed) - 129
    assert (broken.folder / "augment/train.jsonl").read_bytes() == (whole.folder / "augment/train.jsonl").read_bytes()


def test_what_never_comes_ends_with_the_value_its_rate_and_what_ate_it(tmp_path: Path) -> None:
    run = ordering(tmp_path, LEVELS, {"difficulty": {"easy": 20, "hard": 16}}, max_requests_per_row=4)
    terminal, _, funnel = run_it(run, {"easy": 0.7, "hard": 0.03})
    easy, hard = (funnel.quotas["difficulty"][value] for value in ("easy", "hard"))
    assert funnel.requested == 160
    assert easy.kept >= 20, "what can be had is not starved by what cannot"
    assert 0 < hard.kept < 16
    assert [(short.name, short.value) for short in funnel.short] == [("difficulty", "hard")]
    assert terminal.said[-1] == (
        f"  augment.quotas.difficulty.hard: {hard.kept} of 16 rows are kept, {hard.kept / hard.begun:.0%} of the"
        f" {hard.begun} begun: {hard.begun - hard.kept} of {hard.begun} rows were dropped by filters of steps, most of"
        " them so: too long: words 5, at most 4 wanted; raise augment.max_requests_per_row (now 4), or lower the quota"
    )
    terminal = Quiet()
    assert augment(run, TEACHERS, lambda: FakeGenerator(), terminal, Stop()) is None
    assert f"asked, short of difficulty hard {hard.kept} of 16;" in terminal.said[0]


def test_a_filter_at_the_end_is_named_where_it_ate_a_quota(tmp_path: Path) -> None:
    filters = [{"kind": "duplicate"}, {"kind": "length", "max_words": 4}]
    run = ordering(tmp_path, LEVELS, {"difficulty": {"hard": 16}}, ASK, filters=filters, max_requests_per_row=3)
    terminal, _, funnel = run_it(run, {"hard": 0})
    begun = funnel.quotas["difficulty"]["hard"].begun
    said = f"augment.quotas.difficulty.hard: 0 of 16 rows are kept, 0% of the {begun} begun: the filter length drops"
    assert f"{said} {begun} of {begun} rows, most of them so: too long: words 5" in terminal.said[-1]
    assert "raise augment" not in terminal.said[-1], "no number of requests would do"


def test_labels_with_a_quota_have_their_own_target_and_the_others_share_what_is_left(tmp_path: Path) -> None:
    path = write_project(tmp_path, "nobody")
    step = {"path": "prompts/shop/list.j2", "shots": 1, "sampling": {"max_tokens": 16}}
    settings = ["augment.rows=24", "augment.requests_per_row=1", "augment.filters=[{kind: length, max_words: 4}]"]
    run = load_run(
        path, [*settings, f"augment.templates={json.dumps([step])}", "augment.quotas={label: {invoice: 16}}"]
    )
    assert plan_rows(run, TEACHERS).first_round() == {"parcel": 4, "invoice": 16, "account": 4}

    def written(request: Request) -> str:
        dropped = request.origin.label == "invoice" and request.sample_index % 4
        return f"{request.origin.label} {request.sample_index}" + " far too long a text" * bool(dropped)

    funnel = augment(run, TEACHERS, lambda: FakeGenerator(written), Quiet(), Stop())
    assert funnel is not None
    assert (funnel.kept_by_label["invoice"], funnel.complete) == (16, True)
    assert funnel.kept_by_label["parcel"] == funnel.kept_by_label["account"] == 4
    assert funnel.quotas["label"]["invoice"].begun == 64


def test_own_rows_count_for_labels(tmp_path: Path) -> None:
    path = write_project(tmp_path, "nobody")
    own = [{"text": f"my parcel {i}", "label": "parcel"} for i in range(9)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in own))
    settings = ["augment.rows_file=own.jsonl", "augment.rows=24", "augment.requests_per_row=1"]
    run = load_run(path, [*settings, "augment.quotas={label: {parcel: 12, invoice: 10}}"])
    assert plan_rows(run, TEACHERS).first_round() == {"parcel": 3, "invoice": 10, "account": 2}


def test_an_attribute_that_has_a_value_under_a_condition_can_be_ordered(tmp_path: Path) -> None:
    attributes = {
        "difficulty": {"values": {"easy": 19, "hard": 1}},
        "trap": {"values": ["units", "negation"], "when": {"difficulty": "hard"}},
        "number": {"range": [1, 8]},
        "lucky": {"values": ["seven"], "when": {"number": [7]}},
    }
    run = ordering(tmp_path, attributes, {"trap": {"units": 12}, "lucky": {"seven": 8}}, max_requests_per_row=12)
    _, _, funnel = run_it(run, {"units": 0.5})
    assert funnel.complete
    for row_ in rows_of(run):
        made = row_.provenance.attributes
        assert bool(made["trap"]) == (made["difficulty"] == "hard")


def test_failed_calls_that_leave_a_quota_short_are_asked_again(tmp_path: Path) -> None:
    run = ordering(tmp_path, LEVELS, {"difficulty": {"hard": 30}}, requests_per_row=1, max_requests_per_row=1.2)

    def broken(request: Request) -> str:
        return "ERROR" if prompt_of(request).endswith("hard") else keeping({})(request)

    terminal = Quiet()
    funnel = augment(run, TEACHERS, lambda: FakeGenerator(broken), terminal, Stop())
    assert funnel is not None
    assert funnel.short
    _, engine, funnel = run_it(run, {})
    assert engine.completed, "not taken for done"
    assert funnel.complete


def test_a_cap_says_which_quota_it_left_short(tmp_path: Path) -> None:
    run = ordering(tmp_path, LEVELS, {"difficulty": {"hard": 16}}, caps={"tokens": 1200})
    terminal, _, funnel = run_it(run, {"hard": 0.1})
    kept = funnel.quotas["difficulty"]["hard"].kept
    assert kept < 16
    said = terminal.said[-1]
    assert "augment.caps.tokens (1200) is reached" in said
    assert f"{funnel.kept} of 40 rows are kept, short of difficulty hard {kept} of 16: raise the cap" in said


# --- what cannot be ordered

BALANCE = {"kind": "balance", "attribute": "level", "most": 5}
ATTRIBUTES_THERE = {
    "level": {"values": {"easy": 1, "hard": 1, "odd": 0}},
    "n": {"range": [1, 4]},
    "double": {"compute": "{{ 2 * n }}"},
    "trap": {"values": ["units"], "when": {"level": "odd"}},
    "deep": {"values": ["units"], "when": {"trap": "units"}},
}
REFUSED = [
    ({"levl": {"easy": 1}}, "levl: 'levl' is neither 'label' nor an attribute with values (did you mean 'level'?)"),
    ({"label": {"easy": 1}}, "label: the task has no labels"),
    ({"level": {"hart": 1}}, "level.hart: 'hart' is none of its values (did you mean 'hard'?): easy, hard, odd"),
    ({"n": {"1": 1}}, "n: the attribute is drawn from a range: only one with `values` can be ordered"),
    ({"double": {"2": 1}}, "double: the attribute is computed: only one with `values` can be ordered"),
    ({"level": {"odd": 1}}, "level.odd: its weight in augment.attributes.level is 0, so that it is never drawn"),
    ({"level": {"easy": 30, "hard": 11}}, "level: its values are 41 rows together, and augment.rows is 40"),
    ({"trap": {"units": 1}}, "trap: its condition (augment.attributes.trap.when) never holds"),
    ({"deep": {"units": 1}}, "deep: its condition (augment.attributes.deep.when) never holds"),
    ({"level": {"hard": 6}}, "level.hard: 6 are ordered, and the filter balance keeps 5 at most"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("quotas", "expected"), REFUSED, ids=[said.split(":")[0] + str(i) for i, (_, said) in enumerate(REFUSED)]
)
def test_what_cannot_be_ordered_is_said_at_load(tmp_path: Path, quotas: Quotas, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        ordering(tmp_path, ATTRIBUTES_THERE, quotas, filters=[BALANCE])
    place, said = str(caught.value).split(": augment.quotas.", 1)
    assert said.startswith(expected)
    line = (tmp_path / "runs/q.yaml").read_text().splitlines()[int(place.split(":")[-1]) - 1]
    assert line.split(":")[0].strip(" '") in expected.split(":")[0].split(".")


@pytest.mark.parametrize(
    ("filter_", "most"),
    [
        ({"kind": "diverse", "rows": 39}, 39),
        ({"kind": "balance", "attribute": "level", "most": 19}, 38),
        ({"kind": "balance", "attribute": "trap", "most": 19}, 38),
    ],
)
def test_a_filter_that_keeps_fewer_rows_than_are_wanted_is_refused(
    tmp_path: Path, filter_: dict[str, Any], most: int
) -> None:
    with pytest.raises(UsageError, match=f"filters.0: {filter_['kind']} keeps {most} rows at most, and .* is 40"):
        ordering(tmp_path, ATTRIBUTES_THERE, {"level": {"hard": 5}}, filters=[filter_])
    limit = "rows" if "rows" in filter_ else "most"
    ordering(tmp_path, ATTRIBUTES_THERE, {"level": {"hard": 5}}, filters=[filter_ | {limit: filter_[limit] + 1}])


def test_all_that_cannot_be_ordered_is_said_together(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        ordering(tmp_path, ATTRIBUTES_THERE, {"level": {"hart": 50}, "n": {"1": 1}})
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        "augment.quotas.level.hart", "augment.quotas.level", "augment.quotas.n",
    ]  # fmt: skip


def test_labels_are_named_where_a_quota_has_another(tmp_path: Path) -> None:
    path = write_project(tmp_path, "nobody")
    with pytest.raises(
        UsageError, match=r"label\.parcels: 'parcels' is none of its values \(did you mean 'parcel'\?\)"
    ):
        load_run(path, ["augment.quotas={label: {parcels: 3}}"])
    with pytest.raises(UsageError, match=r"augment\.quotas\.label\.parcel: 0"):
        load_run(path, ["augment.quotas={label: {parcel: 0}}"])


def test_nothing_is_ordered_where_no_teacher_writes(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"attributes": LEVELS, "quotas": {"difficulty": {"easy": 1}}}
    with pytest.raises(UsageError, match=r"augment\.quotas: no teacher writes rows here"):
        project(tmp_path, [], None, rows_file="prompts/q/seeds.jsonl", **changes)


def test_quotas_are_part_of_what_made_the_rows_and_no_quotas_are_not(tmp_path: Path) -> None:
    plain = rows_source(ordering(tmp_path, LEVELS, {}))
    few, many = (rows_source(ordering(tmp_path, LEVELS, {"difficulty": {"hard": n}})) for n in (3, 4))
    assert len({plain, few, many}) == 3


# --- a preview knows of them


@pytest.mark.parametrize("hard", [0.15, 0.4, 0.9])
def test_a_forecast_holds_what_an_order_takes_as_often_as_it_says(hard: float) -> None:
    draw = random.Random(round(hard * 100))
    of, rates = {"level": Attribute(values={"easy": 1, "hard": 1})}, {"easy": 0.9, "hard": hard}
    quotas: Quotas = {"level": {"hard": 100}}
    rows, most, runs, held = 200, 2400, 240, Counter[str]()
    for number in range(runs):

        def begin(weights: Mapping[str, float], n: int, seen: dict[str, list[bool]]) -> None:
            for value in draw.choices(list(weights), list(weights.values()), k=n):
                seen[value].append(draw.random() < rates[value])

        demand = rows_to_begin(of, quotas, {}, 1 / 1.5, 0)
        weights = draw_weights(of, quotas, demand, rows, 300)["level"]
        tried: dict[str, list[bool]] = {"easy": [], "hard": []}
        begin(weights, 32, tried)
        parts = [Part(n, 150, len(tried[v]), sum(tried[v])) for v, n in (("hard", 100), ("easy", 0))]
        of_tried = [Tried(kept=kept, requests=1, tokens=1) for values in tried.values() for kept in values]
        expected = forecast(of_tried, rows, 300, most, number, [parts])
        seen: dict[str, list[bool]] = {"easy": [], "hard": []}
        begin(weights, 300, seen)
        while True:
            kept, begun = sum(map(sum, seen.values())), sum(map(len, seen.values()))
            counts = {"attribute level": {value: (len(found), sum(found)) for value, found in seen.items()}}
            demand = rows_to_begin(of, quotas, counts, kept / begun, begun)
            more = min(max(most_to_begin(demand), ceil(max(rows - kept, 0) * begun / kept)), most - begun)
            if not more:
                break
            begin(draw_weights(of, quotas, demand, rows, more)["level"], more, seen)
        held["begun"] += expected.begun.holds(begun)
        held["rows"] += expected.rows.holds(kept)
    assert all(count / runs > LEVEL - 0.08 for count in held.values()), held


def test_a_preview_counts_with_what_is_ordered(tmp_path: Path) -> None:
    rates = {"hard": 0.2}

    def previewed(root: Path, quotas: Quotas) -> Forecast:
        run = ordering(root, LEVELS, quotas)
        return preview(run, TEACHERS, lambda: FakeGenerator(keeping(rates)), Quiet(), Stop(), 30)

    plain, ordered = previewed(tmp_path / "0", {}), previewed(tmp_path / "1", {"difficulty": {"hard": 30}})
    assert ordered.begun.low > plain.begun.high
    run = ordering(tmp_path / "1", LEVELS, {"difficulty": {"hard": 30}})
    _, _, funnel = run_it(run, rates)
    assert ordered.begun.holds(funnel.requested)


def test_another_round_of_hard_examples_orders_as_much_of_fewer_rows() -> None:
    quotas: Quotas = {"label": {"parcel": 200, "invoice": 3}, "difficulty": {"hard": 60}}
    assert smaller(quotas, 400, 96, 32) == {"label": {"parcel": 48, "invoice": 1}, "difficulty": {"hard": 4}}
