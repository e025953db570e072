"""The model that writes data, as a run file names it: one kind for each engine that reaches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from harness.core.record import Record
from harness.records import Completion

Name = Annotated[str, Field(min_length=1)]
Concurrency = Annotated[int, Field(ge=1, le=4096)]  # requests in flight at once


class _Model(Record):
    model: Name  # hub id (owner/name), local folder, or a bundled name; what an endpoint calls it
    prompt_price: Annotated[float, Field(ge=0)] | None = None  # money per million prompt tokens
    completion_price: Annotated[float, Field(ge=0)] | None = None  # money per million completion tokens


class VLLMTeacher(_Model):
    """A teacher whose weights vLLM runs in this process."""

    engine: Literal["vllm"]
    revision: str | None = None  # hub commit or tag; None takes the newest and records its commit
    concurrency: Concurrency = 128
    max_model_len: Annotated[int, Field(ge=64)] = 2048  # tokens of prompt and completion
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.85  # share of GPU memory vLLM may take
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1  # GPUs that hold one copy of the teacher


class OpenAITeacher(_Model):
    """A teacher behind an OpenAI-compatible endpoint."""

    engine: Literal["openai"]
    revision: str | None = None  # tells answers of one version of the model from those of another
    # where the endpoint answers, e.g. http://127.0.0.1:8000/v1, or several that have the same model
    base_url: str | tuple[str, ...]
    api_key_env: str = "OPENAI_API_KEY"  # the environment variable that holds the key
    concurrency: Concurrency = 128

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        from harness.models.endpoint import address_problem  # imports an HTTP client: half a second

        if not self.addresses:
            raise ValueError("base_url names no address")
        for address in self.addresses:
            if problem := address_problem(address):
                raise ValueError(f"base_url {problem}")
        if len({address.rstrip("/") for address in self.addresses}) < len(self.addresses):
            raise ValueError("base_url repeats an address")
        return self

    @property
    def addresses(self) -> tuple[str, ...]:
        """The endpoints that share the work."""
        return (self.base_url,) if isinstance(self.base_url, str) else self.base_url


class TransformersTeacher(_Model):
    """A teacher whose weights transformers runs in this process."""

    engine: Literal["transformers"]
    revision: str | None = None  # hub commit or tag; None takes the newest and records its commit


class ScriptedTeacher(_Model):
    """Answers that a JSON file holds, for tests and demonstrations."""

    engine: Literal["scripted"]
    revision: ClassVar[None] = None  # the content of the script says which answers these are
    script: Name  # the JSON file of answers


def _engine_stated(written: Any) -> Any:
    return {"engine": "vllm", **written} if isinstance(written, dict) else written


Teacher = Annotated[
    Annotated[
        VLLMTeacher | OpenAITeacher | TransformersTeacher | ScriptedTeacher,
        Field(discriminator="engine"),
    ],
    BeforeValidator(_engine_stated),  # vllm where none is stated
]


def beside_money(unpriced: Sequence[str]) -> str:
    """What is said beside a sum of money that lacks what these teachers take, since they have no price, or ''."""
    return f" (without {', '.join(unpriced)}: no price is given)" if unpriced else ""


Price = Callable[[str, Completion], float | None]  # name@revision, what it answered -> money, None without a price


def price_of(teacher: Teacher, prompt_tokens: int, completion_tokens: int) -> float | None:
    """What tokens cost in the currency of the run file's prices, or None where it names none."""
    if teacher.prompt_price is None and teacher.completion_price is None:
        return None
    prices = teacher.prompt_price or 0.0, teacher.completion_price or 0.0
    return (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6


def pricing(by_model: Mapping[str, Teacher]) -> Price:
    """What completions cost. `by_model`: name@revision -> the teacher as the run file has it."""

    def price(model: str, completion: Completion) -> float | None:
        teacher = by_model.get(model)
        return price_of(teacher, completion.prompt_tokens, completion.completion_tokens) if teacher else None

    return price
