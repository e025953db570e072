"""Examples written in the formats of other tools are read again as they were, or are not written."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.examples import ExampleFile, Shape, read_examples
from harness.data.writing import CONVERSATIONS, TARGETS, Target, example_lines, prompt_lines
from harness.errors import UsageError
from harness.records import Example, Message

SHAPES = {  # of every shipped task, and names that formats use for something else
    "label": Shape(labels=("billing", "lost bike")),
    "answer": Shape(),
    "question": Shape(("question",)),
    "edit": Shape(("instruction", "input"), optional=("input",)),
    "document": Shape(("document", "question")),
    "three": Shape(("title", "body", "question"), optional=("title", "body")),
    "prompt": Shape(("prompt",)),
    "output": Shape(("output", "instruction")),
    "messages": Shape(("messages",)),
}
ALIVE = st.text(min_size=1, max_size=40).map(str.strip).filter(bool)  # examples are stripped, and none is empty
TURNS = st.lists(st.tuples(ALIVE, ALIVE), max_size=2)


@st.composite
def examples_of(draw: st.DrawFn, shape: Shape, *, turns: bool) -> Example:
    fields = {name: draw(st.one_of(st.just(""), ALIVE) if name in shape.optional else ALIVE) for name in shape.fields}
    if not any(fields.values()):
        fields[shape.fields[0]] = draw(ALIVE)
    answer = draw(st.sampled_from(shape.labels) if shape.labels else ALIVE)
    pairs = draw(TURNS) if turns else []
    said = [Message(role=r, content=t) for pair in pairs for r, t in zip(("user", "assistant"), pair, strict=True)]
    system = draw(st.booleans())
    if said and system:
        said.insert(0, Message(role="system", content=draw(ALIVE)))
    return Example(fields=fields, turns=tuple(said), answer=answer, label=answer if shape.labels else None)


def read_again(lines: Sequence[dict[str, Any]], ending: str, shape: Shape) -> tuple[Example, ...]:
    """What a run whose `rows_file` is a file of these lines has."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows.{ending}"
        if ending == "parquet":
            import pyarrow as pa
            from pyarrow import parquet

            parquet.write_table(pa.Table.from_pylist(list(lines)), path)
        else:
            path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        return read_examples(ExampleFile(path=path.name), Path(folder), shape, "here").examples


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", SHAPES)
@settings(deadline=None, max_examples=40)  # the first one imports pyarrow
@given(data=st.data())
def test_what_is_written_is_read_again_as_equal_examples(name: str, target: Target, data: st.DataObject) -> None:
    shape = SHAPES[name]
    turns = data.draw(st.booleans())
    examples = data.draw(st.lists(examples_of(shape, turns=turns), min_size=1, max_size=4))
    held = target == "fields" or len(shape.fields) == 1 or (target == "alpaca" and name == "edit")
    if held and not (target not in CONVERSATIONS and any(example.turns for example in examples)):
        lines = example_lines(examples, target, shape)
    else:  # some examples fit all the same: those that leave optional fields empty
        lines = []
        with suppress(UsageError):
            lines = example_lines(examples, target, shape)
    for ending in ("jsonl", "parquet") if lines else ():
        assert read_again(lines, ending, shape) == tuple(examples)


def example(fields: dict[str, str], answer: str, *turns: tuple[str, str]) -> Example:
    said = [Message.model_validate({"role": role, "content": content}) for role, content in turns]
    return Example(fields=fields, answer=answer, turns=tuple(said))


EDIT = example({"instruction": "Shout.", "input": "hi"}, "HI")
BARE = example({"instruction": "Sing.", "input": ""}, "la")
SAID = example({"text": "Ann"}, "Come in.", ("system", "Be kind."), ("user", "Hello"), ("assistant", "Who is it?"))
PLAIN = example({"text": "Why?"}, "So.")


def test_every_format_is_written_as_other_tools_read_it() -> None:
    assert example_lines([EDIT, BARE], "alpaca", SHAPES["edit"]) == [
        {"instruction": "Shout.", "input": "hi", "output": "HI"},
        {"instruction": "Sing.", "input": "", "output": "la"},
    ]
    assert example_lines([PLAIN], "alpaca", Shape()) == [{"instruction": "Why?", "input": "", "output": "So."}]
    assert example_lines([EDIT], "fields", SHAPES["edit"]) == [{"instruction": "Shout.", "input": "hi", "answer": "HI"}]
    assert example_lines([PLAIN], "prompt_completion", Shape()) == [{"prompt": "Why?", "completion": "So."}]
    assert example_lines([PLAIN], "messages", Shape()) == [
        {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}
    ]
    assert example_lines([SAID], "sharegpt", Shape())[0]["conversations"] == [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "Hello"},
        {"from": "gpt", "value": "Who is it?"},
        {"from": "human", "value": "Ann"},
        {"from": "gpt", "value": "Come in."},
    ]
    both = example_lines([PLAIN, SAID], "prompt_completion", Shape())
    assert both[0] == {
        "prompt": [{"role": "user", "content": "Why?"}],
        "completion": [{"role": "assistant", "content": "So."}],
    }
    assert [turn["role"] for turn in both[1]["prompt"]] == ["system", "user", "assistant", "user"]


REFUSED = [
    ([PLAIN, SAID], "alpaca", Shape(), "--to alpaca: 1 of 2 rows do not fit: they have earlier turns", "--to messages, sharegpt, prompt_completion can hold"),
    ([SAID], "fields", Shape(), "they have earlier turns", "--to messages"),
    ([EDIT, BARE], "messages", SHAPES["edit"], "1 of 2 rows do not fit: they fill the fields instruction, input, which it cannot tell apart", "--to fields, alpaca can hold"),
    ([example({"document": "d", "question": "q"}, "a")], "alpaca", SHAPES["document"], "they fill the fields document, question", "--to fields can hold"),
    ([example({"document": "d", "question": "q"}, "a", ("user", "b"), ("assistant", "c"))], "fields", SHAPES["document"], "earlier turns", "earlier turns, for which it has no place; --prompts writes"),
    ([example({"text": " padded "}, "a")], "messages", Shape(), "' padded ' would be read otherwise", "; --prompts"),
]  # fmt: skip


@pytest.mark.parametrize(("examples", "target", "shape", "why", "instead"), REFUSED)
def test_what_a_format_cannot_hold_is_said(
    examples: list[Example], target: Target, shape: Shape, why: str, instead: str
) -> None:
    with pytest.raises(UsageError) as caught:
        example_lines(examples, target, shape)
    assert why in str(caught.value)
    assert instead in str(caught.value)


def test_prompts_are_written_with_their_system_message_or_not_at_all() -> None:
    turns = [Message(role="system", content="Sort."), Message(role="user", content="x\nTopic:")]
    conversation = [*turns, Message(role="assistant", content="billing")]
    assert [turn["from"] for turn in prompt_lines([conversation], "sharegpt")[0]["conversations"]] == [
        "system", "human", "gpt",
    ]  # fmt: skip
    (line,) = prompt_lines([conversation], "prompt_completion")
    assert (line["prompt"][0]["content"], line["completion"][0]["content"]) == ("Sort.", "billing")
    for target in ("alpaca", "fields"):
        with pytest.raises(UsageError, match=f"--to {target} --prompts: it has no place for a system message"):
            prompt_lines([conversation], target)
