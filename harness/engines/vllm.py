"""vLLM inside this process, on a GPU or on CPU cores. Completions stream out as they finish.

Several LoRA adapters answer in one engine: `adapters` maps a request's `model` to the one that answers it.

What was learnt about vLLM 0.32 on CPU, measured with a 135M model on two cores:
- It is told to stay in this process: a worker process of its own takes 37 s to start instead of 6.
- A seed per request crashes its CPU sampler. The engine is seeded anew for each call of `generate`, from
  `random_seed` and the first request, so that asking for more later does not draw the same numbers again.
- It shares the key-value cache of equal beginnings in whole blocks, of 128 tokens on CPU by default: short
  prompts would share nothing. In blocks of 32, 28% of the tokens of 90-token list prompts were not computed
  again, and a generated token cost a tenth less.
- 64, 128 or 256 requests in flight cost the same there, within 3%. The default is for GPUs.
- Its CPU kernels give a request without an adapter the last adapter slot (vllm-project/vllm#48421): beside
  adapters the base would answer as one of them. One slot more than there are adapters stays empty, and is it.
- Log-probabilities under guided choice come after the mask: over all that may come first they sum to one. The
  likeliest 20 need not hold every choice, so each token with which a choice can begin is asked for by its id.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import MachineError, UsageError, nearest
from harness.models.chat_template import Chat, check_tokens, prompt_ids
from harness.models.files import check_adapter, check_model
from harness.records import Completion, Request, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from vllm import RequestOutput, SamplingParams
    from vllm.logprobs import Logprob
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.llm_engine import LLMEngine

IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
ENVIRONMENT = {  # where the user has not set them otherwise
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "VLLM_HOST_IP": "127.0.0.1",  # otherwise it opens a socket to a public address to learn its own
}
CPU_BLOCK = 32  # tokens of a shared piece of the cache; the CPU kernels want multiples of 32
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM has kernels for
MOST_LORAS = 8  # adapters in one batch; the others wait their turn
SMALLER = "lower teacher.gpu_memory_utilization, teacher.max_model_len or teacher.concurrency, or take a smaller model"
MOST_FIRST_TOKENS = 128  # log-probabilities that vLLM gives by id at one position
_TURN, _NEXT = threading.Lock(), threading.Lock()


class VLLMEngine:
    """Answers plain prompts and chats, up to `concurrency` at once, as one continuous batch.

    `model` is a folder of safetensors. `max_model_len` bounds prompt and completion together (tokens).
    `gpu_memory_utilization` is the share of a GPU's memory it may take. On CPU the cache takes VLLM_CPU_KVCACHE_SPACE
    GiB.
    `adapters` maps `Request.model` to a folder as PEFT saves it, or to None for the base. Without it, the
    base answers everything, whatever its name. Raises UsageError for a folder that holds no such thing,
    MachineError when vLLM is missing or cannot load the model.
    """

    def __init__(
        self,
        model: Path,
        *,
        random_seed: int = 0,
        max_model_len: int = 2048,
        concurrency: int = 128,
        gpu_memory_utilization: float = 0.85,
        tensor_parallel_size: int = 1,
        adapters: Mapping[str, Path | None] | None = None,
        dtype: str = "bfloat16",
    ) -> None:
        self._random_seed = random_seed
        self._max_model_len = max_model_len
        self._concurrency = concurrency
        self._adapters = dict(adapters or {})
        self._busy = False
        self._asked = 0
        folders = sorted({folder for folder in self._adapters.values() if folder})
        settings: dict[str, Any] = {
            "model": str(model),
            "dtype": dtype,
            "seed": random_seed,
            "max_model_len": max_model_len,
            "max_num_seqs": concurrency,
            "gpu_memory_utilization": gpu_memory_utilization,
            "tensor_parallel_size": tensor_parallel_size,
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            **_lora_settings(folders),
        }
        self._vllm = _import()
        if self._vllm.platforms.current_platform.is_cpu():
            # no graphs to capture on CPU, and compiling takes longer than it saves on small models
            settings |= {"enforce_eager": True, "block_size": CPU_BLOCK}
            if folders:  # the last slot stays empty
                settings |= {"max_loras": len(folders) + 1, "max_cpu_loras": len(folders) + 1}
        check_model(model.name, model)
        self._engine = _load(self._vllm, settings)
        self._torch = importlib.import_module("torch")
        self._tokenizer = self._engine.get_tokenizer()
        check_tokens(model.name, self._tokenizer, model)
        self._chat = Chat(model.name, self._tokenizer, frozenset())  # what ends a turn is vLLM's own business
        vocabulary = self._engine.model_config.get_vocab_size()
        self._first_tokens = FirstTokens(lambda: _spellings(self._tokenizer, vocabulary))
        request = self._vllm.lora.request.LoRARequest
        loras = {folder: request(str(folder), i, str(folder)) for i, folder in enumerate(folders, start=1)}
        self._lora = {name: loras[folder] if folder else None for name, folder in self._adapters.items()}

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Yield one completion per request as it finishes. One call at a time.

        The same requests in the same order get the same texts on the same machine. Raises UsageError for a
        model that `adapters` does not name and for a chat where the model has no chat template,
        MachineError when the engine breaks.
        """
        if self._busy:
            raise RuntimeError("a VLLMEngine answers one call of generate at a time")
        self._busy = True
        in_flight: dict[str, Request] = {}
        held: Request | None = None
        try:
            waiting = self._seeded(iter(requests))  # None: nothing can be asked before another answer
            while True:
                while len(in_flight) < self._concurrency:
                    request, held = held or next(waiting, None), None
                    if request is None:
                        break
                    if _clash(request, in_flight.values()):
                        held = request
                        break
                    refused = self._submit(request, in_flight)
                    if refused:
                        yield Completion(request=request.key, finish_reason="error", error=refused)
                if not in_flight:
                    return
                for output in self._step():
                    if output.finished:
                        yield _completion(in_flight.pop(output.request_id), output, self._first_tokens)
        finally:
            self._busy = False
            if in_flight and self._engine is not None:
                self._engine.abort_request(list(in_flight))

    def close(self) -> None:
        """Free the model and its cache. Nothing can be asked afterwards."""
        if self._engine is None:
            return
        self._engine.engine_core.shutdown()
        self._engine = None
        self._vllm.distributed.cleanup_dist_env_and_memory()

    def _seeded(self, requests: Iterator[Request | None]) -> Iterator[Request | None]:
        """The same requests, with the sampler seeded for them."""
        for first in requests:
            if first is None:
                yield None
                continue
            seed = hashlib.sha256(f"{self._random_seed} {first.key}".encode()).digest()
            self._torch.manual_seed(int.from_bytes(seed[:4], "big"))
            yield from chain([first], requests)

    def _submit(self, request: Request, in_flight: dict[str, Request]) -> str:
        """Hand one request to vLLM. Returns why it cannot be asked, or ''."""
        lora = self._adapter(request.model)
        tokens = self._tokens(request)
        if len(tokens) >= self._max_model_len:
            limit = f"max_model_len is {self._max_model_len}, completion included"
            return f"the prompt has {len(tokens)} tokens; {limit}"
        self._asked += 1
        name = str(self._asked)
        prompt = {"prompt_token_ids": tokens}
        try:
            parameters = self._parameters(request.sampling)
            self._engine.add_request(name, prompt, parameters, lora_request=lora)
        except (ValueError, TypeError, self._vllm.exceptions.VLLMClientError) as error:
            return f"vLLM refused the request: {' '.join(str(error).split())[:200]}"
        in_flight[name] = request
        return ""

    def _adapter(self, model: str) -> LoRARequest | None:
        if not self._lora:
            return None
        if model not in self._lora:
            adapters = ", ".join(self._lora)
            raise UsageError(f"no adapter answers as {model!r}{nearest(model, self._lora)}; there are: {adapters}")
        return self._lora[model]

    def _tokens(self, request: Request) -> list[int]:
        """Token ids of the prompt. A chat is read as training and scoring read it."""
        if not request.messages:
            return list(self._tokenizer.encode(request.prompt, verbose=False))  # a long one is refused by us
        if not getattr(self._tokenizer, "chat_template", None):
            raise UsageError("this model's tokenizer has no chat template; ask it with form: completion")
        return list(prompt_ids(self._chat, request.messages))

    def _parameters(self, sampling: Sampling) -> SamplingParams:
        guided = self._vllm.sampling_params.StructuredOutputsParams
        settings: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "stop": list(sampling.stop),
            "output_kind": self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        }
        if sampling.choices:
            settings["structured_outputs"] = guided(choice=list(sampling.choices))
        elif sampling.json_schema is not None:
            settings["structured_outputs"] = guided(json=sampling.json_schema)
        if sampling.logprobs and sampling.choices:
            settings["logprob_token_ids"] = self._first_tokens.of(sampling.choices)
        elif sampling.logprobs:
            settings["logprobs"] = sampling.logprobs
        return self._vllm.SamplingParams(**settings)

    def _step(self) -> list[RequestOutput]:
        try:
            with _alone():
                return list(self._engine.step())
        except Exception as error:  # whatever it is, the engine is broken
            raise MachineError(f"vLLM broke while generating: {_said(error)}") from error


class FirstTokens:
    """Which tokens a text can begin with, by what they spell. `spellings` is called at most once."""

    def __init__(self, spellings: Callable[[], Sequence[bytes]]) -> None:
        self._spell = cache(spellings)
        self._ids: dict[bytes, list[int]] = {}
        self._found: dict[tuple[str, ...], list[int]] = {}

    def of(self, choices: tuple[str, ...]) -> list[int]:
        """Ids of the tokens that begin one of `choices`, the longest first, and at most MOST_FIRST_TOKENS."""
        if not self._ids:
            for i, spelt in enumerate(self._spell()):
                self._ids.setdefault(spelt, []).append(i)
        if choices not in self._found:
            beginnings = {c.encode()[:n] for c in choices for n in range(1, len(c.encode()) + 1)}
            longest_first = sorted(beginnings, key=lambda beginning: (-len(beginning), beginning))
            ids = [i for beginning in longest_first for i in self._ids.get(beginning, ())]
            self._found[choices] = ids[:MOST_FIRST_TOKENS]
        return self._found[choices]

    def logprobs(self, sampling: Sampling, positions: Sequence[Mapping[int, Logprob]] | None) -> dict[str, float]:
        """Token text -> log-probability at the first position, or {} where none was asked for."""
        by_text: dict[str, float] = {}
        if not sampling.logprobs or not positions:
            return by_text
        for i, entry in positions[0].items():
            text = self._spell()[i].decode(errors="replace")
            # short rows are filled up with minus infinity, vocabularies with tokens that spell nothing
            if text and math.isfinite(entry.logprob):
                by_text[text] = _log_of_sum(by_text.get(text), float(entry.logprob))
        return by_text


def _spellings(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> list[bytes]:
    """What every token spells, as the guide that masks tokens reads it."""
    import xgrammar

    tokenizer_info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary)
    return [bytes(token) for token in tokenizer_info.decoded_vocab]


def _log_of_sum(a: float | None, b: float) -> float:
    """log(exp(a) + exp(b)): two tokens may spell the same."""
    return b if a is None else max(a, b) + math.log1p(math.exp(-abs(a - b)))


def _clash(request: Request, in_flight: Iterable[Request]) -> bool:
    """Whether two kinds of log-probabilities would share a batch: vLLM then gives all of it one kind."""
    sampling = request.sampling
    return sampling.logprobs > 0 and any(
        r.sampling.logprobs > 0 and bool(r.sampling.choices) != bool(sampling.choices) for r in in_flight
    )


def _completion(request: Request, output: RequestOutput, tokens: FirstTokens) -> Completion:
    """A finished request of vLLM's as ours."""
    answer = output.outputs[0]
    reasons: dict[str, Literal["stop", "length"]] = {"stop": "stop", "length": "length"}
    reason = reasons.get(answer.finish_reason, "error")
    return Completion(
        request=request.key,
        text=answer.text if reason != "error" else "",
        finish_reason=reason,
        prompt_tokens=len(output.prompt_token_ids or ()),
        completion_tokens=len(answer.token_ids),
        first_logprobs=tokens.logprobs(request.sampling, answer.logprobs),
        error=f"vLLM ended it with {answer.finish_reason!r}" if reason == "error" else "",
    )


def max_lora_rank(folder: Path) -> int:
    """What vLLM must be told of an adapter's rank. Raises UsageError for a folder it cannot serve."""
    config = check_adapter(folder)
    try:
        largest = max(int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values()), 1)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{folder}: not a LoRA adapter as PEFT saves it (adapter_config.json)") from error
    if config.get("use_dora"):
        raise UsageError(f"{folder}: vLLM does not serve DoRA adapters; merge it into its base")
    if largest > LORA_RANKS[-1]:
        raise UsageError(f"an adapter has rank {largest}; vLLM serves at most {LORA_RANKS[-1]}")
    return next(rank for rank in LORA_RANKS if rank >= largest)


def _lora_settings(folders: Sequence[Path]) -> dict[str, Any]:
    """What the engine must be told of its adapters. Raises UsageError for a folder it cannot serve."""
    if not folders:
        return {}
    return {
        "enable_lora": True,
        "max_loras": min(len(folders), MOST_LORAS),
        "max_cpu_loras": len(folders),
        "max_lora_rank": max(map(max_lora_rank, folders)),
    }


def _import() -> ModuleType:
    """The vllm package, told to be quiet and to stay in this process."""
    os.environ.update(IN_PROCESS)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with _quiet():
            import vllm
            import vllm.distributed
            import vllm.engine.arg_utils
            import vllm.exceptions
            import vllm.lora.request
            import vllm.platforms
            import vllm.sampling_params
            import vllm.v1.engine.llm_engine
    except ImportError as error:
        raise MachineError(
            f"engine vllm: the package vllm cannot be imported ({_said(error)}); install its CPU or GPU build"
            " (`make` does), or use engine: openai or transformers"
        ) from error
    package: ModuleType = vllm
    return package


def _load(vllm: ModuleType, settings: Mapping[str, Any]) -> LLMEngine:
    """The engine with its weights in memory."""
    import torch

    set_threads = torch.set_num_threads
    try:
        with _quiet(), _alone():
            arguments = vllm.engine.arg_utils.EngineArgs(**settings)
            engine: LLMEngine = vllm.v1.engine.llm_engine.LLMEngine.from_engine_args(arguments)
            return engine
    except Exception as error:  # whatever it is, there is no engine
        reason = f"{Path(settings['model']).name}: vLLM cannot load it: {_said(error)}"
        asked_wrongly = isinstance(error, (ValueError, OSError, vllm.exceptions.VLLMClientError))
        if asked_wrongly and "memory" not in reason:
            raise UsageError(reason) from error
        raise MachineError(f"{reason}; {SMALLER}") from error
    finally:
        torch.set_num_threads = set_threads  # vLLM's CPU worker replaces it for the whole process


@contextmanager
def _alone() -> Iterator[None]:
    """Lets the engines of this process load and work one at a time, in turn, whatever threads they are in.

    What a step is about stands in variables of vLLM's modules (`vllm.forward_context`), which all engines share. The
    second lock keeps a place in the queue: an engine that has just had its turn would take it again otherwise.
    """
    with _NEXT:
        _TURN.acquire()
    try:
        yield
    finally:
        _TURN.release()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep import-time warnings of vLLM and torch off the terminal. Errors are raised all the same."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def _said(error: BaseException) -> str:
    """What an error of vLLM's says, on one line, without the frame that pydantic puts around it."""
    text = " ".join(str(error).split()).rpartition("Value error, ")[2].partition(" [type=")[0]
    return (text or type(error).__name__)[:300]
