"""Filters: what each drops, what it says, and what holds for all of them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from harness.errors import UsageError
from harness.filters import (
    AnyFilter,
    Contamination,
    Context,
    Duplicate,
    Finished,
    Judge,
    Length,
    NearDuplicate,
    Protected,
    PythonFilter,
)
from harness.filters.calibration import Calibration, auc_interval, calibrate, threshold_keeping
from harness.filters.judge import SILENT, UNUSED, choice_probabilities
from harness.records import Completion, Message, Provenance, Request, Row, Seed

LABELS = {"billing": "money", "delivery": "the bike on its way", "repair": "broken parts"}
SURE = Calibration(auc=0.9, low=0.8, high=1.0, threshold=0.4, seeds=64)


def row(text: str, label: str = "repair", finish: str = "stop", source: str = "teacher") -> Row:
    provenance = Provenance.model_validate({"source": source, "finish_reason": finish})
    messages = (Message(role="user", content=text), Message(role="assistant", content=label))
    return Row(messages=messages, text=text, label=label, provenance=provenance)


def context(root: Path = Path(), seeds: Sequence[Seed] = (), protected: Sequence[Protected] = ()) -> Context:
    return Context(root=root, seeds=tuple(seeds), labels=LABELS, protected=tuple(protected), teacher="t@1")


def seeds(each: int = 8) -> list[Seed]:
    return [Seed(text=f"{label} message number {i}", label=label) for i in range(each) for label in LABELS]


# --- one row alone ---


def test_finished_keeps_only_what_the_teacher_ended() -> None:
    rows = [row("a"), row("b", finish="length"), row("c", finish="length", source="own"), row("d", finish="")]
    verdicts = Finished().verdicts(rows, context())
    assert [v.keep for v in verdicts] == [True, False, True, False]
    assert verdicts[1].reason == "not finished: cut at the limit of tokens"


def test_length_counts_words_not_signs() -> None:
    rows = [row("no!"), row("my bike - is late"), row("one two three four five six")]
    verdicts = Length(min_words=2, max_words=5).verdicts(rows, context())
    assert [v.keep for v in verdicts] == [False, True, False]
    assert [v.score for v in verdicts] == [1, 4, 6]
    assert verdicts[0].reason == "too short: words 1, at least 2 wanted"


def test_length_that_nothing_can_pass_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"min_words \(9\) is above max_words \(3\)"):
        Length(min_words=9, max_words=3)


# --- sets of rows ---


def test_duplicate_names_its_twin_and_prefers_the_seed() -> None:
    rows = [row("My bike is late"), row("my bike is late!!"), row("STOLEN"), row("Stolen.", "billing")]
    given_seeds = [Seed(text="Stolen", label="repair")]
    verdicts = Duplicate().verdicts(rows, context(seeds=given_seeds))
    assert [v.keep for v in verdicts] == [True, False, False, False]
    assert (verdicts[1].reason, verdicts[1].against) == (
        "the same words as an earlier row",
        "My bike is late",
    )
    assert verdicts[2].reason == "the same words as a seed"
    assert verdicts[3].reason == "the same words as a seed, labelled 'repair'"


def test_near_duplicate_gives_twin_and_score() -> None:
    text = "when will the driver bring my new bike to the office"
    rows = [row("the brake squeaks in the rain"), row(text), row(text.replace("will", "wil"))]
    verdict = NearDuplicate().verdicts(rows, context())[2]
    assert not verdict.keep
    assert verdict.against == text
    # of its 49 different shingles "will", "ill " and "ll t" are lost, "wil " and "il t" are new
    assert verdict.score == 46 / 51
    assert verdict.reason == f"nearly an earlier row (Jaccard {verdict.score:.2f})"


def test_a_row_too_like_a_seed_takes_no_other_with_it() -> None:
    seed = "aaaa bbbb cccc dddd eeee ffff"
    near_seed, near_row = "aaaa bbbb cccc dddd eeee ffgg", "aaaa bbbb cccc dddd eehh ffgg"
    verdicts = NearDuplicate(threshold=0.7).verdicts(
        [row(near_seed), row(near_row)], context(seeds=[Seed(text=seed, label="repair")])
    )
    assert [v.keep for v in verdicts] == [False, True]
    assert verdicts[0].against == seed


ITEMS = [
    Protected("helpdesk", "i1", "The display stays black although the battery was full this morning"),
    Protected("helpdesk", "i2", "Please cancel it now"),
    Protected("helpdesk", "i3", "Refund me"),
    Protected("helpdesk", "i4", "the chain makes a grinding noise when I pedal"),
]


@pytest.mark.parametrize(
    ("text", "item", "quoted"),
    [
        (
            "hi, the display stays black although the battery was full yesterday",
            "i1",
            "the display stays black although the battery was full",
        ),
        ("I said: please cancel it now!!!", "i2", "please cancel it now"),
        ("the chain makes a griding noise when I pedal", "i4", "nearly an item of helpdesk"),
    ],
)
def test_contamination_names_its_item_and_quotes_the_words(text: str, item: str, quoted: str) -> None:
    verdict = Contamination(ngram=8).verdicts([row(text)], context(protected=ITEMS))[0]
    assert not verdict.keep
    assert verdict.against == f"helpdesk/{item}"
    assert quoted in verdict.reason


@pytest.mark.parametrize(
    "text", ["the display stays black although the battery is new", "refund me my money please", "", "noise"]
)
def test_contamination_lets_common_phrases_pass(text: str) -> None:
    assert Contamination(ngram=8).verdicts([row(text)], context(protected=ITEMS))[0].keep


def test_contamination_names_the_item_with_the_longest_run() -> None:
    items = [Protected("s", "short", "a b c d e"), Protected("s", "long", "x a b c d e f g h")]
    verdict = Contamination(ngram=4).verdicts([row("a b c d e f g h")], context(protected=items))[0]
    assert verdict.against == "s/long"
    assert verdict.reason == "shares 8 words in a row with an item of s: 'a b c d e f g h'"


# --- what holds for all ---

TEXTS = st.lists(
    st.lists(
        st.sampled_from(["my", "bike", "is", "late", "red", "rad", "the", "brake", "squeaks", "now"]),
        max_size=6,
    ).map(" ".join),
    max_size=10,
)
RULES: list[Finished | Length | Duplicate | NearDuplicate | Contamination] = [
    Finished(),
    Length(min_words=2, max_words=4),
    Duplicate(),
    NearDuplicate(threshold=0.6),
    Contamination(ngram=4),
]
PROTECTED = [Protected("s", "1", "my red bike is late"), Protected("s", "2", "the brake squeaks now")]


@settings(deadline=None)
@given(TEXTS, st.sampled_from(RULES))
def test_one_verdict_per_row_in_order_and_every_drop_says_why(
    texts: list[str], rule: Finished | Length | Duplicate | NearDuplicate | Contamination
) -> None:
    rows = [row(text, finish="length" if "now" in text else "stop") for text in texts]
    where = context(seeds=[Seed(text="my bike", label="repair")], protected=PROTECTED)
    verdicts = rule.verdicts(rows, where)
    assert [v.row for v in verdicts] == [r.id for r in rows]
    assert all(v.filter == rule.kind and v.keep == (not v.reason) for v in verdicts)
    assert rule.verdicts(rows, where) == verdicts


@settings(deadline=None)
@given(TEXTS, st.sampled_from([Finished(), Length(max_words=3), Contamination(ngram=4)]), st.randoms())
def test_rules_about_one_row_do_not_depend_on_the_others(
    texts: list[str], rule: Finished | Length | Contamination, order: random.Random
) -> None:
    rows = [row(text) for text in texts]
    verdicts = rule.verdicts(rows, context(protected=PROTECTED))
    shuffled = rows[:]
    order.shuffle(shuffled)
    again = {v.row: v for v in rule.verdicts(shuffled, context(protected=PROTECTED))}
    assert [again[r.id] for r in rows] == verdicts


@settings(deadline=None)
@given(TEXTS, st.randoms())
def test_the_number_of_different_texts_does_not_depend_on_order(
    texts: list[str], order: random.Random
) -> None:
    rows = [row(text) for text in texts]
    shuffled = rows[:]
    order.shuffle(shuffled)
    count = sum(v.keep for v in Duplicate().verdicts(rows, context()))
    assert count == len(set(texts)) == sum(v.keep for v in Duplicate().verdicts(shuffled, context()))


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_more_rows_later_change_no_earlier_verdict(texts: list[str], more: list[str]) -> None:
    rows = [row(text) for text in texts + more]
    for rule in RULES:
        assert rule.verdicts(rows, context())[: len(texts)] == rule.verdicts(rows[: len(texts)], context())


def test_the_fields_of_a_filter_are_its_yaml() -> None:
    filters = TypeAdapter(tuple[AnyFilter, ...]).validate_python(
        [
            {"kind": "finished"},
            {"kind": "judge", "template": "j.j2"},
            {"kind": "near_duplicate", "threshold": 0.7},
        ]
    )
    assert [f.kind for f in filters] == ["finished", "judge", "near_duplicate"]
    with pytest.raises(ValidationError):
        TypeAdapter(AnyFilter).validate_python({"kind": "near_duplicate", "treshold": 0.7})


# --- the door ---


def door(folder: Path, source: str, function: str = "keep") -> PythonFilter:
    (folder / "mine.py").write_text(source, encoding="utf-8")
    return PythonFilter(file="mine.py", function=function)


def test_a_python_filter_keeps_drops_and_explains(tmp_path: Path) -> None:
    rule = door(
        tmp_path,
        "def keep(row):\n"
        "    row['text'] = row['text'].lower()\n"
        "    return ('bike' in row['text'], 'no bike in it') if row['label'] == 'repair' else False\n",
    )
    rows = [row("My BIKE"), row("my car"), row("bike", "billing")]
    verdicts = rule.verdicts(rows, context(tmp_path))
    assert [v.keep for v in verdicts] == [True, False, False]
    assert [v.reason for v in verdicts] == ["no bike in it", "no bike in it", "keep in mine.py said no"]
    assert rows[0].text == "My BIKE"
    assert not (tmp_path / "__pycache__").exists()


def test_other_code_is_another_filter(tmp_path: Path) -> None:
    before = door(tmp_path, "def keep(row): return True\n").file_digest(tmp_path)
    assert door(tmp_path, "def keep(row): return False\n").file_digest(tmp_path) != before


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def kepe(row): return True\n", r"no function 'keep' \(did you mean 'kepe'\?\)"),
        ("x = 1\ndef keep(row)\n", r"mine\.py:2: not valid Python"),
        ("import nothing_like_it\n", r"mine\.py:1: ModuleNotFoundError"),
        (
            "def keep(row):\n    return row['txt'] > 1\n",
            r"mine\.py:2: keep failed on the text 'hello': KeyError",
        ),
        ("def keep(row):\n    return 1\n", r"keep returned 1; it must be keep\(row: dict\) -> bool"),
        ("def keep(row):\n    exit()\n", r"mine\.py:2: keep failed"),
    ],
)
def test_mistakes_in_a_python_filter_are_named(tmp_path: Path, source: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        door(tmp_path, source).verdicts([row("hello")], context(tmp_path))


def test_a_missing_python_filter_is_named_with_its_neighbour(tmp_path: Path) -> None:
    door(tmp_path, "")
    with pytest.raises(UsageError, match=r"did you mean 'mine.py'"):
        PythonFilter(file="mime.py").verdicts([row("hello")], context(tmp_path))


# --- the judge ---


def completion(request: Request, chances: Mapping[str, float]) -> Completion:
    logs = {token: math.log(chance) for token, chance in chances.items()}
    return Completion(request=request.key, text="", finish_reason="length", first_logprobs=logs)


def judge(folder: Path, template: str = "{{ text }} {{ label }}", **fields: object) -> Judge:
    (folder / "j.j2").write_text(template, encoding="utf-8")
    return Judge.model_validate({"template": "j.j2", **fields})


def probabilities(chances: Mapping[str, float], choices: Sequence[str]) -> dict[str, float]:
    request = Request.model_validate(
        {"model": "m", "prompt": "p", "sampling": {}, "origin": {"purpose": "judge"}}
    )
    return choice_probabilities(completion(request, chances), choices)


def test_probabilities_are_renormalised_over_the_choices() -> None:
    found = probabilities({" yes": 0.3, "Yes": 0.1, "no": 0.1, "maybe": 0.4, "\n": 0.05}, ["yes", "no"])
    assert found == {"yes": pytest.approx(0.8), "no": pytest.approx(0.2)}


def test_pieces_count_for_the_one_choice_they_begin() -> None:
    # "b" begins two choices and is left out; the unseen one gets the smallest reported probability
    found = probabilities({"bil": 0.5, "b": 0.2, "re": 0.2, "x": 0.1}, ["billing", "battery", "repair"])
    assert found == {
        "billing": pytest.approx(0.625),
        "battery": pytest.approx(0.125),
        "repair": pytest.approx(0.25),
    }


@pytest.mark.parametrize("chances", [{}, {"maybe": 0.9}, {"b": 0.5, "bil": 0.1}])
def test_a_completion_that_cannot_tell_gives_nothing(chances: dict[str, float]) -> None:
    assert probabilities(chances, ["billing", "battery"]) == {}


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["yes", " y", "no", "n", "x", ""]), st.floats(-20, 0), max_size=6))
def test_probabilities_sum_to_one_or_there_are_none(logs: dict[str, float]) -> None:
    answer = Completion(request="r", finish_reason="stop", first_logprobs=logs)
    found = choice_probabilities(answer, ["yes", "no"])
    assert not found or sum(found.values()) == pytest.approx(1)


def test_the_judge_asks_for_one_guided_token_and_never_shows_the_row_itself(tmp_path: Path) -> None:
    rule = judge(tmp_path, "{% for s in shots %}{{ s.text }}={{ s.label }};{% endfor %}|{{ text }}", shots=2)
    given_seeds = seeds(3)
    rows = [row(given_seeds[0].text), row("something else")]
    requests = rule.ask(rows, context(tmp_path, given_seeds))
    shown = requests[0].prompt.split("|")[0]
    assert given_seeds[0].text not in shown
    assert given_seeds[0].text in requests[1].prompt
    assert all(request.prompt.count("=") == 6 for request in requests)
    sampling = requests[0].sampling
    assert (sampling.temperature, sampling.choices, sampling.logprobs) == (0, tuple(LABELS), 20)
    assert requests[0].origin.row == rows[0].id


def test_no_label_is_one_shot_short_when_seeds_are_few(tmp_path: Path) -> None:
    rule = judge(tmp_path, "{% for s in shots %}{{ s.label }} {% endfor %}", shots=5)
    given_seeds = seeds(2)
    for request in rule.ask(
        rule.calibration_rows(context(tmp_path, given_seeds)), context(tmp_path, given_seeds)
    ):
        assert request.prompt.split() == list(LABELS)


def test_a_prompt_without_the_label_is_asked_once_per_text(tmp_path: Path) -> None:
    where = context(tmp_path, seeds(2))
    rule = judge(tmp_path, "{{ text }}")
    rows = rule.calibration_rows(where)
    assert len(rows) == 6 * 3
    assert len({request.key for request in rule.ask(rows, where)}) == 6
    assert len({request.key for request in judge(tmp_path).ask(rows, where)}) == 18


def test_a_chat_judge_asks_by_message(tmp_path: Path) -> None:
    request = judge(tmp_path, form="chat").ask([row("hello")], context(tmp_path, seeds(2)))[0]
    assert request.messages == (Message(role="user", content="hello repair"),)


def test_an_undefined_variable_in_the_judges_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'label'"):
        judge(tmp_path, "{{ lable }}").ask([row("hello")], context(tmp_path, seeds(2)))


def test_verdicts_of_the_judge(tmp_path: Path) -> None:
    where = context(tmp_path, seeds(2))
    rule = judge(tmp_path)
    rows = [row("a"), row("b"), row("c")]
    requests = rule.ask(rows, where)
    answers = [
        completion(requests[0], {"repair": 0.6, "billing": 0.2, "delivery": 0.2}),
        completion(requests[1], {"repair": 0.1, "billing": 0.7, "delivery": 0.2}),
        Completion(request=requests[2].key, finish_reason="error", error="refused"),
    ]
    verdicts = rule.verdicts(rows, answers, where, SURE)
    assert [v.keep for v in verdicts] == [True, False, False]
    assert [v.score for v in verdicts] == [pytest.approx(0.6), pytest.approx(0.1), None]
    assert verdicts[1].reason == "the judge gives 'repair' 0.100, below 0.400"
    assert verdicts[1].against == "billing"
    assert verdicts[2].reason == SILENT


def test_a_judge_no_better_than_chance_is_not_used(tmp_path: Path) -> None:
    chance = Calibration(auc=0.52, low=0.44, high=0.6, threshold=0.1, seeds=64)
    verdicts = judge(tmp_path).verdicts([row("a")], [], context(tmp_path), chance)
    assert [(v.keep, v.reason) for v in verdicts] == [(True, UNUSED)]


def scripted(
    rule: Judge, where: Context, score: Callable[[Row, bool], float], random_seed: int = 0
) -> Calibration:
    """The calibration of a yes-or-no judge whose sureness of yes is `score(row, whether it is right)`."""
    right = {seed.text: seed.label for seed in where.seeds}
    rows = rule.calibration_rows(where)
    answers = []
    for asked, request in zip(rows, rule.ask(rows, where, purpose="calibrate"), strict=True):
        chance = score(asked, right[asked.text] == asked.label)
        answers.append(completion(request, {"yes": chance, "no": 1 - chance}))
    return rule.calibrate(rows, answers, where, random_seed=random_seed)


def test_a_perfect_judge_is_used_and_keeps_nine_seeds_of_ten(tmp_path: Path) -> None:
    where = context(tmp_path, seeds(10))
    rule = judge(tmp_path, choices=["yes", "no"], accept="yes")
    found = scripted(rule, where, lambda asked, right: 0.6 + len(asked.text) / 1000 if right else 0.3)
    assert (found.auc, found.low, found.high, found.usable) == (1, 1, 1, True)
    assert found.seeds == 30
    assert found.sentence() == f"judge: AUC 1.00 [1.00, 1.00] on 30 seeds; drops below {found.threshold:.3g}"


def test_a_random_judge_is_not_used_but_for_one_time_in_twenty(tmp_path: Path) -> None:
    where = context(tmp_path, seeds(10))
    rule = judge(tmp_path, choices=["yes", "no"], accept="yes")
    used = 0
    for attempt in range(20):
        draw = random.Random(attempt)
        found = scripted(rule, where, lambda asked, right, draw=draw: draw.uniform(0.01, 0.99))  # type: ignore[misc]
        used += found.usable
        assert found.usable or "no better than chance; not used" in found.sentence()
    assert used <= 2


def test_silent_judgements_are_counted(tmp_path: Path) -> None:
    where = context(tmp_path, seeds(4))
    rule = judge(tmp_path)
    rows = rule.calibration_rows(where)
    failed = [Completion(request=r.key, finish_reason="error", error="down") for r in rule.ask(rows, where)]
    found = rule.calibrate(rows, failed, where)
    assert not found.usable
    assert found.sentence() == (
        "judge: it answered for no seed; not used; 36 judgements had no usable answer"
    )


def test_many_seeds_are_sampled_evenly(tmp_path: Path) -> None:
    rule = judge(tmp_path, calibration_seeds=9, wrong_labels=1)
    rows = rule.calibration_rows(context(tmp_path, seeds(40)))
    right = [r for r in rows if r.text.startswith(r.label)]
    assert len(rows) == 18
    assert sorted(r.label for r in right) == ["billing"] * 3 + ["delivery"] * 3 + ["repair"] * 3


def test_auc_by_hand() -> None:
    # right 0.9 beats 0.1, 0.5, 0.7; right 0.5 beats 0.1, ties 0.5, loses to 0.7: 4.5 of 6
    auc, low, high = auc_interval([0.9, 0.5], [[0.1, 0.5], [0.7]])
    assert auc == 4.5 / 6
    assert 0 <= low <= auc <= high <= 1


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.lists(st.floats(0, 1), min_size=1, max_size=3)), min_size=1, max_size=8
    )
)
def test_auc_equals_counting_every_pair(scores: list[tuple[float, list[float]]]) -> None:
    right, wrong = [r for r, _ in scores], [w for _, w in scores]
    pairs = [(r, w) for r in right for own in wrong for w in own]
    counted = sum((r > w) + (r == w) / 2 for r, w in pairs) / len(pairs)
    assert auc_interval(right, wrong)[0] == pytest.approx(counted)


def test_the_interval_is_that_of_seeds_not_of_scores() -> None:
    # ten copies of each wrong score add no knowledge, so they must not narrow the interval
    draw = random.Random(1)
    right, wrong = [draw.gauss(0.6, 0.2) for _ in range(40)], [[draw.gauss(0.4, 0.2)] for _ in range(40)]
    assert auc_interval(right, wrong) == pytest.approx(auc_interval(right, [w * 10 for w in wrong]))


def test_threshold_by_hand() -> None:
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert threshold_keeping(scores, 0.9) == 0.2
    assert threshold_keeping(scores, 1.0) == 0.1
    assert threshold_keeping(scores, 0.95) == 0.1


def test_a_few_seeds_prove_nothing() -> None:
    found = calibrate([0.9] * 4, [[0.1]] * 4, 0.9)
    assert not found.usable
    assert "too few to tell, 8 are needed" in found.sentence()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"accept": "yes"}, 'must be "label"'),
        ({"choices": ["yes", "no"], "accept": "yess"}, "did you mean 'yes'"),
        ({"choices": ["yes", " Yes"], "accept": "yes"}, "two or more different words"),
    ],
)
def test_a_judge_that_cannot_choose_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Judge.model_validate({"template": "j.j2", **fields})
