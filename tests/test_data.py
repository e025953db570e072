"""The shipped task and suites: no keyword game, nothing shared, no answer to be had without the question."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from harness.config.load import load_run
from harness.config.run import Run
from harness.core.text import jaccard, normalise, shingles
from harness.metrics.abstention import abstains
from harness.metrics.answers import contains
from harness.records import Item, Row, Score
from harness.suites.choice import ChoiceSuite
from harness.train.sizes import nested
from tests.project import rows_given

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run() -> Run:
    return load_run(ROOT / "runs/helpdesk.yaml")


@pytest.fixture(scope="module")
def handbook() -> Run:
    return load_run(ROOT / "runs/handbook.yaml")


def handbook_rows(run: Run) -> tuple[Row, ...]:
    assert run.file.augment.rows_file
    return rows_given(run)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def grams(text: str, n: int = 5) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


def gold(item: Item) -> str:
    assert item.gold is not None
    return item.choices[item.gold]


def chance_limits(n: int) -> tuple[float, float]:
    half = 1.96 * math.sqrt(0.25 * 0.75 / n)
    return 0.25 - half, 0.25 + half


def test_sizes_and_balance(run: Run) -> None:
    assert Counter(s.answer for s in run.seeds) == dict.fromkeys(run.task.labels, 8)
    items = run.suites["helpdesk"].items
    assert len(items) >= 400
    assert set(Counter(map(gold, items)).values()) == {56}
    assert len(run.suites["open_ended"].items) >= 40
    assert len(run.suites["general_knowledge"].items) >= 150
    dev = [item for item in items if item.split == "dev"]
    assert 0.18 < len(dev) / len(items) < 0.32


@pytest.mark.parametrize("ngrams", [(1, 1), (1, 2)])
def test_tfidf_on_the_seeds_does_not_solve_it(run: Run, ngrams: tuple[int, int]) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(ngram_range=ngrams), LogisticRegression(max_iter=1000))
    model.fit([s.text for s in run.seeds], [s.answer for s in run.seeds])
    items = run.suites["helpdesk"].items
    right = [p == gold(i) for p, i in zip(model.predict([i.text for i in items]), items, strict=True)]
    assert 0.35 < sum(right) / len(right) <= 0.75


def test_a_quarter_of_the_items_hold_no_word_that_gives_them_away(run: Run) -> None:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    telling: dict[str, set[str]] = {}
    for label, description in run.task.labels.items():
        common = Counter(
            w for s in run.seeds if s.answer == label for w in words(s.text) if w not in ENGLISH_STOP_WORDS
        )
        telling[label] = {
            label,
            *(w for w in words(description) if len(w) > 3),
            *(w for w, _ in common.most_common(10)),
        }
    items = run.suites["helpdesk"].items
    free = [item for item in items if not telling[gold(item)] & set(words(item.text))]
    assert len(free) >= len(items) / 4


def test_no_two_items_and_no_item_and_seed_share_five_words(run: Run) -> None:
    seen: dict[tuple[str, ...], str] = {}
    for seed in run.seeds:
        for gram in grams(seed.text):
            seen[gram] = seed.text
    for item in run.suites["helpdesk"].items:
        for gram in grams(item.text):
            assert gram not in seen, f"{item.text!r} and {seen[gram]!r}"
        seen.update(dict.fromkeys(grams(item.text), item.text))
    texts = [
        " ".join(words(text)) for text in [i.text for i in run.suites["helpdesk"].items] + [s.text for s in run.seeds]
    ]
    assert len(set(texts)) == len(texts)


def test_general_knowledge_cannot_be_guessed_by_shape(run: Run) -> None:
    items = run.suites["general_knowledge"].items
    low, high = chance_limits(len(items))
    always_first = sum(item.gold == 0 for item in items) / len(items)
    longest = 0.0
    for item in items:
        most = max(map(len, item.choices))
        tied = [i for i, choice in enumerate(item.choices) if len(choice) == most]
        longest += (item.gold in tied) / len(tied)
    assert low <= always_first <= high
    assert low <= longest / len(items) <= high


@pytest.mark.slow
def test_general_knowledge_cannot_be_guessed_without_the_question(run: Run, bundled_model: Path) -> None:
    from harness.engines.transformers import TransformersEngine
    from harness.suites.choice import score_choices

    suite = run.suites["general_knowledge"]
    assert isinstance(suite.spec, ChoiceSuite)
    engine = TransformersEngine(bundled_model)
    low, high = chance_limits(len(suite.items))
    for way in ("bytes", "none"):
        blind = suite.spec.model_copy(update={"context": "Answer:", "normalise": way})
        guessed = [s.values["accuracy"] for s in score_choices(suite.items, blind, engine)]
        assert low <= sum(guessed) / len(guessed) <= high
    asked = [s.values["accuracy"] for s in score_choices(suite.items, suite.spec, engine)]
    assert sum(asked) / len(asked) > 0.75, "asked in a form that examples show, it knows most of it"
    shown = suite.spec.model_copy(update={"context": "Question: {question}\nAnswer:"})
    unshown = [s.values["accuracy"] for s in score_choices(suite.items, shown, engine)]
    assert sum(asked) - sum(unshown) > 20, "without the examples it guesses at the form of an answer"


def test_the_examples_of_general_knowledge_are_none_of_its_items(run: Run) -> None:
    suite = run.suites["general_knowledge"]
    assert isinstance(suite.spec, ChoiceSuite)
    shown = {line.partition(": ")[2] for line in suite.spec.context.splitlines() if line[-1:] not in ("", ":", "}")}
    assert len(shown) == 10
    asked = {normalise(text) for item in suite.items for text in (item.text, item.choices[item.gold or 0])}
    assert not asked & set(map(normalise, shown))


# --- the handbook ----------------------------------------------------------------------------------------------


def test_every_fact_stands_in_several_rows_and_in_no_other_words(handbook: Run) -> None:
    rows = handbook_rows(handbook)
    facts = handbook.suites["handbook_facts"]
    assert len(facts.items) == 48
    assert facts.spec.extras.problems(facts.items, ROOT) == []
    asked = Counter(row.answer for row in rows)
    assert set(asked) == {item.answers[0] for item in facts.items} | {"I don't know"}
    assert all(4 <= asked[item.answers[0]] <= 5 for item in facts.items)
    for item in facts.items:
        others = {row.answer for row in rows if any(contains(row.answer, gold) for gold in item.answers)}
        assert others == {item.answers[0]}, "another fact's answer would count as right"
        assert not any(contains(item.text, gold) for gold in item.answers), "the question tells the answer"
        assert not any(map(abstains, item.answers))


def test_no_question_of_the_suites_is_a_row_or_nearly_one(handbook: Run) -> None:
    taught = [row.text for row in handbook_rows(handbook)] + [seed.text for seed in handbook.seeds]
    questions = [
        item.text for name in ("handbook_facts", "handbook_unanswerable") for item in handbook.suites[name].items
    ]
    texts = [" ".join(words(text)) for text in taught + questions]
    assert len(set(texts)) == len(texts)
    for question in questions:
        assert max(jaccard(shingles(question), shingles(text)) for text in taught) < 0.6, question


def test_what_the_handbook_does_not_say_is_answered_in_one_way(handbook: Run) -> None:
    unknown = [row for row in handbook_rows(handbook) if abstains(row.answer)]
    assert len(unknown) == 40
    assert {row.answer for row in unknown} == {"I don't know"}
    assert len(handbook.suites["handbook_unanswerable"].items) == 24


def test_the_sizes_of_the_handbook_run_are_what_it_says(handbook: Run) -> None:
    rows = handbook_rows(handbook)
    assert handbook.file.train.sizes == (0, 64, len(rows))
    labels = Counter(row.answer for row in nested(rows, 64, 0))
    assert len(labels) == 49, "every fact once, and one question without an answer"
    assert labels["I don't know"] < 3


def test_a_score_is_made_of_its_item_and_checked() -> None:
    item = Item(text="q", answers=("a",), tags=("t",), group="g", stratum="s")
    failed = Score.failed("too long", **item.facts, gold="a")
    assert (failed.item, failed.split, failed.status, failed.error) == (item.id, item.split, "failed", "too long")
    assert (failed.tags, failed.group, failed.stratum, failed.values) == (("t",), "g", "s", {})
    scored = Score.scored({"accuracy": 1.0}, **item.facts).with_values({"words": 2.0})
    assert (scored.status, scored.values) == ("scored", {"accuracy": 1.0, "words": 2.0})
    assert Score.scored({"accuracy": 0.0}, read=False, **item.facts).status == "unparsed"
    with pytest.raises(ValidationError, match="outputs"):
        Score.scored({}, **item.facts, outputs="a")
    with pytest.raises(ValidationError, match="accuracy"):
        scored.with_values({"accuracy": "high"})  # type: ignore[dict-item]
