"""How an untuned model is asked: its prompts in every form, where its answers end, and which way dev items choose."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.load import load_run
from harness.config.run import Run
from harness.config.task import TaskFile
from harness.eval.plan import outline_scoring
from harness.eval.prompt_search import FIRST_ITEMS, MOST_ITEMS, choose, dev_items, most_tries, trial
from harness.eval.prompting import Asker, PromptForms, answer_room, even_shots, prompt_forms
from harness.metrics.unread import unread
from harness.records import FORMS, Completion, Example, Form, Item, Message, Score, Way
from harness.suites.answers import AnswersSuite
from harness.suites.generate import Ending, answer_ids
from harness.suites.labels import LabelsSuite
from harness.suites.suite import Suite
from tests.project import labelled, write_project

LISTED = "Name the topic:\n{% for k, d in labels.items() %}\n{{ k }}: {{ d }}\n{% endfor %}\n\n"
PAIRS = "{% for s in shots %}\nMessage: {{ s.text }}\nTopic: {{ s.label }}\n\n{% endfor %}\nMessage: {{ text }}\nTopic:"
LABELS = {"bike": "two wheels", "bike theft": "none left"}
SHOTS = (labelled("it squeaks", "bike"), labelled("it is gone", "bike theft"))


WHERE = Example(fields={"text": "where is it"})
CHATS: tuple[Form, ...] = ("student", "turns")


def project(root: Path, template: str, labels: dict[str, str] | None = None) -> PromptForms:
    (root / "untuned.j2").write_text(template)
    (root / "student.j2").write_text("{{ text }} ?")
    task = TaskFile(labels=labels or {}, system="Sort.", prompt="student.j2", untuned_prompt="untuned.j2")
    return prompt_forms(task, task.prompts(root))


def test_the_four_forms_hold_the_same_examples(tmp_path: Path) -> None:
    shown = project(tmp_path, LISTED + PAIRS, LABELS)
    plain = shown.prompt("completion", WHERE, SHOTS)
    assert isinstance(plain, str)
    assert plain.endswith("Message: it is gone\nTopic: bike theft\n\nMessage: where is it\nTopic:")
    system = Message(role="system", content="Sort.")
    assert shown.prompt("chat", WHERE, SHOTS) == (system, Message(role="user", content=plain))
    said = ("it squeaks ?", "bike", "it is gone ?", "bike theft", "where is it ?")
    student, turns = (shown.prompt(form, WHERE, SHOTS) for form in CHATS)
    assert not isinstance(student, str)
    assert not isinstance(turns, str)
    assert tuple(turn.content for turn in student) == ("Sort.", *said)
    preface = "Name the topic:\nbike: two wheels\nbike theft: none left"
    assert tuple(turn.content for turn in turns) == (f"Sort.\n\n{preface}", *said)
    assert [turn.role for turn in turns[1:]] == ["user", "assistant"] * 2 + ["user"]


ENDINGS = [  # template -> what follows an answer, how the next example would begin, what stands before the examples
    (LISTED + PAIRS, "\n\nMessage: example", "\nMessage:", "Name the topic:\nbike: two wheels\nbike theft: none left"),
    ("{% for s in shots %}{{ s.text }} -> {{ s.label }}\n{% endfor %}{{ text }} ->", "\nexample", "\n", ""),
    ("{% for s in shots %}{{ s.text }} = {{ s.label }} | {% endfor %}{{ text }} =", " | example", " |", ""),
    ("Sort: {{ text }}\nTopic:", "\n", "", "Sort:"),
    ("{% for s in shots %}{{ s.text | upper }}: {{ s.label }}\n{% endfor %}{{ text }}:", "\n", "", ""),
]


@pytest.mark.parametrize(("template", "after", "begins", "preface"), ENDINGS, ids=[str(i) for i in range(len(ENDINGS))])
def test_where_an_answer_ends_is_read_off_the_template(
    tmp_path: Path, template: str, after: str, begins: str, preface: str
) -> None:
    for labels in (LABELS, {}):
        shown = project(tmp_path, template, labels)
        assert (shown.ending.after.removesuffix(" text number two"), shown.ending.next_example) == (after, begins)
        assert shown.preface == (preface if labels or "Name" not in preface else "Name the topic:")


class Merging:
    """Two line ends are one token at a text's end and two before more text, as GPT-2's expression cuts them."""

    def text_ids(self, text: str) -> tuple[int, ...]:
        return tuple(zlib.crc32(part.encode()) for part in re.findall(r" ?\w+|[^\w\s]|\s+(?!\S)|\s", text))


@pytest.mark.parametrize("after", ["\n", "\n\nMessage: more", "\n\n\nmore", " | more"])
def test_an_answers_end_is_cut_into_tokens_as_the_examples_hold_it(after: str) -> None:
    engine: Any = Merging()
    plain = "Message: it squeaks\nTopic:"
    ids = answer_ids(engine, plain, "bike", Ending(after=after))
    assert len(ids) == 2
    assert engine.text_ids(f"{plain} bike{after}")[: len(engine.text_ids(plain)) + 2] == (*engine.text_ids(plain), *ids)
    theft = answer_ids(engine, plain, "bike theft", Ending(after=after))
    assert theft[:1] == ids[:1]
    assert theft != ids


def written(text: str, reason: str = "stop") -> Completion:
    return Completion.model_validate({"request": "r", "text": text, "finish_reason": reason})


CHAT = (Message(role="user", content="q"),)


def test_an_answer_ends_where_the_next_example_would_begin() -> None:
    free = Ending(after="\n\n", next_example="\nQuestion:", one_line=False)
    assert free.stop == ("\nQuestion:",)
    assert free.read("q", written("\n\n Two\nlines. \n\nQuestion: more"))[0] == "Two\nlines."
    assert Ending(next_example="\n", one_line=False).stop == (), "an answer may begin with white space"
    assert free.read("q", written('{"a":\n 1}\n\nThat is all'), end="\n\n")[0] == '{"a":\n 1}'
    line = Ending(after="\n\n", next_example="\nQuestion:")
    assert line.read("q", written("\n\n a red pump\nis there", "length")) == ("a red pump", False)
    assert line.read("q", written(" a red pump is", "length")) == ("a red pump is", True)
    assert line.read("q", written("5 * 3 = 15\nso 15"), end="")[0] == "5 * 3 = 15\nso 15"


@given(st.text(), st.sampled_from(("stop", "length")), st.sampled_from(("", "\n", "\n\n")), st.booleans())
def test_a_chat_is_never_cut_and_a_plain_text_loses_no_answer(text: str, reason: str, end: str, one_line: bool) -> None:
    ending = Ending(after="\n", next_example="\nQuestion:", one_line=one_line)
    assert ending.read(CHAT, written(text, reason), end) == (text, reason == "length")
    found, cut = ending.read("q", written(text, reason), end)
    assert found in text
    assert bool(found) == bool(text.strip())
    assert cut <= (reason == "length")


def test_examples_are_shown_evenly_and_as_many_as_fit() -> None:
    seeds = [labelled(f"{label} {i}", label) for label in "abc" for i in range(4)]

    def some(number: int, room: int = 99, free: bool = False) -> str:
        return "".join(shot.answer for shot in even_shots(seeds, number, lambda shots: len(shots) <= room, free))

    assert [some(number) for number in (1, 7, 99)] == ["abc", "abcabc", "abcabcabcabc"]
    assert some(99, room=8) == "abcabc"
    assert some(5, free=True) == "aaaab"
    assert (some(99, room=2), even_shots((), 4, lambda shots: True)) == ("", ())


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 60), st.integers(0, 60), st.booleans())
def test_as_many_examples_are_shown_as_the_way_says(labels: list[int], number: int, room: int, free: bool) -> None:
    """What fits of a number is found again by its own count, however uneven the labels: a way is what is asked."""
    seeds = [labelled(f"text {i}", f"label {label}") for i, label in enumerate(labels)]

    def some(number: int, room: int) -> tuple[Any, ...]:
        return even_shots(seeds, number, lambda shots: len(shots) <= room, free)

    shots = some(number, room)
    assert some(len(shots), room) == shots
    assert len(shots) <= max(number, 1 if free else len(set(labels)))
    assert len(shots) <= room
    assert {shot.id for shot in some(len(seeds), len(seeds))} == {seed.id for seed in seeds}, (
        "all seeds are within reach"
    )


class Words:
    """One token a word, and a context of 300."""

    max_length = 300

    def text_ids(self, text: str) -> tuple[int, ...]:
        return tuple(zlib.crc32(word.encode()) for word in text.split())


@pytest.mark.parametrize(("max_tokens", "gold", "room"), [(16, 2, 64), (256, 2, 256), (16, 120, 120)])
def test_examples_leave_room_for_the_longest_answer(tmp_path: Path, max_tokens: int, gold: int, room: int) -> None:
    engine: Any = Words()
    asked = [Item(text=f"item {i}", answers=("word " * length,)) for i, length in enumerate((1, gold))]
    assert answer_room(asked, engine, max_tokens) == room
    shown = project(tmp_path, PAIRS)
    pool = [labelled(f"text {i}", "a fine answer") for i in range(99)]
    asker = Asker(shown, "few_shot", asked, engine, answer_room(asked, engine, max_tokens), pool, lambda texts: {})
    way = asker.way("completion", 99)
    prompt = asker.prompt(way)(Item(text="item 0"))
    assert isinstance(prompt, str)
    used, example = len(engine.text_ids(prompt)), len(engine.text_ids("Message: text 0 Topic: a fine answer"))
    assert 300 - room - example < used <= 300 - room


def test_a_longest_choice_needs_room_too() -> None:
    engine: Any = Words()
    assert answer_room([Item(text="q", choices=("a", "word " * 90), gold=0)], engine, 16) == 90


# --- choosing --------------------------------------------------------------------------------------------------


def items(count: int) -> tuple[Item, ...]:
    return tuple(Item(text=f"item {i}", choices=("a", "b"), gold=0) for i in range(count))


LABELLED = Suite("s", LabelsSuite(kind="labels", items="s.jsonl"), items(80))


def written_suite(count: int) -> Suite:
    asked = tuple(Item(text=str(i), answers=("x",)) for i in range(count))
    return Suite("s", AnswersSuite(kind="answers", items="s.jsonl"), asked)


WRITTEN = written_suite(80)
FORM_NAMES: tuple[Form, ...] = tuple(FORMS)


def scores(asked: Sequence[Item], value: float, nll: float = 1.0, failed: int = 0, **values: float) -> list[Score]:
    good = {"accuracy": value, "gold_nll": nll} | values
    return [
        Score(item=item.id, split="dev", status="failed" if i < failed else "scored", values={} if i < failed else good)
        for i, item in enumerate(asked)
    ]


def way(form: Form, number: int) -> Way:
    return Way(form=form, shots=min(number, 20))


def test_forms_are_compared_first_and_then_numbers_in_the_best_form() -> None:
    worth = {("chat", 16): 0.5, ("chat", 4): 0.7, ("chat", 20): 0.6}
    seen: dict[Way, int] = {}
    written = written_suite(400)

    def score(one: Way, asked: Sequence[Item]) -> list[Score]:
        seen[one] = seen.get(one, 0) + len(asked)
        assert {item.split for item in asked} == {"dev"}
        return scores(asked, worth.get((one.form, one.shots), 0.1))

    found = choose(written, FORM_NAMES, (16, 4, 64, 99), way, score)
    every = len(dev_items(written))
    assert [(one.form, one.shots) for one in seen] == [(form, 16) for form in FORMS] + [("chat", 4), ("chat", 20)]
    assert {one.form: count for one, count in seen.items() if one.shots == 16} == {
        "completion": every,  # of equal ones the first goes on
        "chat": every,
        "turns": FIRST_ITEMS,
        "student": FIRST_ITEMS,
    }
    assert found.way == Way(form="chat", shots=4)
    assert {one.way: one.items for one in found.tried} == seen
    assert found.items == every
    assert "asked as a chat, 4 examples: chosen on" in found.sentence
    assert "a completion, 16 examples 0.100;" in found.sentence
    assert f"examples as turns, 16 examples 0.100 on {FIRST_ITEMS};" in found.sentence


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(FORM_NAMES), min_size=1, unique=True),
    st.lists(st.integers(1, 40), min_size=1, max_size=5, unique=True),
    st.integers(1, 300),
    st.randoms(use_true_random=False),
)
def test_the_better_half_of_the_ways_is_tried_on_all_dev_items(
    forms: list[Form], numbers: list[int], count: int, chance: Any
) -> None:
    """No more is asked than the dry run says, no item twice, and the way taken was tried as long as any."""
    suite = written_suite(count)
    asked_of: dict[Way, list[str]] = {}

    def score(one: Way, asked: Sequence[Item]) -> list[Score]:
        asked_of.setdefault(one, []).extend(item.id for item in asked)
        return scores(asked, chance.random())

    found = choose(suite, forms, numbers, way, score)
    every, first = len(dev_items(suite)), min(FIRST_ITEMS, len(dev_items(suite)))
    on_first, on_all = most_tries(forms, numbers)
    assert all(len(set(ids)) == len(ids) for ids in asked_of.values())
    assert sum(map(len, asked_of.values())) <= on_first * first + (on_all + 1) * every
    assert len(asked_of) <= on_first + on_all + 1
    if asked_of and every:
        assert len(asked_of[found.way]) == every


@pytest.mark.parametrize(
    ("forms", "numbers", "tries"),
    [(1, 1, (0, 0)), (4, 1, (2, 1)), (4, 2, (2, 2)), (3, 2, (1, 2)), (4, 5, (3, 4)), (1, 4, (1, 2))],
)
def test_what_is_tried_at_most_comes_about(forms: int, numbers: int, tries: tuple[int, int]) -> None:
    """The first form wins, and the larger the number the better: the numbers tried to the end are all new but one."""
    names, counts = FORM_NAMES[:forms], tuple(range(numbers))
    assert most_tries(names, counts) == tries
    asked_of: Counter[Way] = Counter()

    def score(one: Way, asked: Sequence[Item]) -> list[Score]:
        asked_of[one] += len(asked)
        return scores(asked, one.shots / 10 + (one.form == names[0]))

    suite = written_suite(400)
    choose(suite, names, counts, way, score)
    every = len(dev_items(suite))
    assert every > FIRST_ITEMS
    on_all = sum(count == every for count in asked_of.values())
    if asked_of:
        assert (len(asked_of) - on_all, on_all - 1) == tries


def test_equal_values_are_decided_by_the_gold_answers_and_then_by_order() -> None:
    nll = {"completion": 3.0, "chat": 2.0, "turns": 2.0, "student": 4.0}
    found = choose(WRITTEN, FORM_NAMES, (0,), way, lambda one, asked: scores(asked, 0.5, nll[one.form]))
    assert found.way.form == "chat"


def test_a_way_in_which_items_fail_is_taken_last() -> None:
    found = choose(
        WRITTEN, ("chat", "turns"), (0,), way, lambda one, asked: scores(asked, 0.9, 1.0, one.form == "chat")
    )
    assert found.way.form == "turns"
    assert "(1 failed)" in found.sentence


def test_labels_may_be_read_either_way_as_in_the_headline() -> None:
    likely = {"completion": 0.8, "chat": 0.0}
    found = choose(
        LABELLED,
        ("completion", "chat"),
        (0,),
        way,
        lambda one, asked: scores(asked, 0.2 + (one.form == "chat") / 2, choice_accuracy=likely[one.form]),
    )
    assert found.way.form == "completion"
    assert found.metrics == ("accuracy", "choice_accuracy")


def test_one_way_is_not_tried() -> None:
    def score(one: Way, asked: Sequence[Item]) -> list[Score]:
        raise AssertionError("there is nothing to choose")

    found = choose(WRITTEN, ("chat",), (0,), way, score)
    assert (found.way.form, found.sentence) == ("chat", "asked as a chat")


def test_a_choice_looks_at_dev_items_only_and_at_so_many() -> None:
    many = Suite("s", LABELLED.spec, items(9 * MOST_ITEMS))
    found = dev_items(many)
    assert len(found) == MOST_ITEMS
    assert {item.split for item in found} == {"dev"}
    turned = Suite("s", many.spec, tuple(reversed(many.items)))
    assert dev_items(turned) == found, "the order of a suite decides nothing"
    assert trial(way("chat", 0), [], ("accuracy",)).value is None


def run_with(root: Path, *settings: str, form: str = "") -> Run:
    path = write_project(root, "smollm2-135m-instruct")
    if form:
        task = root / "prompts/shop/task.yaml"
        task.write_text(f"{task.read_text()}untuned_form: {form}\n")
    return load_run(path, list(settings))


def test_a_task_file_may_pin_the_form(tmp_path: Path) -> None:
    def ways(run: Run, prompting: str) -> tuple[tuple[Form, ...], tuple[int, ...]]:
        return outline_scoring(run).ways(prompting)

    assert ways(run_with(tmp_path / "a"), "zero_shot") == (FORM_NAMES, (0,))
    assert ways(run_with(tmp_path / "b", form="chat"), "zero_shot") == (("chat",), (0,))
    assert ways(run_with(tmp_path / "c"), "few_shot")[1] == (16, 4, 60), "it has 60 seeds"
    assert ways(run_with(tmp_path / "d", "eval.retrieved=3"), "retrieval")[1] == (3,)


# --- what could not be read ------------------------------------------------------------------------------------


def answers(outputs: Sequence[str], tokens: int = 9, truncated: bool = False) -> list[Score]:
    return [
        Score(
            item=str(i),
            split="test",
            status="scored" if text == "good" else "unparsed",
            values={"empty": float(not text)},
            output=text,
            answer_tokens=tokens,
            truncated=truncated,
        )
        for i, text in enumerate(outputs)
    ]


def test_most_answers_empty_or_unread_is_said_with_a_cause() -> None:
    assert unread(answers(["good", ""])) == ""
    assert unread([]) == ""
    said = unread(answers(["", "", "good"], tokens=1))
    assert "2 of 3 answers" in said
    assert "first token" in said
    assert "max_tokens" in unread(answers(["I think that", "good", "Well, perhaps"], truncated=True))
    assert "'I think that'" in unread(answers(["I think that", "good", "Well, perhaps"]))
    measured = [Score(item="1", split="test", status="scored", values={"accuracy": 1.0})]
    assert unread(measured) == "", "a choice that was measured is no empty answer"
    failed = [score.model_copy(update={"status": "failed"}) for score in answers(["", ""])]
    assert unread([*failed, *answers(["good"])]) == ""
