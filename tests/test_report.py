"""Reports from stored scores alone: what a run may look like, and what must be said of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from harness.config.load import load_run
from harness.config.run import Run
from harness.core.store import Manifest, write_manifest
from harness.errors import UsageError
from harness.eval.results import load_results
from harness.records import Cell, Item, Score
from harness.report.stage import report, show
from harness.suites.suite import Suite
from tests.fakes import Quiet
from tests.project import write_project
from tests.stored import trained_cell, write_cards, write_cells, write_items
from tests.test_markdown import READER, flat, inlines, seen

Answer = Callable[[int, Item], dict[str, Any]]  # (place, item) -> fields of its Score
Scored = tuple[str, Cell, Answer]  # suite, student, answers


def cell(size: int, data: str = "filtered", random_seed: int = 0) -> Cell:
    return Cell(student="tiny", data=data if size else "base", size=size, random_seed=random_seed)


def drawn(*salt: int) -> float:
    return float(np.random.default_rng(salt).random())


def labelled(right: float, salt: int, failed: Iterable[int] = ()) -> Answer:
    """Answers of a labels suite, right with a chance of `right`."""

    def answer(i: int, item: Item) -> dict[str, Any]:
        if i in failed:
            return {"status": "failed", "error": "longer than the context"}
        hit = float(drawn(i, salt) < right)
        values = {"accuracy": hit, "choice_accuracy": hit, "gold_nll": 2 - hit + drawn(i, salt, 3), "words": 1.0}
        output = item.choices[item.gold or 0] if hit else "nope"
        return {"status": "scored", "output": output, "values": values}

    return answer


def valued(**values: Callable[[int], float]) -> Answer:
    """Answers with these values, each a function of the item's place."""
    return lambda i, item: {"status": "scored", "output": "x", "values": {n: f(i) for n, f in values.items()}}


def scores_of(suite: Suite, answer: Answer) -> list[Score]:
    """One score per item, as the answers have it."""
    return [
        Score(
            **{
                "item": item.id,
                "split": item.split if suite.of_task else "test",
                "group": item.group,
                "gold": item.choices[item.gold] if item.gold is not None else "",
                **answer(i, item),
            }
        )
        for i, item in enumerate(suite.items)
    ]


def store(run: Run, scored: Sequence[Scored]) -> None:
    """Write eval's and train's files as the stages would."""
    suites = run.suites
    write_cards(run, [(suites[name], who, scores_of(suites[name], answer)) for name, who, answer in scored], seconds=1)
    write_cells(run, [trained_cell(cell, seconds=1, tokens=10) for _, cell, _ in scored if cell.size])


def reported(run: Run, scored: Sequence[Scored]) -> str:
    store(run, scored)
    report(run, Quiet())
    return (run.folder / "eval/report.md").read_text()


def shop(root: Path, *settings: str) -> Run:
    path = write_project(root, "tiny", eval={"suites": ["shop", "talk"], "reference": None})
    return load_run(path, list(settings))


def questions(root: Path, spec: dict[str, Any], lines: Iterable[dict[str, Any]], *, more: tuple[str, ...] = ()) -> Run:
    """A project whose suite is `qa`."""
    path = write_project(root, "tiny", eval={"suites": ["qa", *more], "reference": None})
    (root / "suites/qa.yaml").write_text(yaml.safe_dump({"items": "suites/qa.jsonl", **spec}))
    (root / "suites/qa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load_run(path)


@pytest.mark.parametrize(("size", "who"), [(12, "tiny, 12 rows (filtered)"), (0, "tiny untuned, zero-shot")])
def test_one_failed_item_leaves_a_report_without_a_verdict(tmp_path: Path, size: int, who: str) -> None:
    """Of the student's or of the rival's: and the advice is to finish first, and nothing else."""
    run = shop(tmp_path)
    first_test = next(i for i, item in enumerate(run.suites["shop"].items) if item.split == "test")
    failed = {size: [first_test]}
    text = reported(
        run,
        [
            ("shop", cell(0), labelled(0.5, 1, failed=failed.get(0, ()))),
            ("shop", cell(4), labelled(0.6, 2)),
            ("shop", cell(12), labelled(0.7, 3, failed=failed.get(12, ()))),
        ],
    )
    assert "No verdict: 1 of 30 items failed" in text
    assert "Evaluation: 3 scorecards, " in text  # what scoring took, beside what rows and training took
    advice = text.split("What to do next:")[1].split("\n##")[0].strip()
    assert advice == f"1. Finish the evaluation first: 1 of 30 items of {who} failed."
    assert "is incomplete: 1 of 30 items failed, the first because: longer than the context" in text
    assert "Loss of the gold answers over rows" in text


def test_a_suite_that_changed_is_scored_again_before_anything_else(tmp_path: Path) -> None:
    run = shop(tmp_path)
    reported(run, [("shop", cell(size), labelled(0.5 + size / 40, size)) for size in (0, 4, 12)])
    items = tmp_path / "suites/shop.jsonl"
    items.write_text("".join(items.read_text().splitlines(keepends=True)[:-1]))
    report(shop_again := load_run(tmp_path / "runs/shop.yaml"), Quiet())
    text = (shop_again.folder / "eval/report.md").read_text()
    advice = text.split("What to do next:")[1].split("\n##")[0].strip()
    said = "1. Finish the evaluation first: suites/shop.yaml or its items changed since they were scored."
    assert advice.replace("\\", "") == said


def test_a_student_whose_items_all_failed_is_not_called_worse(tmp_path: Path) -> None:
    everything = range(30)
    text = reported(
        shop(tmp_path),
        [
            ("shop", cell(0), labelled(0.5, 1)),
            ("shop", cell(4), labelled(0.6, 2)),
            ("shop", cell(12), labelled(0.7, 3, failed=everything)),
        ],
    )
    assert "is incomplete: 30 of 30 items failed" in text
    assert "0.0% of" not in text
    assert "worse" not in text
    assert "more rows hurt" not in text


def test_an_answer_that_a_judge_prefers_is_what_counts(tmp_path: Path) -> None:
    spec = {"kind": "answers", "answer": {"kind": "rubric", "rubric": "the kinder one"}}
    run = questions(tmp_path, spec, [{"question": f"q {i}?", "answer": f"a {i}", "tags": ["t"]} for i in range(60)])

    def preferred(share: float, salt: int) -> Answer:
        hit = lambda i: float(drawn(i, salt) < share)  # noqa: E731
        return valued(preferred=hit, gold_nll=lambda i: 3.0 - share + drawn(i, salt, 1))

    text = reported(
        run,
        [
            ("qa", cell(0), preferred(0.1, 1)),
            ("qa", cell(4), preferred(0.5, 2)),
            ("qa", cell(12), preferred(0.9, 3)),
            ("qa", cell(60, "seeds_only"), preferred(0.2, 4)),
        ],
    )
    assert "test items preferred to the reference" in text
    assert "more rows help" in text
    assert "| candidate | preferred |" in text


def test_items_of_few_passages_are_not_estimable(tmp_path: Path) -> None:
    path = write_project(tmp_path, "tiny", eval={"suites": ["shop"], "reference": None})
    lines = [json.loads(line) for line in (tmp_path / "suites/shop.jsonl").read_text().splitlines()]
    grouped = [line | {"group": f"passage {i % 5}"} for i, line in enumerate(lines)]
    (tmp_path / "suites/shop.jsonl").write_text("".join(json.dumps(line) + "\n" for line in grouped))
    sizes = [("shop", cell(n), labelled(0.5 + n / 40, n)) for n in (0, 4, 12)]
    text = reported(load_run(path), sizes)
    assert "not estimable" in text
    assert "inf" not in text.replace("information", "")
    assert "Loss of the gold answers" not in text


@pytest.mark.parametrize(
    ("settings", "data"),
    [(["train.data=[unfiltered]", "ship=null"], "unfiltered"), (["train.sizes=[4, 12]"], "filtered")],
)
def test_other_data_and_no_base_are_reported_too(tmp_path: Path, settings: list[str], data: str) -> None:
    run = shop(tmp_path, *settings)
    base = [] if "sizes" in settings[0] else [("shop", cell(0), labelled(0.5, 1))]
    text = reported(run, [*base, *(("shop", cell(n, data), labelled(0.5 + n / 40, n)) for n in (4, 12))])
    assert "Per doubling of rows, 4 to 12" in text
    if base:
        assert f"12 rows ({data})" in text
        assert "what the untuned zero-shot model has, plus the 95% interval of the paired difference" in text
    else:
        assert "the run has no untuned model" in text


def test_three_seeds_ask_about_the_recipe(tmp_path: Path) -> None:
    run = shop(tmp_path, "train.random_seeds=[0, 1, 2]")
    tuned = [("shop", cell(n, random_seed=s), labelled(0.4 + n / 40, 10 * n + s)) for n in (4, 12) for s in range(3)]
    text = reported(run, [("shop", cell(0), labelled(0.5, 1)), *tuned])
    assert "asking about this recipe" in text
    assert "items and random seeds vary" in text


def test_consistency_is_told_for_prompting_and_tuning_side_by_side(tmp_path: Path) -> None:
    scored = [("shop", cell(size), labelled(0.5, size)) for size in (0, 4, 12)]
    talk = [("talk", cell(size), valued(consistency=lambda i, s=size: 0.9 - s / 20)) for size in (0, 4, 12)]  # type: ignore[misc]
    text = reported(shop(tmp_path), [*scored, *talk])
    section = text.split("## Consistent, or made up?")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| talk")]
    assert len(lines) == 2, "the untuned model and the largest size"
    assert "untuned" in lines[0]
    assert "0.900" in lines[0]
    assert "12 rows" in lines[1]
    assert "0.300" in lines[1]
    assert "made up" not in section, "nothing here measures it"


def test_macro_f1_of_a_label_without_items_is_the_cards(tmp_path: Path) -> None:
    run = shop(tmp_path)
    write_items(tmp_path, 60)  # two of the task's three labels
    run = load_run(run.root / "runs/shop.yaml")

    def confused(i: int, item: Item) -> dict[str, Any]:
        said = "account" if drawn(i) < 0.3 else item.choices[item.gold or 0]
        return {"status": "scored", "output": said, "values": {"accuracy": float(said != "account")}}

    text = reported(run, [("shop", cell(0), labelled(0.5, 1)), ("shop", cell(12), confused)])
    card = load_results(run.folder).cards[1]
    heads = next(line for line in text.splitlines() if line.startswith("| candidate |")).split("|")
    row = next(line for line in text.splitlines() if line.startswith("| tiny, 12 rows")).split("|")
    assert row[heads.index(" macro-F1 ")].strip() == f"{card.metrics['macro_f1']:.3f}"
    assert card.metrics["macro_f1"] < 0.6, "the label without items counts as 0"


def test_what_changed_is_counted_in_passages_where_items_share_them(tmp_path: Path) -> None:
    path = write_project(tmp_path, "tiny", eval={"suites": ["shop"], "reference": None})

    def flipping(*wrong: int) -> Answer:
        return lambda i, item: labelled(0.0 if i // 4 in wrong else 1.0, 0)(i, item)

    scored = [("shop", cell(0), flipping()), ("shop", cell(4), flipping(0)), ("shop", cell(12), flipping(0, 1))]
    for groups, unit in ((False, "items"), (True, "passages")):
        write_items(tmp_path, 80, **({"group": lambda i: f"passage {i // 4}"} if groups else {}))
        text = reported(load_run(path), scored)
        assert re.search(rf"only \d+ of \d+ {unit} changed", text)
        assert not re.search(rf"only \d+ of \d+ {'items' if groups else 'passages'} changed", text)


def test_numbers_below_zero_and_neutral_ones(tmp_path: Path) -> None:
    shop(tmp_path)
    prompts = "".join(json.dumps({"prompt": f"Say {n}."}) + "\n" for n in range(12))
    (tmp_path / "suites/talk.jsonl").write_text(prompts)
    run = load_run(tmp_path / "runs/shop.yaml")

    def talk(level: float, kl: float) -> Answer:
        return valued(reference_similarity=lambda i: level + i / 100, kl_from_base=lambda i: kl * (i + 1))

    text = reported(
        run,
        [
            ("shop", cell(0), labelled(0.5, 1)),
            ("shop", cell(12), labelled(0.7, 3)),
            ("talk", cell(0), talk(0.1, 0.0)),
            ("talk", cell(12), talk(-0.2, 0.001)),
        ],
    )
    broken = next(line for line in text.splitlines() if line.startswith(("Measurably worse", "Nothing measurable")))
    assert "distance from the base" not in broken  # moving is what tuning does
    assert "likeness to the reference" in broken
    assert (run.folder / "eval/forgetting.tiny.png").is_file()


def test_the_answer_says_what_rows_bring_beyond_the_seeds(tmp_path: Path) -> None:
    run = shop(tmp_path, "train.data=[filtered, seeds_only]")
    sizes = [("shop", cell(n), labelled(0.5 + n / 40, n)) for n in (4, 12)]
    alone = reported(run, [("shop", cell(0), labelled(0.2, 1)), *sizes])
    assert "seeds alone" not in alone.split("\n## ")[1]
    both = reported(
        run, [("shop", cell(0), labelled(0.2, 1)), *sizes, ("shop", cell(3, "seeds_only"), labelled(0.2, 9))]
    )
    said = re.search(r"Tuned on the 3 seeds alone it has ([\d.]+)%: 12 rows differ from that by (\S+) points \[", both)
    assert said is not None
    values = [
        float(v) for v in re.findall(r"tiny, (?:12 rows \(filtered\)|3 rows \(seeds only\)) \| \**([\d.]+)", both)[:2]
    ]
    assert float(said[1]) == pytest.approx(100 * min(values), abs=0.06)
    assert float(said[2]) == pytest.approx(100 * (max(values) - min(values)), abs=0.2)


def test_the_answer_is_printed_and_show_prints_everything(tmp_path: Path) -> None:
    run, eval_said, shown = shop(tmp_path), Quiet(), Quiet()
    store(run, [("shop", cell(0), labelled(0.5, 1)), ("shop", cell(12), labelled(0.7, 3))])
    report(run, eval_said)
    show(run, shown)
    whole = (run.folder / "eval/report.md").read_text()
    answer, tables = whole.split("\n## ")[1], whole.split("\n## ")[2:]
    assert answer in eval_said.text
    assert "make show RUN=shop" in eval_said.text
    assert not any(table in eval_said.text for table in tables)
    assert all(line in shown.text for line in whole.splitlines() if not line.startswith("!["))


def test_a_suite_of_the_task_needs_items_to_choose_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"all 1 items are (dev|test) items"):
        questions(tmp_path, {"kind": "answers"}, [{"question": "q?", "answer": "a"}])


@pytest.mark.parametrize(("file", "text"), [("train/cells.json", "[]"), ("augment/funnel.json", "[]")])
def test_damaged_files_are_named(tmp_path: Path, file: str, text: str) -> None:
    run = shop(tmp_path)
    store(run, [("shop", cell(0), labelled(0.5, 1)), ("shop", cell(12), labelled(0.7, 3))])
    path = run.folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(UsageError, match=f"{path.parent}/.*make {path.parent.name} RUN=shop makes"):
        report(run, Quiet())
    stage = path.parent.name
    write_manifest(path.parent, Manifest(stage=stage, inputs="by hand"), [path])  # sealed, and yet no such file
    with pytest.raises(UsageError, match=f"{path.name}: not .*make {stage} RUN=shop"):
        report(run, Quiet())


HOSTILE = ("par|`cel`", "inv<script>alert(1)</script>", "[x](javascript:1) $a$")
TAGS = ("src=a|b", "<img src=x onerror=alert(1)>", "line\nbreak | x", "# head")


def test_hostile_names_leave_every_table_whole(tmp_path: Path) -> None:
    path = write_project(tmp_path, "tiny", eval={"suites": ["shop", "talk"], "reference": None})
    names = dict(zip(("parcel", "invoice", "account"), HOSTILE, strict=True))
    task = yaml.safe_load((tmp_path / "prompts/shop/task.yaml").read_text())
    task["labels"] = {names[label]: text for label, text in task["labels"].items()}
    (tmp_path / "prompts/shop/task.yaml").write_text(yaml.safe_dump(task, sort_keys=False))
    for file in ("prompts/shop/seeds.jsonl", "suites/shop.jsonl"):
        lines = [json.loads(line) for line in (tmp_path / file).read_text().splitlines()]
        for place, line in enumerate(lines):
            line["label"] = names[line["label"]]
            line |= {"tags": [TAGS[place % len(TAGS)]]} if "suites" in file else {}
        (tmp_path / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = load_run(path)

    def wrong(i: int, item: Item) -> dict[str, Any]:
        fields = labelled(0.5, 1)(i, item)
        tagged = {"tags": item.tags}
        return fields | tagged | ({"output": item.choices[i % 3]} if fields["output"] == "nope" else {})

    text = reported(run, [("shop", cell(n), wrong) for n in (0, 4, 12)])
    assert "<script" not in text
    assert "<img" not in text
    tables = [token for token in READER.parse(text) if token.type.startswith(("table", "th_o", "td_o", "tr_o"))]
    shapes: list[list[int]] = []
    for token in tables:
        if token.type == "table_open":
            shapes.append([])
        elif token.type == "tr_open":
            shapes[-1].append(0)
        elif token.type in ("th_open", "td_open"):
            shapes[-1][-1] += 1
    assert all(len(set(shape)) == 1 for shape in shapes)
    assert text.count("\n|---") == len(shapes)  # every one is read as a table
    cells = {seen(token) for token in inlines(text) if not any(c.type == "image" for c in token.children or ())}
    assert {flat(name) for name in (*HOSTILE, *TAGS)} <= cells
