"""Examples as lines of the formats of other tools: the other way round of `examples`.

    fields               {"instruction": ..., "input": ..., "answer": ...}
    messages             {"messages": [{"role": "user", "content": ...}, ...]}
    sharegpt             {"conversations": [{"from": "human", "value": ...}, ...]}
    alpaca               {"instruction": ..., "input": ..., "output": ...}
    prompt_completion    {"prompt": ..., "completion": ...}, as texts, or as messages where any row has more than two

A line is read again by `examples` as an equal example, or it is not written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from harness.data.examples import Shape, example_of
from harness.errors import UsageError
from harness.records import Example, Message

Target = Literal["fields", "messages", "sharegpt", "alpaca", "prompt_completion"]
TARGETS: tuple[Target, ...] = get_args(Target)
CONVERSATIONS: tuple[Target, ...] = ("messages", "sharegpt", "prompt_completion")
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}

Line = dict[str, Any]
Conversation = Sequence[Message]


def example_lines(examples: Sequence[Example], target: Target, shape: Shape) -> list[Line]:
    """A line for each example. Raises UsageError where one could not be read again as it is."""
    lines = _written(examples, target, shape)
    unfit = [example for example, line in zip(examples, lines, strict=True) if not _same(example, line, shape)]
    if unfit:
        others = [other for other in TARGETS if _fit(examples, other, shape)]
        instead = f"--to {', '.join(others)} can hold them all; " if others else ""
        raise UsageError(
            f"--to {target}: {len(unfit)} of {len(examples)} rows do not fit: {_lost(unfit[0], target)};"
            f" {instead}--prompts writes the prompts that students see: --to {', '.join(CONVERSATIONS)}"
        )
    return lines


def prompt_lines(conversations: Sequence[Conversation], target: Target) -> list[Line]:
    """A line for each conversation as a student is tuned on it. Raises UsageError for a format that holds none."""
    if target not in CONVERSATIONS:
        raise UsageError(
            f"--to {target} --prompts: it has no place for a system message and turns;"
            f" allowed with --prompts: {', '.join(CONVERSATIONS)}"
        )
    return _conversation_lines(conversations, target)


def _written(examples: Sequence[Example], target: Target, shape: Shape) -> list[Line]:
    if target == "fields":
        return [{**example.fields, shape.answer_name: example.answer} for example in examples]
    if target == "alpaca":
        return [_alpaca(example) for example in examples]
    conversations = [
        (*e.turns, Message(role="user", content=_input(e.fields)), Message(role="assistant", content=e.answer))
        for e in examples
    ]
    return _conversation_lines(conversations, target)


def _conversation_lines(conversations: Sequence[Conversation], target: Target) -> list[Line]:
    if target == "messages":
        return [{"messages": _messages(turns)} for turns in conversations]
    if target == "sharegpt":
        return [
            {"conversations": [{"from": SHAREGPT[turn.role], "value": turn.content} for turn in turns]}
            for turns in conversations
        ]
    if all([turn.role for turn in turns] == ["user", "assistant"] for turns in conversations):
        return [{"prompt": turns[0].content, "completion": turns[1].content} for turns in conversations]
    return [{"prompt": _messages(turns[:-1]), "completion": _messages(turns[-1:])} for turns in conversations]


def _messages(turns: Conversation) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _alpaca(example: Example) -> Line:
    fields = dict(example.fields)
    if "instruction" in fields:
        texts = {"instruction": fields.pop("instruction"), "input": fields.pop("input", "")}
    else:
        texts = {"instruction": _input(fields), "input": ""}
    return {**texts, "output": example.answer}


def _input(fields: Mapping[str, str]) -> str:
    return "\n\n".join(filter(None, fields.values()))


def _same(example: Example, line: Line, shape: Shape) -> bool:
    """Whether the line is read as this very example."""
    try:
        return example_of(line, shape, "a row") == example
    except UsageError:
        return False


def _fit(examples: Sequence[Example], target: Target, shape: Shape) -> bool:
    lines = _written(examples, target, shape)
    return all(_same(example, line, shape) for example, line in zip(examples, lines, strict=True))


def _lost(example: Example, target: Target) -> str:
    """What of an example such a line does not hold."""
    if example.turns and target not in CONVERSATIONS:
        return "they have earlier turns, for which it has no place"
    filled = [name for name, text in example.fields.items() if text]
    if len(filled) > 1 and target != "fields":
        return f"they fill the fields {', '.join(filled)}, which it cannot tell apart"
    return f"{example.text[:60]!r} would be read otherwise"
