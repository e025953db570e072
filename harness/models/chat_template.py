"""From a row to token ids, with the tokenizer's own chat template. No torch.

What a student is tuned on must be what it is asked with later: the prompt part is the template's own
generation prompt, and what is learned after it is the answer and the token that ends the turn, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from harness.core.record import digest
from harness.errors import UsageError
from harness.models.files import load, text_number, token_ids
from harness.records import Message, Row

CONTEXT_KEYS = ("max_position_embeddings", "n_positions")  # what configs call the length of the context
PROMPT_DATE = date(2024, 7, 26)  # the one that Llama's templates fall back to


@dataclass(frozen=True)
class Chat:
    """A student's tokenizer and the tokens that end its turn."""

    name: str  # the model's name, for messages
    tokenizer: Any  # a transformers tokenizer with a chat template
    stops: frozenset[int]


@dataclass(frozen=True)
class TokenizedRow:
    """One row as token ids, and which of them carry loss: answers, each with the token that ends its turn."""

    row: str  # the row's id
    ids: tuple[int, ...]
    learned: tuple[tuple[int, int], ...]  # (first, end) of each answer; the last one ends the row

    @property
    def answer_start(self) -> int:
        """Where the last answer begins."""
        return self.learned[-1][0]

    @property
    def learned_tokens(self) -> int:
        """How many of the tokens carry loss."""
        return sum(end - first for first, end in self.learned)


def load_chat(name: str, folder: Path) -> Chat:
    """A model's tokenizer and its stop tokens.

    Raises UsageError when it cannot be loaded, has no chat template or no stop, or a token beyond the embedding.
    """
    tokenizer = load_tokenizer(name, folder)
    return of_tokenizer(name, tokenizer, stop_tokens(folder, tokenizer.eos_token_id))


def load_tokenizer(name: str, folder: Path) -> Any:
    """A model's tokenizer, every token of which its embedding has. Raises UsageError when there is none."""
    from transformers import AutoTokenizer

    tokenizer = load(AutoTokenizer, name, folder)
    check_tokens(name, tokenizer, folder)
    return tokenizer


def check_tokens(name: str, tokenizer: Any, folder: Path) -> None:
    """Raises UsageError naming a token that the tokenizer has and the model's embedding has not."""
    rows = text_number(name, folder / "config.json", "vocab_size")
    beyond = sorted((i, token) for token, i in tokenizer.get_vocab().items() if rows is not None and i >= rows)
    if beyond:
        i, token = beyond[0]
        raise UsageError(
            f"{name}: its tokenizer has {len(beyond)} tokens more than its embedding ({rows} rows), the first of them"
            f" {token!r} (id {i}): take the tokenizer that belongs to these weights, or resize the embedding"
        )


def of_tokenizer(name: str, tokenizer: Any, stops: frozenset[int]) -> Chat:
    """The same for a tokenizer that is loaded already. Raises as `load_chat`."""
    if not tokenizer.chat_template:
        raise UsageError(f"{name}: its tokenizer has no chat template; a student needs an instruct model")
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        names = ", ".join(sorted(map(repr, tokenizer.chat_template)))
        raise UsageError(f"{name}: none of its chat templates ({names}) is called 'default', which is the one to use")
    if not stops:
        raise UsageError(f"{name}: neither its tokenizer nor its settings name an eos token")
    return Chat(name, tokenizer, stops)


def template_digest(chat: Chat) -> str:
    """16 hex digits over the text of the chat template: equal ones write the same row alike."""
    return digest("chat template", chat.tokenizer.get_chat_template())[:16]


def context_length(name: str, folder: Path) -> int | None:
    """Tokens that a model can read at once, by its config. None where it names no limit.

    Raises UsageError for a limit that is no number.
    """
    named = (text_number(name, folder / "config.json", key) for key in CONTEXT_KEYS)
    return next((length for length in named if length is not None), None)


def stop_tokens(folder: Path, eos: int | None) -> frozenset[int]:
    """Ids that end a generated answer: the tokenizer's eos and what the model's settings add to it.

    Raises UsageError for settings that name something else than tokens.
    """
    paths = [path for name in ("generation_config.json", "config.json") if (path := folder / name).is_file()]
    named = [token for path in paths for token in token_ids(folder.name, path, "eos_token_id")]
    return frozenset([*named, *([] if eos is None else [eos])])


def prompt_text(chat: Chat, messages: Sequence[Message]) -> str:
    """The text after which the model answers `messages`. Raises UsageError when the template refuses them."""
    # Templates that can think switch it off by this name; the others ignore it.
    return _render(chat, messages, add_generation_prompt=True, enable_thinking=False)


def left_out(chat: Chat, messages: Sequence[Message]) -> list[str]:
    """A warning for each message that the chat template does not write: it would reach no prompt, in silence.

    Raises as `prompt_text`.
    """
    text = prompt_text(chat, messages)
    return [
        f"warning: {chat.name}: its chat template leaves out the {role} message, or changes it: what is said there"
        " reaches no prompt, neither in tuning nor in scoring"
        for role in dict.fromkeys(m.role for m in messages if m.content.strip() not in text)
    ]


def tokenize_row(chat: Chat, row: Row) -> TokenizedRow:
    """The row's ids, and where its answer starts. They end with the stop token and are never cut.

    Raises UsageError naming the row when the template's prompt is no prefix of the whole conversation,
    when something else than the answer follows it, or when no stop token does.
    """
    ids, start = tokenize_chat(chat, row.messages, f"row {row.id}")
    earlier = _earlier_answers(chat, row, ids) if row.loss == "all" else ()
    return TokenizedRow(row.id, ids, (*earlier, (start, len(ids))))


def _earlier_answers(chat: Chat, row: Row, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, end) of every answer before the last. Raises UsageError where the template writes it otherwise."""
    for place, message in enumerate(row.messages[:-1]):
        if message.role != "assistant":
            continue
        before = prompt_ids(chat, row.messages[:place])
        end = next((i + 1 for i in range(len(before), len(ids)) if ids[i] in chat.stops), None)
        if not message.content.strip():
            raise UsageError(f"{chat.name}: row {row.id}: the assistant's turn {place + 1} is empty, and it is learned")
        decoded = chat.tokenizer.decode(ids[len(before) : end])
        if ids[: len(before)] != before or end is None or not decoded.lstrip().startswith(message.content.strip()):
            raise UsageError(
                f"{chat.name}: row {row.id}: the chat template writes the assistant's turn {place + 1} otherwise once"
                " more follows it, so that it cannot be learned there: set the task's loss to last"
            )
        yield len(before), end


def prompt_ids(chat: Chat, messages: Sequence[Message]) -> tuple[int, ...]:
    """The token ids after which the model answers `messages`. Raises as `prompt_text`."""
    return _ids(chat, prompt_text(chat, messages))


def tokenize_chat(chat: Chat, messages: Sequence[Message], what: str) -> tuple[tuple[int, ...], int]:
    """(ids of a conversation up to its stop token, where its last answer starts). Raises as `tokenize_row`."""
    prompt, full = prompt_text(chat, messages[:-1]), _render(chat, messages)
    where = f"{chat.name}: {what}"
    answer = messages[-1].content
    if messages[-1].role != "assistant" or not answer.strip():
        raise UsageError(f"{where}: its last message is not an assistant's answer with text in it")
    if not full.startswith(prompt):
        raise UsageError(
            f"{where}: the chat template writes the prompt differently once it is answered, so a student"
            f" would be tuned on another prompt than it is asked with: {prompt[-60:]!r} is not in the whole"
        )
    if not full[len(prompt) :].lstrip().startswith(answer.strip()):
        raise UsageError(
            f"{where}: the chat template puts {full[len(prompt) :][:60]!r} where the answer {answer[:60]!r} belongs"
        )
    ids, before = _ids(chat, full), _ids(chat, prompt)
    if ids[: len(before)] != before:
        raise UsageError(
            f"{where}: the prompt's last token and the answer's first merge into one;"
            f" the chat template must end the prompt with a mark or a line break"
        )
    return ids[: _end(chat, where, ids, len(before))], len(before)


def _end(chat: Chat, where: str, ids: Sequence[int], answer_start: int) -> int:
    """The place after the first stop token of the answer. Only white space may follow it."""
    ends = [i for i in range(answer_start, len(ids)) if ids[i] in chat.stops]
    if not ends:
        last = chat.tokenizer.decode(ids[-1:])
        raise UsageError(
            f"{where}: no stop token ({_named(chat, chat.stops)}) follows the answer (the template ends with"
            f" {last!r}): a student tuned on it would never stop; use a model whose template ends the turn"
        )
    rest = [token for token in ids[ends[0] + 1 :] if token not in chat.stops]
    if chat.tokenizer.decode(rest).strip():
        raise UsageError(f"{where}: the answer holds the stop token {_named(chat, [ids[ends[0]]])} before its end")
    return ends[0] + 1


def _named(chat: Chat, tokens: Iterable[int]) -> str:
    return ", ".join(repr(chat.tokenizer.decode([token])) for token in sorted(tokens))


def _render(chat: Chat, messages: Sequence[Message], **settings: bool) -> str:
    """The template's text. It is given plain data only: dicts of strings, true and false."""
    import jinja2

    turns = [{"role": str(message.role), "content": message.content} for message in messages]
    roles = ", ".join(message.role for message in messages)
    try:
        text = chat.tokenizer.apply_chat_template(turns, tokenize=False, strftime_now=_fixed_date, **settings)
    except jinja2.TemplateSyntaxError as error:
        raise UsageError(f"{chat.name}: its chat template is broken at line {error.lineno}: {error.message}") from error
    except jinja2.TemplateError as error:
        raise UsageError(f"{chat.name}: its chat template refuses a conversation of {roles}: {error}") from error
    except Exception as error:  # whatever it is, the template did it
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UsageError(f"{chat.name}: its chat template fails on a conversation of {roles}: {reason}") from error
    return str(text)


def _fixed_date(form: str) -> str:
    """The date that templates are told which write today's: a prompt must not change from day to day."""
    return PROMPT_DATE.strftime(form)


def _ids(chat: Chat, text: str) -> tuple[int, ...]:
    return tuple(chat.tokenizer(text, add_special_tokens=False)["input_ids"])
