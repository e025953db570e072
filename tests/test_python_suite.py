"""A suite of one's own, written outside the package: a Python file gives the items and scores the answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import pytest
import yaml

from harness.augment.stage import augment
from harness.commands.validate import validate_suites
from harness.config.load import load_run
from harness.core.terminal import Stop
from harness.data.examples import Shape
from harness.data.lines import AnswerLine
from harness.engines.protocols import StudentEngine
from harness.engines.scripted import ScriptedEngine
from harness.engines.transformers import TransformersEngine
from harness.errors import UsageError
from harness.eval.results import load_results
from harness.eval.runner import Openers
from harness.eval.stage import evaluate
from harness.models.teachers import Teachers
from harness.records import Item, Score
from harness.report.stage import report
from harness.suites.base import ItemsSuite, read_lines
from harness.suites.free_text import plain_prompt
from harness.suites.generate import Ending, Prompt, ask
from harness.suites.kinds import AnySuite, load_suite
from harness.suites.oracle import Gold, Oracle, read
from harness.suites.outcome import Outcome
from harness.suites.suite import AskedAs, Extras, Requests, Resources, Suite, SuiteFile, SuiteKind
from harness.suites.summary import summarise
from harness.train.stage import train
from tests.fakes import Quiet, WordEmbedder
from tests.project import no_judge, write_project

RHYMES = """
PAIRS = {"cat": "hat", "moon": "spoon", "light": "night"}


def items():
    return [
        {"text": f"What rhymes with {word}?", "answers": [rhyme], "tags": ["easy"]}
        for word, rhyme in PAIRS.items()
    ]


def score(item, answer):
    if not answer:
        return None
    word = item["text"].split()[-1].strip("?")
    return {"accuracy": answer in item["answers"], "shared_letters": len(set(word) & set(answer))}
"""
SPEC = {"kind": "python", "file": "rhymes.py", "metrics": ["shared_letters", "accuracy"], "asked": "plain"}


def suite_of(root: Path, source: str = RHYMES, **changes: Any) -> Suite:
    (root / "rhymes.py").write_text(source)
    (root / "rhymes.yaml").write_text(yaml.safe_dump(SPEC | changes))
    return load_suite(root / "rhymes.yaml", root, Shape())


def scored(suite: Suite, root: Path, *answers: str) -> tuple[Score, ...]:
    known = {read(plain_prompt(item)): Gold(a, item.answers) for item, a in zip(suite.items, answers, strict=True)}
    resources = Resources(root=root)
    return suite.spec.score(suite.items, plain_prompt, Ending(), Oracle(known), "oracle", resources).scores


def test_its_functions_give_the_items_and_the_scores(tmp_path: Path) -> None:
    suite = suite_of(tmp_path)
    assert [(item.text, item.answers, item.tags) for item in suite.items][1] == (
        "What rhymes with moon?", ("spoon",), ("easy",),
    )  # fmt: skip
    assert (suite.primary, suite.of_task) == ("shared_letters", False)
    right, wrong, silent = scored(suite, tmp_path, "hat", "no", "")
    assert (right.values["accuracy"], right.values["shared_letters"], right.status) == (1.0, 2.0, "scored")
    assert (wrong.values["accuracy"], wrong.values["shared_letters"], wrong.output) == (0.0, 2.0, "no")
    assert (silent.status, silent.values["accuracy"]) == ("unparsed", 0.0)
    assert "shared_letters" not in silent.values, "what could not be computed is absent"
    assert set(right.values) == set(suite.spec.item_metrics)


def test_a_plain_number_is_the_first_metric(tmp_path: Path) -> None:
    source = "def items(): return [{'text': 'q'}]\ndef score(item, answer): return len(answer) / 10\n"
    suite = suite_of(tmp_path, source, metrics=["brevity"])
    (score,) = scored(suite, tmp_path, "four")
    assert (suite.primary, score.values["brevity"]) == ("brevity", 0.4)
    assert "gold_nll" not in score.values, "there is no accepted answer"


def test_its_code_decides_its_scores(tmp_path: Path) -> None:
    first = suite_of(tmp_path).digest
    assert suite_of(tmp_path, RHYMES.replace("len(", "-len(")).digest != first
    assert suite_of(tmp_path, source_digest="0").digest == suite_of(tmp_path, timeout_s=5).digest == first
    (tmp_path / "moved.py").write_text(RHYMES)
    assert suite_of(tmp_path, file="moved.py").digest == first


ITEMS = "def items(): return [{'text': 'q'}]\n"


@pytest.mark.parametrize(
    ("source", "changes", "expected"),
    [
        ("def items(): return 3", {}, r"rhymes\.py: items\(\) returned 3; it must return a list of dicts"),
        ("def items(): return []", {}, r"rhymes\.py: items\(\): there are no items in it"),
        ("def items(): return [{'text': 'q', 'anwsers': ['a']}]", {}, r"item 1: anwsers: unknown key.*'answers'"),
        ("def items(): return [{'text': 'q'}, {'text': ''}]", {}, r"rhymes\.py: items\(\): item 2: text: ''"),
        ("def items(): return [{'text': 'q'}, {'text': 'q'}]", {}, r"item 2: the same item stands at .*item 1"),
        ("\ndef items(): return 1 / 0", {}, r"rhymes\.py:2: items failed: ZeroDivisionError"),
        ("def item(): pass", {}, r"rhymes\.py: there is no function 'items'.*'item'"),
        (ITEMS, {"file": "rhyme.py"}, r"rhymes\.yaml:\d+: file: there is no file rhyme\.py.*rhymes\.py"),
        (ITEMS, {"metrics": ["words"]}, "words is computed already"),
        (ITEMS, {"primary": "acuracy"}, r"primary: 'acuracy' is no metric of its items.*'accuracy'"),
    ],
)
def test_what_is_wrong_with_its_items_is_named(
    tmp_path: Path, source: str, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UsageError, match=expected):
        suite_of(tmp_path, source, **changes)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return {'acuracy': 1}", r"rhymes\.py: score returned .*: 'acuracy' is none of its metrics.*'accuracy'"),
        ("return {'accuracy': 2}", r"rhymes\.py: score returned .*: accuracy is a number from 0 to 1"),
        ("return {'shared_letters': float('nan')}", r"score returned .*; it must be a number"),
        ("return 'yes'", r"rhymes\.py: score returned 'yes'; it must be a number"),
        ("return 1 / 0", r"rhymes\.py:3: score failed on the text 'q': ZeroDivisionError"),
        ("while True: pass", r"rhymes\.py:3: score on the text 'q' gave no answer within 0\.5 s"),
    ],
)
def test_what_is_wrong_with_its_scores_is_named(tmp_path: Path, body: str, expected: str) -> None:
    suite = suite_of(tmp_path, f"{ITEMS}def score(item, answer):\n    {body}\n", timeout_s=0.5)
    suite.spec.extras.prepare(Resources(root=tmp_path))
    with pytest.raises(UsageError, match=expected):
        scored(suite, tmp_path, "a")


def test_a_function_that_is_not_there_is_named_before_a_student_is_asked(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, f"{ITEMS}def scores(item, answer): return 1\n")
    with pytest.raises(UsageError, match=r"rhymes\.py: there is no function 'score'.*'scores'"):
        suite.spec.extras.prepare(Resources(root=tmp_path))


def test_it_proves_itself_like_any_other(tmp_path: Path) -> None:
    noted: dict[str, Any] = {"changes": {"1": "2026-11-26: first version"}}
    suite = suite_of(tmp_path, **noted)
    assert validate_suites({"rhymes": suite}, None, Quiet(), tmp_path) == []
    harsh = suite_of(tmp_path, RHYMES.replace('answer in item["answers"]', "False"), **noted)
    problems = validate_suites({"rhymes": harsh}, None, Quiet(), tmp_path)
    assert [problem.item for problem in problems] == [item.id for item in harsh.items]
    assert problems[0].what == "plain: the right answer 'hat' scores accuracy 0"


def test_every_kind_answers_what_a_stage_may_ask() -> None:
    asked = {name for name in vars(SuiteKind) if not name.startswith("_")}
    for kind in get_args(AnySuite):
        named = {*dir(kind), *kind.model_fields}
        assert asked <= named, f"{kind.__name__} lacks {sorted(asked - named)}"


class StartsSuite(ItemsSuite):
    """A kind of suite that stands in no list: right is an answer that starts as the reference does."""

    extras: ClassVar[Extras] = Extras()
    asked: ClassVar[AskedAs] = "plain"
    item_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    kind: Literal["starts"] = "starts"
    max_tokens: int = 8

    def load(self, file: SuiteFile) -> tuple[StartsSuite, tuple[Item, ...]]:
        lines = read_lines(self, file, AnswerLine)
        return self, tuple(Item(text=line.question, answers=line.right) for _, line in lines)

    def gold(self, item: Item) -> tuple[str, ...]:
        return item.answers

    def requests(self, items: Sequence[Item]) -> Requests:
        return Requests(str(len(items)), answers=len(items))

    def score(
        self,
        items: Sequence[Item],
        prompt: Prompt,
        ending: Ending,
        engine: StudentEngine,
        model: str,
        resources: Resources,
    ) -> Outcome:
        answers = ask({i: prompt(item) for i, item in enumerate(items)}, engine, model, self.max_tokens, ending.stop)
        right = [answers[i].text[:1] == item.answers[0][:1] for i, item in enumerate(items)]
        return Outcome(
            tuple(Score.scored({"accuracy": float(r)}, **i.facts) for i, r in zip(items, right, strict=True))
        )


def test_a_kind_from_outside_is_four_methods(tmp_path: Path) -> None:
    (tmp_path / "i.jsonl").write_text("".join(f'{{"question": "{n}?", "answer": "{n}"}}\n' for n in range(9)))
    place = lambda key: f"s.yaml: {key}"  # noqa: E731
    noted = {"items": "i.jsonl", "changes": {"1": "2026-11-26: first version"}}
    spec, items = StartsSuite.model_validate(noted).load(SuiteFile(tmp_path, place, None, None))
    suite = Suite("starts", spec, items)
    assert (suite.primary, len(suite.items), suite.of_task, suite.rubric) == ("accuracy", 9, False, None)
    assert suite.digest != Suite("starts", spec, items[1:]).digest
    assert validate_suites({"starts": suite}, None, Quiet(), tmp_path) == []
    scores = [Score.scored({"accuracy": float(i > 2)}, **item.facts) for i, item in enumerate(items)]
    assert 0 < summarise(scores, suite)["accuracy"] < 1


def test_eval_scores_it_like_any_other(tmp_path: Path, tiny_model: Path) -> None:
    path = write_project(tmp_path, str(tiny_model))
    (tmp_path / "suites/rhymes.py").write_text(RHYMES)
    spec = SPEC | {"file": "suites/rhymes.py", "max_tokens": 4, "metrics": ["accuracy", "shared_letters"]}
    (tmp_path / "suites/rhymes.yaml").write_text(yaml.safe_dump(spec))
    changed = yaml.safe_load(path.read_text())
    changed["train"] |= {"sizes": [0], "data": ["filtered"]}
    changed["eval"] = {"suites": ["rhymes"]}
    changed.pop("ship", None)
    path.write_text(yaml.safe_dump(changed, sort_keys=False))
    run = load_run(path)
    script = tmp_path / "prompts/shop/teacher.json"
    augment(run, Teachers(own="script@1"), lambda: ScriptedEngine.from_file(script), Quiet(), Stop())
    train(run, Quiet(), Stop())
    openers = Openers(lambda base, adapter: TransformersEngine(base, adapter, device="cpu"), WordEmbedder, no_judge)
    evaluate(run, openers, Quiet(), Stop())
    report(run, Quiet())
    assert "shared letters" in (run.folder / "eval/report.md").read_text(), (
        "a second metric, and one that no table knows"
    )
    (card,) = load_results(run.folder, run.suites).cards
    assert (card.suite, card.items, card.failed) == ("rhymes", 3, 0)
    assert {"accuracy", "shared_letters", "gold_nll"} <= set(card.metrics)
