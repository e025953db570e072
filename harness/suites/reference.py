"""The cheap things a student must beat: TF-IDF and logistic regression on the same rows, and a person's programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.core.python_file import PythonFunction
from harness.errors import UsageError
from harness.records import Item, Row, Score
from harness.suites.generate import Ending, Prompt
from harness.suites.oracle import Gold, Oracle, read
from harness.suites.suite import Resources, Suite

NAME = "tfidf_logistic_regression"
PROGRAM = "program:"  # begins what cells call a program instead of a student
TRAINED = "trained"  # in place of a prompting: nobody is asked
# of a model alone: how likely it finds an answer
OF_MODELS = {"choice_accuracy", "gold_probability", "gold_nll"}
GRID = [(analyzer, c) for analyzer in ("word", "char_wb") for c in (1.0, 10.0, 100.0)]


def program_name(name: str) -> str:
    """What cells call the program that a run file has under a name."""
    return f"{PROGRAM}{name}"


def is_program(student: str) -> bool:
    """Whether a cell's student is a program."""
    return student.startswith(PROGRAM)


def is_reference(name: str) -> bool:
    """Whether a name, of a cell or of its student, is that of what is no model."""
    return is_program(name) or f"{name}.".startswith(f"{NAME}.")


def reference_title(student: str) -> str:
    """How people read the name of what is no model."""
    if is_program(student):
        return f"{student.removeprefix(PROGRAM).replace('_', ' ')} (a program)"
    return "TF-IDF + logistic regression"


def score_program(
    function: PythonFunction, root: Path, rows: Sequence[Row], suite: Suite, prompt: Prompt
) -> list[Score]:
    """What a person's function answers on `rows`, scored as a student's answers are, without what a model expects.

    Raises UsageError naming file and line of whatever the function did instead of answering.
    """
    learned = [row.example.shown for row in rows]
    questions = [_without_answer(item.question.shown) for item in suite.items]
    (given,) = function.answers([json.dumps([learned, questions])], [f"{len(questions)} questions"])
    place = f"{function.path}: {function.name}() returned"
    if not isinstance(given, list) or len(given) != len(questions):
        what = f"a list of {len(given)}" if isinstance(given, list) else f"{given!r:.80}"
        raise UsageError(f"{place} {what}; it must be a list of {len(questions)} answers, one for each question")
    wrong = next((answer for answer in given if not isinstance(answer, str | dict | list)), None)
    if wrong is not None or None in given:
        raise UsageError(f"{place} the answer {wrong!r:.80}; each must be a text, or a dict or list to be JSON")
    texts = [answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False) for answer in given]
    known = {read(prompt(item)): Gold(text=text, right=(text,)) for item, text in zip(suite.items, texts, strict=True)}
    resources = Resources(root=root, labels=suite.choices)
    scores = suite.spec.score(suite.items, prompt, Ending(), Oracle(known), suite.name, resources).scores
    return [_without_model(score) for score in scores]


def _without_answer(shown: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in shown.items() if name not in ("answer", "label")}


def _without_model(score: Score) -> Score:
    values = {name: value for name, value in score.values.items() if name not in OF_MODELS}
    return score.model_copy(update={"values": values, "prompt_tokens": 0, "answer_tokens": 0})


def score_reference(rows: Sequence[Row], items: Sequence[Item], random_seed: int) -> list[Score]:
    """Train on `rows`, answer `items`. Its settings (n-grams, C) are chosen on the dev items, so it is at its best.

    Rows that all have one label give that label to every item.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, labels = [row.text for row in rows], [row.answer for row in rows]
    if len(set(labels)) == 1:
        return [_score(item, labels[0]) for item in items]
    dev = [item for item in items if item.split == "dev"]
    best: tuple[float, list[str]] | None = None
    for analyzer, c in GRID:
        ngrams = (1, 2) if analyzer == "word" else (2, 5)
        model = make_pipeline(
            TfidfVectorizer(analyzer=analyzer, ngram_range=ngrams, sublinear_tf=True),
            LogisticRegression(C=c, max_iter=1000, random_state=random_seed),
        )
        model.fit(texts, labels)
        answers = [str(a) for a in model.predict([item.text for item in items])]
        by_id = {item.id: answer for item, answer in zip(items, answers, strict=True)}
        right = sum(_score(item, by_id[item.id]).values["accuracy"] for item in dev)
        if best is None or right > best[0]:
            best = (right, answers)
    assert best is not None
    return [_score(item, answer) for item, answer in zip(items, best[1], strict=True)]


def _score(item: Item, answer: str) -> Score:
    assert item.gold is not None
    gold = item.choices[item.gold]
    right = float(answer == gold)
    values = {"accuracy": right, "choice_accuracy": right}
    return Score.scored(values, **item.facts, gold=gold, top_choice=answer, output=answer)
