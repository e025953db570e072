"""Data arms: how they are written, which rows each gives, and that sizes are nested whatever the order of the rows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from harness.augment.rows import Judged
from harness.config.arms import SELECTIONS, DataArm, arm_named
from harness.config.load import load_run
from harness.config.teacher import OpenAITeacher, ScriptedTeacher, Teacher
from harness.errors import UsageError
from harness.filters import Duplicate, Finished, Length
from harness.records import Example, Message, Provenance, Row, StepWritten, Verdict
from harness.train.arms import choose, in_order, mixed, rows_of
from harness.train.pool import Pool
from harness.train.row_scores import rounds_of
from tests.project import row, write_project

READ: TypeAdapter[DataArm] = TypeAdapter(DataArm)


def arm(written: Any) -> DataArm:
    return READ.validate_python(written)


# --- how they are written


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("filtered", "filtered"),
        ("student_fit", "student_fit"),
        ({"without": "judge"}, "without_judge"),
        ("without_judge", "without_judge"),
        ({"teacher": "strong"}, "teacher_strong"),
        ({"template": "continue_list"}, "template_continue_list"),
        ({"mix": {"human": 0.5, "filtered": 0.5}}, "mix_human_50_filtered_50"),
        ({"mix": {"seeds_only": 0.125, "without_judge": 0.875}}, "mix_seeds_only_12p5_without_judge_87p5"),
        ({"replay": 0.2, "rows": "data/general.jsonl"}, "replay_general_20_filtered"),
        ({"replay": 0.2, "rows": {"path": "a.csv"}, "of": "random"}, "replay_a_20_random"),
    ],
)
def test_every_arm_has_a_name_that_is_safe_in_a_file(written: Any, name: str) -> None:
    assert arm(written).name == name


def test_names_with_other_characters_are_told_apart() -> None:
    names = [arm({"without": text}).name for text in ("length(min_words=4)", "length(min_words-4)", "a/b.c")]
    assert len(set(names)) == 3
    assert not set("".join(names)) & set("/.@:() ")
    paths = [arm({"template": path}).name for path in ("a/list.j2", "b/list.j2", "list")]
    assert len(set(paths)) == 3


SHOP = "train.data=[filtered, {}]"
REFUSED = [
    ("filterd", "'filterd' is no arm (did you mean 'filtered'?); allowed: filtered, unfiltered"),
    ("filtered", "data ['filtered', 'filtered'] repeats one"),
    ("human", "train.data.1: human needs augment.rows_file, and there are none"),
    ("{without: juge}", "there is no filter 'juge' (did you mean 'judge'?) in augment.filters; there are: finished,"),
    ("{withot: judge}", "withot: an arm has one of without, teacher, template, mix, replay (did you mean 'without'?)"),
    ("{without: judge, of: filtered}", "of: unknown key; allowed here: without"),
    ("{}", "it: an arm has one of without, teacher, template, mix, replay"),
    ("{teacher: strong}", "there is no teacher 'strong'; those that write rows: teacher"),
    ("{template: lists}", "there is no template 'lists' (did you mean 'list'?); there are: prompts/shop/list.j2"),
    ("{mix: {filtered: 1.0}}", "mix.filtered: 1.0: input should be less than 1"),
    ("{mix: {filtered: 0.5}}", "mix: filtered: it takes two arms or more"),
    ("{mix: {filtered: 0.5, random: 0.4}}", "mix: the shares sum to 0.9, not to 1"),
    ("{mix: {filtered: 0.5, humans: 0.5}}", "mix: 'humans' is no arm (did you mean 'human'?)"),
    ("{mix: {filtered: 0.5, human: 0.5}}", "train.data.1: human needs augment.rows_file"),
    ("{mix: {filtered: 0.5, without_juge: 0.5}}", "train.data.1: there is no filter 'juge'"),
    ("{replay: 0.2}", "train.data.1.rows: this key is missing"),
    ("{replay: 0.2, rows: data/none.jsonl}", "train.data.1.rows: there is no file data/none.jsonl"),
    ("{replay: 2, rows: data/none.jsonl}", "train.data.1.replay: 2: input should be less than 1"),
    ("{replay: 0.2, rows: suites/shop.jsonl, of: all}", "of: 'all' is no arm"),
    ("3", "train.data.1"),
]


@pytest.mark.parametrize(("written", "expected"), REFUSED, ids=[written for written, _ in REFUSED])
def test_a_mistake_is_said_at_load_with_its_place(shop_file: Path, written: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_run(shop_file, [SHOP.format(written)])
    assert expected in str(caught.value)
    assert "train.data" in str(caught.value)


@pytest.fixture(scope="module")
def shop_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("shop"), "tiny")


def test_any_arm_may_ship(shop_file: Path) -> None:
    data = "train.data=[filtered, {without: judge}, {mix: {random: 0.5, length: 0.5}}]"
    for written, name in [
        ("{without: judge}", "without_judge"),
        ("without_judge", "without_judge"),
        ("{mix: {random: 0.5, length: 0.5}}", "mix_random_50_length_50"),
    ]:
        ship = load_run(shop_file, [data, f"ship.data={written}"]).file.ship
        assert ship is not None
        assert ship.data == name
    with pytest.raises(UsageError, match=r"ship.data 'without_juge' is not one of train.data .*without_judge'\?"):
        load_run(shop_file, [data, "ship.data=without_juge"])
    with pytest.raises(UsageError, match=r"ship.data: withot: an arm has one of"):
        load_run(shop_file, [data, "ship.data={withot: judge}"])


# --- which rows each gives

TEACHERS: Mapping[str, Teacher] = {
    "teacher": ScriptedTeacher(model="script", engine="scripted", script="a.json"),
    "strong": OpenAITeacher(model="big", engine="openai", base_url="http://a", revision="2"),
    "older": OpenAITeacher(model="big", engine="openai", base_url="http://a", revision="1"),
}


def made(text: str, label: str = "repair", **provenance: Any) -> Row:
    """A row with its provenance, written by the run's own teacher unless it says something else."""
    base = row(text, label)
    of = {"source": "teacher", "teacher": "script@1", "template": "prompts/a.j2", **provenance}
    return base.model_copy(update={"provenance": Provenance(**of)})


def dropped(text: str, *filters: str) -> Judged:
    judged = made(text)
    names = ("finished", "length", "duplicate")
    return Judged(row=judged, verdicts=tuple(Verdict(judged.id, name, name not in filters) for name in names))


STEP = StepWritten(name="text", request="r", template="t", template_digest="d", teacher="big@1", text="x")
POOL = Pool(
    seeds=(row("seed", source="seed"),),
    kept=(
        made("own", source="own", teacher="", template=""),
        made("first"),
        made("second", template="prompts/b.j2"),
        made("third", teacher="big@2"),
        made("chained", teacher="script@1", steps=(STEP,)),
    ),
    dropped=(dropped("long", "length"), dropped("twice", "duplicate"), dropped("both", "length", "duplicate")),
    general={"replay_g_50_human": (row("be kind", source="replay"),)},
    filters=(Finished(), Length(), Duplicate()),
    teachers=TEACHERS,
    templates=("prompts/a.j2", "prompts/b.j2"),
)
KEPT = {"own", "first", "second", "third", "chained"}


@pytest.mark.parametrize(
    ("written", "texts"),
    [
        ("filtered", KEPT),
        ("random", KEPT),
        ("length", KEPT),
        ("unfiltered", KEPT | {"long", "twice", "both"}),
        ("seeds_only", {"seed"}),
        ("human", {"own"}),
        ("synthetic", KEPT - {"own"}),
        ({"without": "length"}, KEPT | {"long"}),
        ({"without": "finished"}, KEPT),
        ({"teacher": "teacher"}, {"first", "second", "chained"}),
        ({"teacher": "strong"}, {"third"}),
        ({"teacher": "older"}, {"chained"}),
        ({"template": "a"}, {"first", "third", "chained"}),
        ({"template": "prompts/b.j2"}, {"second"}),
        ({"mix": {"human": 0.5, "without_length": 0.5}}, KEPT | {"long"}),
        ({"replay": 0.5, "rows": "g.jsonl", "of": "human"}, {"own", "be kind"}),
    ],
)
def test_the_rows_that_an_arm_draws_from(written: Any, texts: set[str]) -> None:
    assert {one.text for one in rows_of(arm(written), POOL)} == texts


def test_teachers_whose_names_are_the_same_are_not_mixed_up() -> None:
    folders = {name: ScriptedTeacher(model=f"{name}/model", engine="scripted", script="a") for name in ("a", "b")}
    pool = Pool(kept=(made("one", teacher="model@0f"),), teachers=folders)
    with pytest.raises(UsageError, match="rows do not tell the teachers a and b apart: both are called model@0f"):
        rows_of(arm({"teacher": "a"}), pool)


def free(text: str, answer: str) -> Row:
    example = Example(fields={"text": text}, answer=answer)
    messages = (Message(role="user", content=text), Message(role="assistant", content=answer))
    return Row(messages=messages, example=example, provenance=Provenance(source="own"))


def texts(written: Any, rows: Sequence[Row], size: int, **scores: Mapping[str, float]) -> list[str]:
    by_text = {one.text: one.id for one in rows}
    by_id = {name: {by_text[text]: score for text, score in of.items()} for name, of in scores.items()}
    return [one.text for one in choose(arm(written), Pool(kept=tuple(rows)), size, 0, by_id)]


def test_selections_take_the_highest_first() -> None:
    rows = [free("a", "one"), free("b", "one two three"), free("c", "one two"), free("d e f", "one two")]
    assert texts("length", rows, 4) == ["b", "d e f", "c", "a"]
    fit = {"a": -0.5, "b": -3.0, "c": -0.1, "d e f": -1.0}
    assert texts("student_fit", rows, 3, student_fit=fit) == ["c", "a", "d e f"]
    ifd = {"a": 0.9, "b": 1.2, "c": 0.3, "d e f": 1.0}
    assert texts("ifd", rows, 3, ifd=ifd) == ["d e f", "a", "c"]
    with pytest.raises(UsageError, match="size 4 is larger than the 3 rows there are for data 'ifd'"):
        texts("ifd", rows, 4, ifd=ifd)
    assert texts("diverse", rows, 2, diverse={"b": 0.0, "a": -1.0}) == ["b", "a"]


def test_selections_rank_within_a_label_and_take_labels_in_turn() -> None:
    rows = [row(text, label) for label in ("billing", "repair") for text in (f"{label} x", f"{label} x y", label)]
    chosen = choose(arm("length"), Pool(kept=tuple(rows)), 4, 0, {})
    assert Counter(one.answer for one in chosen) == {"billing": 2, "repair": 2}
    assert {one.text for one in chosen} == {"billing x", "billing x y", "repair x", "repair x y"}
    assert choose(arm("random"), Pool(kept=tuple(rows)), 6, 0, {}) != choose(
        arm("random"), Pool(kept=tuple(rows)), 6, 1, {}
    )


# --- properties


def pool_of(size: int, labels: int) -> Pool:
    """Rows of several labels (none: free answers), a third of them own, with seeds and general rows."""
    kept = []
    for i in range(size):
        one = row(f"text {i} {'x ' * (i % 5)}", f"label {i % labels}") if labels else free(f"text {i}", f"a {i % 7}")
        source = "own" if i % 3 == 0 else "teacher"
        kept.append(one.model_copy(update={"provenance": Provenance.model_validate({"source": source})}))
    return Pool(
        seeds=tuple(row(f"seed {i}", source="seed") for i in range(size)),
        kept=tuple(kept),
        general={
            name: tuple(row(f"general {i}", source="replay") for i in range(size))
            for name in ("replay_g_30_filtered", "replay_g_25_ifd")
        },
    )


EVERY: list[Any] = [
    "filtered", "random", "human", "synthetic", *SELECTIONS, {"mix": {"human": 0.5, "filtered": 0.5}},
    {"mix": {"seeds_only": 0.2, "length": 0.3, "random": 0.5}}, {"replay": 0.3, "rows": "g.jsonl"},
    {"replay": 0.25, "rows": "g.jsonl", "of": "ifd"},
]  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from(EVERY), st.integers(0, 40), st.integers(0, 3), st.integers(0, 2**32 - 1), st.data())
def test_sizes_are_nested_and_the_order_of_rows_changes_nothing(
    written: Any, size: int, labels: int, seed: int, data: st.DataObject
) -> None:
    pool = pool_of(size, labels)
    numbers = st.sampled_from([0.2, 0.5, 0.9, 1.1])  # with equals, and some above 1
    scores = {name: {one.id: data.draw(numbers) for one in pool.kept} for name in ("student_fit", "ifd", "diverse")}
    order = in_order(arm(written), pool, seed, scores)
    large = data.draw(st.integers(0, len(order)))
    small = data.draw(st.integers(0, large))
    chosen = choose(arm(written), pool, large, seed, scores)
    assert choose(arm(written), pool, small, seed, scores) == chosen[:small]
    assert len({one.id for one in order}) == len(order)
    assert {one.id for one in order} <= {one.id for one in rows_of(arm(written), pool)}

    shuffle = random.Random(seed)
    mixed_up = Pool(
        seeds=tuple(shuffle.sample(pool.seeds, size)),
        kept=tuple(shuffle.sample(pool.kept, size)),
        general={name: tuple(shuffle.sample(rows, size)) for name, rows in pool.general.items()},
    )
    assert in_order(arm(written), mixed_up, seed, scores) == order


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=6), st.integers(1, 120))
def test_a_mix_has_its_shares_at_every_size(weights: list[int], size: int) -> None:
    shares = [Fraction(weight, sum(weights)) for weight in weights]
    parts = [(share, [row(f"{place} {i}") for i in range(size)]) for place, share in enumerate(shares)]
    order = list(mixed(parts))
    assert len(order) >= size
    counts: Counter[int] = Counter()
    for total, one in enumerate(order[:size], start=1):
        counts[int(one.text.split()[0])] += 1
        for place, share in enumerate(shares):
            assert abs(counts[place] - share * total) < 1, "never off by a whole row, also while sizes grow"


def test_a_mix_takes_a_row_once_and_ends_where_a_part_has_no_more() -> None:
    rows = [row(f"text {i}") for i in range(6)]
    half = Fraction(1, 2)
    assert [one.text for one in mixed([(half, rows[:2]), (half, rows)])] == ["text 0", "text 1"]
    assert [one.text for one in mixed([(half, rows[4:]), (half, rows)])] == [f"text {i}" for i in (4, 0, 5, 1)]


@given(st.lists(st.integers(0, 20), max_size=5), st.integers(0, 60))
def test_labels_are_called_as_often_as_a_size_needs(groups: list[int], size: int) -> None:
    rounds = rounds_of(groups, size)
    assert sum(min(rounds, group) for group in groups) >= min(size, sum(groups))
    assert rounds == 0 or sum(min(rounds - 1, group) for group in groups) < min(size, sum(groups))


def test_a_text_names_what_it_can() -> None:
    assert arm_named("without_") is None
    assert arm_named("mix_human_50_filtered_50") is None
