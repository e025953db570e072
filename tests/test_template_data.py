"""What every kind of template is given: plain data, and no way from it to anything else.

Each kind is rendered for real, with a template that tries every name that any object of ours has: as a field, as an
item and as a method.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.runtime import Context, LoopContext, Macro

from harness.augment.plan import plan_rows
from harness.augment.rows import student_prompt
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.record import Record
from harness.core.sandbox import METHODS
from harness.core.templates import compile_template, load, plain
from harness.errors import UsageError
from harness.eval.prompting import PromptForms
from harness.filters import Context as FilterContext
from harness.filters import Judge
from harness.models.chat_template import of_tokenizer, prompt_text
from harness.models.teachers import Teachers
from harness.records import Example, Item, Message, Provenance, Row
from harness.suites.generate import Ending
from harness.suites.rubric import Rubric
from tests.project import labelled, prompted_row, write_project

Render = Callable[[str], str]  # a template's source -> what it renders to

KINDS = (
    *(str, int, bool, dict, list, tuple, range),
    *(Row, Example, Record, Message, Run, Path, Context, LoopContext, Macro),
)
NAMES = sorted({name for kind in KINDS for name in dir(kind)} | {"format_map", "gi_frame", "f_globals", "_self"})
QUESTION = Example(fields={"text": "a text"})
SHOT = {"text", "label", "answer", "turns"}  # what an example has; the judge's have a wrong label too


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(write_project(tmp_path_factory.mktemp("project"), "tiny"))


@pytest.fixture(params=["student", "untuned", "untuned_rows", "teacher", "judge", "rubric"])
def kind(request: pytest.FixtureRequest, run: Run) -> tuple[Render, set[str]]:
    """How a kind of template is rendered in the product, and the variables it has."""
    return KINDS_OF_TEMPLATE[request.param](run)


def _student(run: Run) -> tuple[Render, set[str]]:
    def render(source: str) -> str:
        return student_prompt(run.task, compile_template(Path("a.j2"), source), QUESTION)[-1].content

    return render, {"text"}


def _untuned(run: Run) -> tuple[Render, set[str]]:
    return _untuned_with(run, run.seeds[:2])


def _untuned_rows(run: Run) -> tuple[Render, set[str]]:
    return _untuned_with(run, [prompted_row("a text", "parcel").example])


def _untuned_with(run: Run, shots: Any) -> tuple[Render, set[str]]:
    def render(source: str) -> str:
        own = run.prompts.student
        shown = PromptForms(run.task, own, compile_template(Path("a.j2"), source), "", Ending())
        asked = shown.prompt("completion", QUESTION, shots)
        assert isinstance(asked, str)
        return asked

    return render, {"text", "turns", "labels", "shots"}


def _teacher(run: Run) -> tuple[Render, set[str]]:
    path = run.root / run.file.augment.templates[0].path
    before = path.read_text()

    def render(source: str) -> str:
        path.write_text(source)
        try:
            plan = plan_rows(run, Teachers(own="teacher@1"))
            return plan.requests(plan.begin(("parcel", 0)))[0].prompt
        finally:
            path.write_text(before)

    return render, {"label", "description", "labels", "shots", "index"}


def _judge(run: Run) -> tuple[Render, set[str]]:
    path = run.root / "prompts/shop/tried.j2"
    judge = Judge(kind="judge", template="prompts/shop/tried.j2", shots=1)
    context = FilterContext(
        root=run.root, seeds=run.seeds, labels=run.task.labels, protected=(), teachers=Teachers(own="t@1")
    )

    def render(source: str) -> str:
        path.write_text(source)
        request = judge.ask([prompted_row("another text", "parcel")], context)[0]
        return request.prompt or request.messages[-1].content

    return render, {"text", "label", "answer", "turns", "description", "labels", "shots"}


def _rubric(run: Run) -> tuple[Render, set[str]]:
    def render(source: str) -> str:
        try:
            rubric = Rubric(rubric="Which is kinder?", prompt=source, planted=0)
        except ValueError as error:
            raise UsageError(str(error)) from error
        request = rubric.ask([Item(text="Say hello.", answers=("Hello.",))], ["Hi."], "judge@1")[0]
        return request.messages[-1].content

    return render, {"rubric", "question", "a", "b"}


KINDS_OF_TEMPLATE = {
    "student": _student,
    "untuned": _untuned,
    "untuned_rows": _untuned_rows,
    "teacher": _teacher,
    "judge": _judge,
    "rubric": _rubric,
}


def test_no_attribute_is_reached_from_any_variable(kind: tuple[Render, set[str]]) -> None:
    render, variables = kind
    inside = {"shots": ["shots[0]", "shots[0].text"], "labels": ["labels.parcel"]}
    for place in sorted(place for name in variables for place in [name, *inside.get(name, ())]):
        for start in range(0, len(NAMES), 100):
            tried = "".join(
                f"{{% if {place}.{name} is defined or {place}['{name}'] is defined %}}{name} {{% endif %}}"
                for name in NAMES[start : start + 100]
            )
            reached = render(f"reached: {{% if {place} is defined %}}{tried}{{% endif %}}").split()[1:]
            assert set(reached) <= SHOT | {"wrong"}, place


def test_no_method_is_called_but_the_listed_ones(kind: tuple[Render, set[str]]) -> None:
    render, variables = kind
    for name in ("parse_raw", "parse_file", "copy", "model_construct", "model_dump", "format", "__init__", "open"):
        for place in sorted(variables):
            for call in (
                f"{place}.{name}()",
                f"{place}['{name}']()",
                f"{place}[0].{name}()",
                f"({place} | first).{name}()",
            ):
                with pytest.raises(UsageError, match=":1: "):
                    render(f"{{{{ {call} }}}}")


@pytest.mark.parametrize("name", sorted(set(NAMES) - METHODS))
def test_a_method_of_another_name_is_refused_before_anything_runs(name: str) -> None:
    with pytest.raises(UsageError, match=f"^a.j2:1: no method '{name}' here"):
        compile_template(Path("a.j2"), f"{{{{ text.{name}() }}}}")


def test_every_variable_is_text_a_number_or_a_list_or_dict_of_them(kind: tuple[Render, set[str]]) -> None:
    render, variables = kind
    given = render("{{ {" + ", ".join(f"'{name}': {name}" for name in sorted(variables)) + "} | tojson }}")
    read = json.loads(given)
    assert set(read) == variables
    for shot in read.get("shots", []):
        assert SHOT <= set(shot) <= SHOT | {"wrong"}


def test_a_record_becomes_its_fields() -> None:
    row = Row(
        messages=(Message(role="user", content="x"),),
        example=labelled("t", "l"),
        provenance=Provenance(source="own", seeds=("s",)),
    )
    assert plain([row])[0]["provenance"]["seeds"] == ["s"]
    with pytest.raises(TypeError):
        plain({"x": Path()})
    with pytest.raises(TypeError):
        plain(lambda: 0)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.builds(labelled, st.text(min_size=1), st.just("l")),
        lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_plain_data_has_only_plain_types(value: Any) -> None:
    waiting = [plain(value)]
    while waiting:
        one = waiting.pop()
        assert one is None or type(one) in (bool, int, float, str, list, dict)
        if isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one


@pytest.mark.parametrize("context", ["{question.__class__}", "{question:>99999999}", "{0}", "{answer}"])
def test_a_suite_puts_the_question_alone_into_its_context(run: Run, context: str) -> None:
    path = run.root / "suites/facts.yaml"
    before = path.read_text()
    path.write_text(f"{before}context: '{context}'\n")
    try:
        with pytest.raises(UsageError, match=r"facts\.yaml:\d+: .*\{question\}"):
            load_run(run.root / "runs/shop.yaml")
    finally:
        path.write_text(before)


class _Listening:
    """Stands for a tokenizer, and keeps what reaches its chat template."""

    chat_template = "{{ messages }}"

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    def apply_chat_template(self, messages: list[dict[str, str]], **settings: Any) -> str:
        self.given = {"messages": messages, **settings}
        return "x"


def test_a_chat_template_is_handed_plain_data() -> None:
    tokenizer = _Listening()
    chat = of_tokenizer("m", tokenizer, frozenset({1}))
    prompt_text(chat, [Message(role="system", content="s"), Message(role="user", content="u")])
    assert tokenizer.given["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert all(
        type(turn) is dict and all(type(v) is str for v in turn.values()) for turn in tokenizer.given["messages"]
    )
    clock = tokenizer.given.pop("strftime_now")  # instead of transformers' own, which tells today's date
    assert clock("%Y") == clock("%Y") == "2024"
    assert all(type(value) is bool for name, value in tokenizer.given.items() if name != "messages")


def test_shipped_templates_keep_within_the_sandbox() -> None:
    for path in sorted((Path(__file__).parent.parent / "prompts").rglob("*.j2")):
        load(path)
