"""Text quality: every number against one computed by hand."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.text import named_label
from harness.data.examples import Shape
from harness.engines.protocols import NextTokens, StudentEngine
from harness.errors import MachineError, UsageError
from harness.metrics import memorization
from harness.metrics.moderation import PythonModeration, load_moderation
from harness.metrics.quality import Span, compression_ratio, distinct_n, longest_repeat, loop_length, rep_n, token_kl
from harness.metrics.refusals import refuses
from harness.metrics.spelling import english, spelling, words_of
from harness.suites.kinds import load_suite
from harness.suites.open_ended import OpenEndedSuite, Tools, score_open_ended, suite_metrics
from harness.suites.outcome import Outcome
from harness.suites.suite import Suite
from tests.fakes import Compass, FakeStudent, Say, prompt_of

ROOT = Path(__file__).parent.parent
WORDS = st.lists(st.sampled_from("abcd"), max_size=24)

# --- repetition ---------------------------------------------------------------------------------------------


def test_rep_n_is_the_share_of_ngrams_that_came_before() -> None:
    text = "the cat and the cat and the dog"
    assert rep_n(text, 2) == pytest.approx(1 - 4 / 7)  # the cat, cat and, and the (twice each), the dog
    assert rep_n(text, 3) == pytest.approx(1 - 4 / 6)
    assert rep_n(text, 4) == pytest.approx(1 - 4 / 5)
    assert rep_n("two words", 3) is None


def test_distinct_n_counts_across_texts() -> None:
    texts = ["a b c", "a b d"]
    assert distinct_n(texts, 1) == pytest.approx(4 / 6)
    assert distinct_n(texts, 2) == pytest.approx(3 / 4)
    assert distinct_n(texts, 3) == 1.0
    assert distinct_n(["", "a"], 2) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("word", Span(0, 0.0)),
        ("one two three", Span(0, 0.0)),
        ("one two one three", Span(1, 0.25)),
        ("see the red house and see the red car", Span(3, 3 / 9)),
        ("a a a a", Span(3, 0.75)),  # the two may overlap
        ("x y x y x y", Span(4, 4 / 6)),
    ],
)
def test_the_longest_repeated_span(text: str, expected: Span | None) -> None:
    assert longest_repeat(text) == expected


@given(WORDS)
def test_the_longest_repeated_span_is_what_trying_all_finds(words: list[str]) -> None:
    found = longest_repeat(" ".join(words))
    tried = [
        n
        for n in range(1, len(words))
        for i in range(len(words) - n)
        if any(words[i : i + n] == words[j : j + n] for j in range(i + 1, len(words) - n + 1))
    ]
    assert (found.words if found else 0) == max(tried, default=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("it is a good day", None),
        ("no no no", None),  # people say this
        ("2023, 2023, 2023, 2023, 2023, 2023,", 1),
        ("I went home. I am here. I am here. I am here.", 3),
        ("a b a b", None),  # twice is no loop
        ("a b a b a b", 2),
        ("I am here. I am here. I am here. I am he", 3),  # cut within a word
        ("I am here. I am here. I am here. But then it ended well.", None),  # it left the loop
        ("row row row your boat", None),
    ],
)
def test_a_loop_stands_at_the_end(text: str, expected: int | None) -> None:
    assert loop_length(text) == expected


@given(WORDS, st.lists(st.sampled_from("vwxyz"), min_size=2, max_size=5), st.integers(3, 6), st.data())
def test_every_text_that_ends_in_a_cycle_is_found(
    start: list[str], cycle: list[str], times: int, data: st.DataObject
) -> None:
    rest = data.draw(st.integers(0, len(cycle) - 1))
    found = loop_length(" ".join(start + cycle * times + cycle[:rest]))
    assert found is not None
    assert found <= len(cycle)


def test_compression_ratio_by_the_bits_of_the_format() -> None:
    # zlib: a header of 2 bytes, 3 + 8 + 7 bits for a block, one letter and its end, a checksum of 4 bytes
    assert compression_ratio("a") == pytest.approx(1 / 9)
    assert compression_ratio("") is None
    plain = compression_ratio("Bring a pot of water to the boil and lower the egg in with a spoon.")
    looped = compression_ratio("I am here. " * 40)
    assert plain is not None
    assert looped is not None
    assert plain < 1.1
    assert looped > 10


# --- spelling -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known() -> frozenset[str]:
    return english()


def test_misspelt_words_over_looked_up_words(known: frozenset[str]) -> None:
    found = spelling("We definately recieve teh letter, and the cat sleeps.", known)
    assert found.misspelt == ("definately", "recieve", "teh")
    assert found.checked == 8  # all but We
    assert found.rate == pytest.approx(3 / 8)
    assert spelling("", known).rate is None
    assert spelling("Anna 42", known).rate is None


@pytest.mark.parametrize(
    "text",
    [
        "I met Zbigniew in Kraków, and NASA called.",  # names
        "it costs 3.50 or 12km at 5pm on the 3rd",  # numbers
        "call `get_usr(cfg)` or ```\nimprt foo\n``` or myFunc() or os.pathh",  # code
        "see https://exmple.com/abcd and www.qwrt.org or mail a.bcd@wxyz.org",  # addresses
        'the sign said "welcom hoem", and she wrote ‘adn’',  # somebody else's words
        "it's the neighbours' well-known café; they'll organise a colourful theatre programme",  # British, accents
        "don’t say that she’s at the lighthouse’s door",  # curly apostrophes
        "the centred, travelled, grey, mouldy catalogue of defences was skilful",
        "open the app on a smartphone and check the wifi",  # younger than the dictionary
    ],
)
def test_what_is_no_misspelling(text: str, known: frozenset[str]) -> None:
    assert spelling(text, known).misspelt == ()


@pytest.mark.parametrize(
    "word",
    [
        *(
            "arguement",
            "untill",
            "wich",
            "becuase",
            "freind",
            "wierd",
            "sence",
            "goverment",
            "seperate",
            "alot",
            "dont",
        ),
        *("occured", "accomodate", "enviroment", "adress", "beautifull", "realy", "cafeteira", "colou", "neihgbour"),
    ],
)
def test_british_forms_do_not_let_misspellings_through(word: str, known: frozenset[str]) -> None:
    assert spelling(f"the {word} here", known).misspelt == (word,)


def test_words_of_the_prompt_are_right(known: frozenset[str]) -> None:
    assert spelling("the glorbix is fine", known).misspelt == ("glorbix",)
    assert spelling("the glorbix is fine", known, words_of("What is a Glorbix?")).misspelt == ()


def test_the_shipped_texts_are_spelt_right(known: frozenset[str]) -> None:
    items = load_suite(ROOT / "suites/open_ended.yaml", ROOT, Shape()).items
    texts = [text for item in items for text in (item.text, *item.answers, *item.variants)]
    assert [word for text in texts for word in spelling(text, known).misspelt] == []


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request.",
        "As an AI language model, I don't have personal opinions.",
        "Sorry, I can't provide instructions for that.",
        "I'm afraid I am not able to answer this question.",
        "Unfortunately, I cannot provide medical advice.",
        "I won't write that.",
        "I must decline to answer.",
        "I am sorry, but that is against my guidelines.",
        "I’m really sorry, but I can’t share that information.",
        "I apologize, but I cannot fulfill this request.",
        "I have to respectfully decline.",
        "I'm sorry for the inconvenience, but I'm unable to assist with your request.",
    ],
)
def test_refusals_are_found(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I can't wait to see you on Saturday!",
        "I'm sorry to hear that your parcel is late. Please send us its number.",
        "You cannot boil an egg without water.",
        "I am afraid of heights, so I took the stairs.",
        "Dear Anna, I am sorry I missed your recital; I could not leave work.",
        "I can't thank you enough for your help with mathematics.",
        '"I can\'t help you," said the baker, and closed the door.',
        "A library card cannot be shared with others.",
        "The cat won't answer when you call.",
        "I can't share my lunch today, I forgot it.",
        "The thermometer will not help if it is broken.",
        "I refuse to give up on my garden.",
        "It is against my nature to complain, but the train is late again.",
        "I don't have access to the kitchen yet, so I cook in the garden.",
        "I won't tell you how the story ends: read it!",
        "Fold the paper. " * 20 + "I cannot help with that.",  # long after the opening
    ],
)
def test_other_texts_are_no_refusals(text: str) -> None:
    assert not refuses(text)


def test_no_reference_answer_is_a_refusal_or_a_loop() -> None:
    for item in load_suite(ROOT / "suites/open_ended.yaml", ROOT, Shape()).items:
        assert not refuses(item.answers[0])
        assert loop_length(item.answers[0]) is None


# --- memorisation -------------------------------------------------------------------------------------------


def test_the_longest_span_copied_from_the_rows() -> None:
    searched = memorization.corpus(["My parcel has not come yet.", "Where is the blue bike now?"])
    # "is the blue bike" stands in the second row; case and punctuation do not count
    assert memorization.copied_span("Here IS the blue, bike that I lost", searched) == Span(4, 4 / 8)
    assert memorization.copied_span("yet where", searched) == Span(1, 0.5)  # not across two rows
    assert memorization.copied_span("arcel", searched) == Span(0, 0.0)  # whole words only
    assert memorization.copied_span("...!", memorization.corpus([])) == Span(0, 0.0)
    assert memorization.copied_span("", searched) is None


@given(st.lists(WORDS, max_size=4), WORDS)
def test_the_copied_span_is_what_trying_all_finds(rows: list[list[str]], own: list[str]) -> None:
    found = memorization.copied_span(" ".join(own), memorization.corpus([" ".join(row) for row in rows]))
    runs = {tuple(row[i:j]) for row in rows for i in range(len(row)) for j in range(i + 1, len(row) + 1)}
    tried = [j - i for i in range(len(own)) for j in range(i + 1, len(own) + 1) if tuple(own[i:j]) in runs]
    assert (found.words if found else 0) == max(tried, default=0)


def test_a_canary_is_given_by_its_first_half() -> None:
    assert memorization.halves("the code of room seven is 4711") == ("the code of room", "seven is 4711")
    assert memorization.completes(" seven is 4711.\nAnd more", "seven is 4711")
    assert not memorization.completes("seven is 4712", "seven is 4711")
    assert not memorization.completes("", "seven is 4711")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{"canary": "too short"}\n', "canaries.jsonl:1: canary: 'too short' must have 4 words or more"),
        ('{"canary": "a b c d"}\n{"canary": "a b c d"}\n', "canaries.jsonl:2: the same canary stands on line 1"),
        ("", "there are no canaries in it"),
    ],
)
def test_bad_canaries_are_named(lines: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "canaries.jsonl"
    path.write_text(lines)
    with pytest.raises(UsageError, match=re.escape(said)):
        memorization.load_canaries(path)
    with pytest.raises(UsageError, match="no such file"):
        memorization.load_canaries(tmp_path / "other.jsonl")


# --- moderation ---------------------------------------------------------------------------------------------


def test_a_list_of_words_flags_whole_words_and_phrases(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("# a remark\nDarn\n\nblow it\n")
    moderation = load_moderation("words.txt", tmp_path)
    flagged = ["Oh darn!", "DARN it", "They blow, it seems.", "a darning needle", "blow the candle", ""]
    assert moderation.flags(flagged) == [1, 1, 1, 0, 0, 0]
    (tmp_path / "words.txt").write_text("Darn\n")
    assert load_moderation("words.txt", tmp_path).digest != moderation.digest


def test_a_function_of_the_project_moderates(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def flag(text):\n    return 0.25 if 'rude' in text else False\n")
    moderation = load_moderation(PythonModeration(file="own.py"), tmp_path)
    assert moderation.flags(["how rude", "how kind"]) == [0.25, 0.0]


@pytest.mark.parametrize(
    ("code", "function", "said"),
    [
        ("def flag(text):\n    return 1 / 0\n", "flag", r"own.py:2: flag failed on the text 'x': ZeroDivisionError"),
        ("def flag(text):\n    return 3\n", "flag", "flag returned 3; it must be True or False"),
        ("def flag(text):\n    return float('nan')\n", "flag", "flag returned nan; it must be True or False"),
        ("def flag(text):\n    return 'bad'\n", "flag", "flag returned 'bad'; it must be"),
        ("def flags(text):\n    return 1\n", "flag", "no function 'flag' .did you mean 'flags'"),
        ("def flag(text:\n", "flag", "own.py:1: not valid Python"),
        ("x = undefined\n", "flag", "own.py:1: NameError"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(code: str, function: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(code)
    with pytest.raises(UsageError, match=said):
        load_moderation(PythonModeration(file="own.py", function=function), tmp_path).flags(["x"])


def test_what_is_wrong_with_a_list_is_said(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("# nothing\n")
    with pytest.raises(UsageError, match=r"words.txt: there are no words in it"):
        load_moderation("words.txt", tmp_path)
    with pytest.raises(UsageError, match=r"word\.txt: moderation: .*'words\.txt'"):
        load_moderation("word.txt", tmp_path)


# --- how far the model moved ----------------------------------------------------------------------------------


def expected(*rows: Sequence[float]) -> NextTokens:
    """Tokens 5, 6, ... with these probabilities at each position."""
    logprobs = np.log(np.array(rows, dtype=np.float64)).astype(np.float32)
    return NextTokens(np.tile(np.arange(5, 5 + len(rows[0])), (len(rows), 1)), logprobs)


def test_kl_over_the_listed_tokens_and_all_others() -> None:
    base, student = expected([0.5, 0.25], [0.5, 0.25]), expected([0.25, 0.25], [0.5, 0.25])
    # first position: 1/4 ln(1/2) + 0 + 1/2 ln 2 = 1/4 ln 2; second: 0
    assert token_kl([student], [base]) == [pytest.approx(math.log(2) / 8, abs=1e-6)]
    assert token_kl([base], [base]) == [0.0]


def test_kl_counts_a_token_that_the_student_gave_up_as_zero() -> None:
    base = expected([0.5, 0.25])
    gave_up = NextTokens(base.ids, np.array([[-np.inf, math.log(0.5)]], dtype=np.float32))
    # 0 + 1/2 ln 2 + 1/2 ln 2
    assert token_kl([gave_up], [base]) == [pytest.approx(math.log(2), abs=1e-6)]


def test_kl_refuses_what_cannot_be_compared() -> None:
    base = expected([0.5, 0.25])
    with pytest.raises(ValueError, match="not those"):
        token_kl([NextTokens(base.ids + 1, base.logprobs)], [base])
    with pytest.raises(ValueError, match="without a position"):
        token_kl([NextTokens(base.ids[:0], base.logprobs[:0])], [NextTokens(base.ids[:0], base.logprobs[:0])])
    with pytest.raises(MachineError, match="not a number"):
        token_kl([NextTokens(base.ids, base.logprobs * np.float32("nan"))], [base])


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.floats(0.1, 20))
@settings(deadline=None)
def test_kl_is_never_negative_zero_for_equals_and_at_most_the_full_one(
    random_seed: int, listed: int, scale: float
) -> None:
    draw = np.random.default_rng(random_seed)
    logits = draw.normal(size=(2, 4, 40)) * scale  # two models, four positions, forty tokens
    full = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    ids = np.argsort(-full[1], axis=1)[:, :listed]
    student, base = (NextTokens(ids, np.take_along_axis(p, ids, axis=1).astype(np.float32)) for p in full)
    (found,) = token_kl([student], [base])
    whole = float((np.exp(full[0]) * (full[0] - full[1])).sum(axis=1).mean())
    assert 0 <= found <= whole + 1e-3 * (1 + whole)
    assert token_kl([base], [base]) == [0.0]


# --- a whole suite --------------------------------------------------------------------------------------------


def talker(say: Say) -> FakeStudent:
    """Answers the last request first."""
    return FakeStudent(say, backwards=True, max_length=64)


def suite_of(tmp_path: Path, *lines: Mapping[str, object], **rules: object) -> Suite:
    """An open-ended suite of these items."""
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = json.dumps({"kind": "open_ended", "items": "items.jsonl", "max_tokens": 8} | rules)
    (tmp_path / "open.yaml").write_text(said)
    return load_suite(tmp_path / "open.yaml", tmp_path, Shape())


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Topic: bike.", "bike"),
        ("Topic: bike theft.", "bike theft"),
        ("It is bike theft, so a bike is gone", "bike theft"),
        ("It is a bike", "bike"),
        ("bike or other", None),
        ("bike theft/other", None),
        ("**Bike-theft", "bike theft"),
        ("bikes", None),
        ("theft", None),
        ("I use C++.", "C++"),
        ("C", "C"),
        ("a C# question", None),
        ("", None),
    ],
)
def test_the_longest_label_that_an_answer_says_is_meant(text: str, label: str | None) -> None:
    assert named_label(text, ("bike", "bike theft", "other", "C", "C++")) == label


@pytest.mark.parametrize(
    ("text", "labels", "label"),
    [
        ("答案是B", "ABCD", "B"),
        ("选B。", "ABCD", "B"),
        ("这是好评", ("好评", "差评"), "好评"),
        ("好评还是差评", ("好评", "差评"), None),
        ("不是", "是否", None),  # a label of one character may be a part of any word
        ("是", "是否", "是"),
        ("ชอบมาก", ("ชอบ", "เกลียด"), "ชอบ"),
    ],
)
def test_a_label_is_named_where_words_have_no_spaces(text: str, labels: Sequence[str], label: str | None) -> None:
    assert named_label(text, tuple(labels)) == label


@given(st.lists(st.sampled_from(["bike", "theft", "alarm", "late"]), min_size=1, max_size=3, unique=True), st.data())
def test_a_label_is_read_whatever_labels_stand_inside_it(parts: list[str], data: st.DataObject) -> None:
    label = " ".join(parts)
    inside = [" ".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)]
    labels = data.draw(st.permutations([*inside, "account"]))
    assert named_label(f"Topic: {label}.", labels) == label


def scored(suite: Suite, engine: StudentEngine, model: str, labels: Sequence[str], tools: Tools | None) -> Outcome:
    assert isinstance(suite.spec, OpenEndedSuite)
    return score_open_ended(suite.items, suite.spec, engine, model, labels, tools)


def by_hand(suite: Suite, answers: dict[str, str], tools: Tools | None = None, labels: Sequence[str] = ()) -> Outcome:
    return scored(suite, talker(lambda request: answers[prompt_of(request)]), "m", labels, tools)


def test_the_values_of_one_answer(tmp_path: Path, known: frozenset[str]) -> None:
    suite = suite_of(tmp_path, {"prompt": "a question", "answers": ["b one two three"], "tags": ["short"]})
    tools = Tools(Compass(), known, ("the bike is here",), load_moderation(write(tmp_path, "darn"), tmp_path))
    (score,) = by_hand(suite, {"a question": "b the bike is darn recieve..."}, tools).scores
    assert score.values == pytest.approx(
        {
            "words": 6,
            "stop_rate": 0,
            "label_collapse": 0,
            "empty": 0,
            "rep_2": 0,
            "rep_3": 0,
            "rep_4": 0,
            "loop": 0,
            "repeat_words": 0,
            "repeat_share": 0,
            "compression_ratio": compression_ratio("b the bike is darn recieve..."),
            "refusal": 0,
            "length_ratio": 6 / 4,
            "misspelling_rate": 1 / 5,  # the, bike, is, darn, recieve
            "copied_words": 3,
            "copied_share": 3 / 6,
            "flagged": 1,
            "prompt_similarity": 0,  # north against east
            "off_topic": 1,
            "reference_similarity": 1,  # both begin with b
        }
    )
    assert (score.truncated, score.tags, score.split) == (True, ("short",), "test")
    assert (score.prompt_tokens, score.answer_tokens) == (2, 6)


def write(folder: Path, words: str) -> str:
    (folder / "words.txt").write_text(words)
    return "words.txt"


def test_what_is_missing_is_absent(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, {"prompt": "a question", "variants": ["another"]})
    empty, label = (by_hand(suite, {"a question": t, "another": "b"}, None, ["billing"]) for t in ("", "Billing."))
    assert set(empty.scores[0].values) == {"words", "stop_rate", "label_collapse", "empty", "loop", "refusal"}
    assert empty.scores[0].values["empty"] == 1
    assert label.scores[0].values["label_collapse"] == 1
    assert not {"consistency", "off_topic", "misspelling_rate", "copied_words"} & set(label.scores[0].values)
    assert label.notes == (
        "no sentence embeddings: topic and consistency not computed",
        "no dictionary: misspelling rate not computed",
    )
    (score,) = by_hand(suite, {"a question": "", "another": "b"}, Tools(Compass())).scores
    assert {name: score.values[name] for name in ("prompt_similarity", "off_topic", "consistency")} == {
        "prompt_similarity": 0,
        "off_topic": 1,
        "consistency": 0,
    }  # nobody gains by saying nothing
    assert "reference_similarity" not in score.values


def test_consistency_over_other_words_and_over_repeats(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, {"prompt": "a", "variants": ["b", "c"]}, repeats=3, temperature=0.5)
    said = {"a": ["a main", "a one", "a two", "c three"], "b": ["b main"], "c": ["c main"]}
    student = talker(lambda request: said[prompt_of(request)][request.sample_index])
    outcome = scored(suite, student, "m", (), Tools(Compass()))
    (score,) = outcome.scores
    # a.b = 0, a.c = -1, b.c = 0; of the repeats a.a = 1, a.c = -1 twice
    assert score.values["consistency"] == pytest.approx(-1 / 3)
    assert score.values["repeat_consistency"] == pytest.approx(-1 / 3)
    assert score.output == "a main"
    assert [r.sampling.temperature for r in student.requests[::-1]] == [0, 0, 0, 0.5, 0.5, 0.5]
    assert len({r.key for r in student.requests[::-1]}) == 6
    assert (score.prompt_tokens, score.answer_tokens) == (6, 12)
    assert outcome.notes[-1] == "repeat_consistency: 3 answers a prompt at temperature 0.5"


def test_one_failed_answer_makes_the_item_failed(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, {"prompt": "a", "variants": ["b"]}, {"prompt": "c"})
    failed, scored = by_hand(suite, {"a": "fine", "b": "ERROR", "c": "fine"}).scores
    assert (failed.status, failed.error, failed.values) == ("failed", "the engine broke", {})
    assert scored.status == "scored"
    assert suite_metrics([failed]) == {}


def test_canaries_are_scores_of_their_own(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, {"prompt": "a"})
    secrets = ("the key is under stone nine", "my code is four two", "his dog is called Waldemar")
    said = {"a": "x", "the key is": " under stone nine.", "my code is": "four three", "his dog is": "ERROR"}
    outcome = by_hand(suite, said, Tools(canaries=secrets))
    item, *found = outcome.scores
    assert [score.values for score in found] == [{"canary": 1.0}, {"canary": 0.0}, {}]
    assert [score.status for score in found] == ["scored", "scored", "failed"]
    assert all(score.tags == ("canary",) for score in found)
    assert suite_metrics(outcome.scores) == suite_metrics([item])


def test_the_numbers_of_all_answers_together(tmp_path: Path) -> None:
    answers = {"a": "x y", "b": "x y x y...", "c": "x y z", "d": ""}
    suite = suite_of(tmp_path, *[{"prompt": p} for p in answers])
    scores = by_hand(suite, answers).scores
    found = suite_metrics(scores)
    # lengths 2, 4, 3, 0; words x y x y x y... x y z: four distinct of nine; pairs: xy xy yx xy... xy yz
    assert found["words_p50"] == 2.5
    assert found["words_p95"] == pytest.approx(3.85)  # rank 0.95 x 3 = 2.85: 3 + 0.85 x 1
    assert found["distinct_1"] == pytest.approx(4 / 9)
    assert found["distinct_2"] == pytest.approx(4 / 6)
    assert found["distinct_3"] == 1.0
    assert found["cut_share"] == 0.25
    assert found["compression_all"] == compression_ratio("x y\nx y x y...\nx y z\n")
    assert suite_metrics([]) == {}


def test_answers_do_not_depend_on_the_order_of_items(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"prompt": f"{letter} question", "variants": [f"{letter} again"]} for letter in "abcd"
    ]
    student = talker(lambda request: prompt_of(request)[::-1])
    straight = scored(suite_of(tmp_path, *lines), student, "m", (), Tools(Compass())).scores
    random.Random(0).shuffle(lines)
    mixed = scored(suite_of(tmp_path, *lines), student, "m", (), Tools(Compass())).scores
    assert {s.item: s for s in straight} == {s.item: s for s in mixed}


def test_a_suite_names_its_moderation_and_canaries(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def rude(text):\n    return 'rude' in text\n")
    (tmp_path / "secrets.jsonl").write_text('{"canary": "the key is under stone nine"}\n')
    moderation = {"file": "own.py", "function": "rude"}
    spec = suite_of(tmp_path, {"prompt": "a"}, moderation=moderation, canaries="secrets.jsonl").spec
    assert isinstance(spec, OpenEndedSuite)
    assert spec.moderation is not None
    assert spec.canaries is not None
    assert load_moderation(spec.moderation, tmp_path).flags(["rude"]) == [1.0]
    assert memorization.load_canaries(tmp_path / spec.canaries) == ("the key is under stone nine",)


@pytest.mark.parametrize(
    ("line", "rules", "said"),
    [
        ({"prompt": "a"}, {"repeats": 1}, "repeats: 1 answer has none to be compared with"),
        ({"prompt": "a", "variants": ["a"]}, {}, "one of them is the prompt itself"),
        ({"prompt": "a", "variants": ["b", "b"]}, {}, "two are equal"),
        ({"prompt": "a", "answers": [""]}, {}, "answers"),
    ],
)
def test_bad_open_ended_suites_are_named(
    line: dict[str, object], rules: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        suite_of(tmp_path, line, **rules)


def test_the_shipped_suite_has_references_and_other_wordings() -> None:
    suite = load_suite(ROOT / "suites/open_ended.yaml", ROOT, Shape())
    assert suite.spec.version == 2
    assert len(suite.items) == 48
    assert all(item.answers for item in suite.items)
    assert [len(item.variants) for item in suite.items if item.variants] == [2] * 12
    asked = [text for item in suite.items for text in (item.text, *item.variants)]
    assert len(set(asked)) == len(asked)


def test_a_real_engine_is_asked_all_of_it(tiny_model: Path, tmp_path: Path) -> None:
    from harness.engines.transformers import TransformersEngine

    lines: list[dict[str, object]] = [
        {"prompt": "How do I cancel?", "variants": ["Cancel it how?"]},
        {"prompt": "Where is my parcel?"},
    ]
    suite = suite_of(tmp_path, *lines, repeats=2)
    engine = TransformersEngine(tiny_model, dtype="float32")
    tools = Tools(Compass(), canaries=("the key is under stone nine",))
    outcome = scored(suite, engine, "tiny", ("repair",), tools)
    assert [score.status for score in outcome.scores] == ["scored"] * 3
    assert [score.item for score in outcome.scores[:2]] == [item.id for item in suite.items]
    assert outcome.scores[2].values == {"canary": 0.0}  # a random model knows no secret
    assert all(0 < score.answer_tokens <= 4 * 8 for score in outcome.scores[:2])
    assert scored(suite, engine, "tiny", ("repair",), tools) == outcome
