"""Transformers as an engine, on CPU or CUDA: log-likelihoods by prefix tree, and plain batched generation.

What sequences share is computed once in both: see `tree`. Nothing here is tuned for serving; vLLM is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from harness import chat
from harness.engines.decoding import END, Answer, pick
from harness.engines.kv import NodeCache
from harness.engines.tree import Bools, Ints, Tree, ancestors, grow, ranges, visible
from harness.errors import HarnessError, MachineError, UsageError
from harness.records import Completion, Loglikelihood, Message, Pair, Request

CPU_NODES = 512  # measured: attention over more nodes at once costs more than it saves there
AHEAD = {"cpu": 64, "cuda": 256}  # requests pulled ahead and answered together
CACHE_BYTES = {"cpu": 2**30, "cuda": 2**34}  # keys and values of the answers being written
LOGIT_FLOATS = {"cpu": 2**26, "cuda": 2**29}  # logits of one pass
PROBE = "The quick brown fox asks: what is 2 + 2?"
MERGE_TOLERANCE = 1e-3  # of the spread of the logits, in float32; measured: 6e-6

Dtype = Literal["bfloat16", "float16", "float32"]


class Visit(NamedTuple):
    """What one pass over a range of nodes gave."""

    nodes: Ints  # the nodes whose logits were asked for
    logits: torch.Tensor  # [nodes, vocabulary]
    cache: NodeCache  # the range's keys and values stand at its end
    before: int  # columns of the cache that stood there before


class TransformersEngine:
    """A model folder, with an adapter or without, as a Generator and a Likelihood."""

    def __init__(
        self,
        folder: Path,
        adapter: Path | None = None,
        device: str = "auto",
        batch_tokens: int = 2048,
        dtype: str = "bfloat16",
    ) -> None:
        """Load weights and tokenizer. `batch_tokens`: nodes of one pass at most; memory, not results.

        An adapter is merged where the merged model still answers alike; `notes` says when it is not.
        Raises UsageError for a folder or device that cannot be used, MachineError when memory runs out.
        """
        self.device = _device(device)
        self.notes: list[str] = []
        self._name = folder.name
        self._budget = min(batch_tokens, CPU_NODES) if self.device == "cpu" else batch_tokens
        logging.disable_progress_bar()
        with memory_errors():
            self.tokenizer: Any = _loaded(AutoTokenizer, folder)
            self._model = self._adapted(folder, adapter, dtype) if adapter else self._load(folder, dtype)
        self._config = self._model.config.get_text_config()
        # The fused attention leaves Gemma 2's cap on attention scores out.
        self._fused = not getattr(self._config, "attn_logit_softcapping", None)
        self._attention = ""
        self._windows = _attention_windows(self._config)
        lengths = (self._config.max_position_embeddings, self.tokenizer.model_max_length)
        self.max_length = int(min(lengths))  # tokens of prompt and completion
        self.end_ids = _end_ids(self._model, self.tokenizer)

    # --- loading -------------------------------------------------------------------------------------------

    def _load(self, folder: Path, dtype: str) -> Any:
        model = _loaded(AutoModelForCausalLM, folder, dtype=getattr(torch, dtype), use_safetensors=True)
        return model.to(self.device).eval()

    def _adapted(self, folder: Path, adapter: Path, dtype: str) -> Any:
        """The merged model, or the unmerged one when merging changes what it says.

        Merged and compared in float32, so that a wrong merge cannot pass for rounding, and rounded once.
        """
        from peft import PeftModel

        def attach(base: Any) -> Any:
            try:
                return PeftModel.from_pretrained(base, str(adapter)).eval()
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                raise UsageError(f"{adapter}: not an adapter for {folder.name}: {error}") from error

        ids = torch.tensor([self.tokenizer(PROBE).input_ids], device=self.device)
        wrapped = attach(self._load(folder, "float32"))
        with torch.no_grad():
            apart = wrapped(input_ids=ids).logits[0]
            merged = wrapped.merge_and_unload()
            together = merged(input_ids=ids).logits[0]
        deviation = float((together - apart).square().mean().sqrt() / apart.std(dim=-1).mean())
        if deviation <= MERGE_TOLERANCE:
            for weights in merged.parameters():  # not .to(): it would round the rotary frequencies as well
                weights.data = weights.data.to(getattr(torch, dtype))
            return merged
        self.notes.append(
            f"adapter {adapter.name}: not merged: the merged model's logits deviate by {deviation:.3g} of"
            f" their spread (rounding stays below {MERGE_TOLERANCE:g}); the adapter is applied as it is"
        )
        return attach(self._load(folder, dtype)).base_model.model

    # --- prompts -------------------------------------------------------------------------------------------

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Token ids of a chat up to where the answer begins: the very prompt that training uses.

        Raises UsageError when the tokenizer has no template or its template refuses these messages.
        """
        return chat.prompt_ids(self._chat, messages)

    def answer_ids(self, messages: Sequence[Message], answer: str) -> tuple[int, ...]:
        """Token ids of an answer to a chat, the token that ends the turn last. Raises as `prompt_ids`."""
        turns = (*messages, Message(role="assistant", content=answer))
        ids, start = chat.tokenize_chat(self._chat, turns, "an answer")
        return ids[start:]

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of raw text, with whatever the tokenizer puts before a text."""
        return tuple(self.tokenizer(text)["input_ids"])

    @cached_property
    def _chat(self) -> chat.Chat:
        return chat.of_tokenizer(self._name, self.tokenizer, frozenset(self.end_ids))

    # --- one pass over tree nodes --------------------------------------------------------------------------

    def _visits(self, tree: Tree, wanted: Ints) -> Iterator[Visit]:
        """Run every node of `tree` once, in order, reading logits at the sorted nodes `wanted`."""
        cache, kept = NodeCache(), np.empty(0, np.int64)
        most = max(64, LOGIT_FLOATS[self.device] // self._config.vocab_size)
        for start, stop in ranges(tree, self._budget, wanted, most):
            rows = np.arange(start, stop)
            columns = np.concatenate([kept, rows])
            first, last = np.searchsorted(wanted, [start, stop])
            nodes = wanted[first:last]
            masks = {
                kind: self._additive(visible(tree, rows, columns, window))[None, None]
                for kind, window in self._windows.items()
            }
            logits = self._forward(tree.tokens[rows][None], tree.depth[rows][None], masks, cache, nodes - start)
            yield Visit(nodes, logits[0], cache, len(kept))
            if stop < len(tree):
                kept = ancestors(tree, stop)
                cache.keep_columns(self._tensor(np.searchsorted(columns, kept)))

    def _forward(
        self, tokens: Ints, positions: Ints, masks: Mapping[str, torch.Tensor], cache: NodeCache, keep: Ints
    ) -> torch.Tensor:
        """Logits [rows, kept, vocabulary] of tokens [rows, n]; masks are additive [rows, 1, n, columns]."""
        self._attend("sdpa" if self._fused and (self.device == "cuda" or tokens.shape[1] > 1) else "eager")
        with torch.no_grad():
            output = self._model(
                input_ids=self._tensor(tokens),
                position_ids=self._tensor(positions),
                attention_mask=dict(masks)
                if len(masks) > 1 or "sliding_attention" in masks
                else masks["full_attention"],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=self._tensor(keep),
            )
        logits: torch.Tensor = output.logits
        return logits

    def _attend(self, implementation: str) -> None:
        """Switch attention. For single tokens on CPU the fused one takes 5 times as long as the plain one."""
        if implementation != self._attention:
            self._model.set_attn_implementation(implementation)
            self._attention = implementation

    def _additive(self, seen: Bools) -> torch.Tensor:
        """0 where attention may look, the lowest number elsewhere."""
        dtype = self._model.dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=self.device)
        return mask.masked_fill_(~torch.from_numpy(seen).to(self.device), torch.finfo(dtype).min)

    def _tensor(self, values: Ints) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    # --- log-likelihood ------------------------------------------------------------------------------------

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Loglikelihood]:
        """Log-probabilities (nats) of continuations, all pairs as one tree; same order as `pairs`.

        Raises ValueError naming the index of a pair with an empty context or one longer than `max_length`.
        """
        for i, pair in enumerate(pairs):
            if not pair.context:
                raise ValueError(f"pair {i}: the context is empty")
            length = len(pair.context) + len(pair.continuation)
            if length - 1 > self.max_length:
                raise ValueError(f"pair {i}: {length} tokens are more than the context of {self.max_length}")
        tree = grow([p.context + p.continuation[:-1] for p in pairs], [len(p.context) - 1 for p in pairs])
        counts = np.array([len(pair.continuation) for pair in pairs], dtype=np.int64)
        nodes = np.concatenate([path[:n] for path, n in zip(tree.paths, counts, strict=True)] or [counts])
        targets = np.array([token for pair in pairs for token in pair.continuation], dtype=np.int64)
        owners = np.repeat(np.arange(len(pairs)), counts)
        with memory_errors():
            logprobs, best = self._read(tree, nodes, targets)
        sums = np.bincount(owners, weights=logprobs, minlength=len(pairs))
        misses = np.bincount(owners, weights=~best, minlength=len(pairs))
        return [
            Loglikelihood(logprob=float(s), tokens=int(n), greedy=bool(m == 0))
            for s, n, m in zip(sums, counts, misses, strict=True)
        ]

    def _read(self, tree: Tree, nodes: Ints, targets: Ints) -> tuple[np.ndarray[Any, Any], Bools]:
        """[reads]: the log-probability of each target after its node, and whether it is the most likely."""
        logprobs, best = np.zeros(len(nodes)), np.zeros(len(nodes), dtype=np.bool_)
        order = np.argsort(nodes, kind="stable")
        for visit in self._visits(tree, np.unique(nodes)):
            if not len(visit.nodes):
                continue
            first, last = np.searchsorted(nodes[order], [visit.nodes[0], visit.nodes[-1] + 1])
            reads = order[first:last]
            rows = self._tensor(np.searchsorted(visit.nodes, nodes[reads]))
            wanted = self._tensor(targets[reads])
            logits = visit.logits.float()
            values = logits[rows, wanted] - logits.logsumexp(dim=-1)[rows]
            logprobs[reads] = values.cpu().numpy()
            best[reads] = (logits.argmax(dim=-1)[rows] == wanted).cpu().numpy()
        return logprobs, best

    # --- generation ----------------------------------------------------------------------------------------

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Answer requests in batches, short prompts first; yields each answer when it is finished.

        What cannot be asked (a prompt longer than the context, a JSON schema) is an error completion.
        With `choices`, `max_tokens` does not apply: the answer is one of them, whole.
        """
        waiting = iter(requests)
        while pulled := list(islice(waiting, AHEAD[self.device])):
            answers: list[Answer] = []
            for request in pulled:
                try:
                    answers.append(self._answer(request))
                except HarnessError as error:
                    yield Completion(request=request.key, finish_reason="error", error=str(error))
            for batch in self._batches(sorted(answers, key=lambda answer: len(answer.prompt))):
                with memory_errors():
                    yield from self._write(batch)

    def _answer(self, request: Request) -> Answer:
        """Raises UsageError for what this engine cannot answer."""
        sampling = request.sampling
        if sampling.json_schema is not None:
            raise UsageError("the transformers engine has no JSON-guided decoding; use engine vllm or openai")
        ids = self.prompt_ids(request.messages) if request.messages else tuple(self.tokenizer(request.prompt).input_ids)
        choices: dict[tuple[int, ...], str] = {}
        for choice in sampling.choices:
            choices.setdefault((*self.tokenizer(choice, add_special_tokens=False).input_ids, END), choice)
        wanted = max(map(len, choices)) if choices else sampling.max_tokens
        limit = min(wanted, self.max_length - len(ids))
        if limit < (wanted if choices else 1):
            raise UsageError(f"the prompt has {len(ids)} tokens; the model's context has {self.max_length}")
        return Answer(request, ids, limit, choices, self.end_ids, self._decode)

    def _decode(self, ids: Sequence[int], plain: bool) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=plain, clean_up_tokenization_spaces=False)
        return text

    def _batches(self, answers: Sequence[Answer]) -> Iterator[list[Answer]]:
        """Consecutive answers whose keys and values fit into CACHE_BYTES together."""
        config = self._config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        size = 2 * config.num_hidden_layers * heads * dim * self._model.dtype.itemsize
        room = CACHE_BYTES[self.device] // size  # tokens
        batch: list[Answer] = []
        for answer in answers:
            longest = max(len(a.prompt) + a.limit for a in [*batch, answer])
            if batch and longest * (len(batch) + 1) > room:
                yield batch
                batch = []
            batch.append(answer)
        if batch:
            yield batch

    def _write(self, live: list[Answer]) -> Iterator[Completion]:
        """Write one batch to its end; finished answers leave it at once."""
        cache, logits = self._prefill([answer.prompt for answer in live])
        lengths = np.array([len(answer.prompt) for answer in live])
        padding = cache.length - lengths  # columns before a prompt's first token
        for answer, row in zip(live, logits, strict=True):
            answer.look_at_first(row)
        while True:
            tokens = np.array(pick(logits, live), dtype=np.int64)
            done = [answer.take(int(token)) for answer, token in zip(live, tokens, strict=True)]
            yield from (completion for completion in done if completion)
            rows = np.array([row for row, completion in enumerate(done) if not completion], dtype=np.int64)
            if not len(rows):
                return
            if len(rows) < len(live):
                cache.keep_rows(self._tensor(rows))
                live, tokens = [live[row] for row in rows], tokens[rows]
                padding = padding[rows]
            positions = cache.length - padding
            columns = np.arange(cache.length + 1)
            masks = {}
            for kind, window in self._windows.items():
                seen = columns >= padding[:, None]
                if window is not None:
                    seen &= columns > cache.length - window
                masks[kind] = self._additive(seen)[:, None, None, :]
            logits = self._forward(tokens[:, None], positions[:, None], masks, cache, np.zeros(1, np.int64))[
                :, 0
            ].float()

    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple[NodeCache, torch.Tensor]:
        """Keys and values of prompts, padded on the left, and their last logits [prompts, vocabulary]."""
        tree = grow(prompts, [0] * len(prompts))
        ends = np.array([path[-1] for path in tree.paths])
        wanted = np.unique(ends)
        parts, logits = [], []
        for visit in self._visits(tree, wanted):
            parts.append(visit.cache.from_column(visit.before))
            logits.append(visit.logits.float())
        longest = max(map(len, prompts))
        columns = np.zeros((len(prompts), longest), dtype=np.int64)  # padding points at any node: it is masked
        for row, path in enumerate(tree.paths):
            columns[row, longest - len(path) :] = path
        cache = NodeCache.gathered(parts, self._tensor(columns))
        return cache, torch.cat(logits)[self._tensor(np.searchsorted(wanted, ends))]


def _device(name: str) -> Literal["cpu", "cuda"]:
    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    if name == "cuda" and available:
        return "cuda"
    if name == "cpu":
        return "cpu"
    has = "auto, cpu or cuda" if available else "auto or cpu (this machine shows no CUDA device)"
    raise UsageError(f"device {name!r}: it must be {has}")


def _loaded(kind: Any, folder: Path, **settings: Any) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **settings)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder.name}: transformers cannot load it: {error}") from error


def _end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends a turn, by the generation settings, the config and the tokenizer."""
    found: set[int] = set()
    for value in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id):
        found.update(value if isinstance(value, list | tuple) else [value] if value is not None else [])
    return tuple(sorted(found))


def _attention_windows(config: Any) -> dict[str, int | None]:
    """Kind of attention layer -> its reach in tokens, None for all. Raises UsageError for other layers."""
    kinds = sorted(set(getattr(config, "layer_types", None) or ["full_attention"]))
    other = [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]
    if other:
        raise UsageError(
            f"the transformers engine scores by prefix tree, which needs attention layers; this model"
            f" ({config.model_type}) has {other[0]} layers: use engine vllm"
        )
    if kinds == ["full_attention"] and not getattr(config, "layer_types", None):
        return {"full_attention": getattr(config, "sliding_window", None)}
    return {kind: config.sliding_window if kind == "sliding_attention" else None for kind in kinds}


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn a lack of memory into one clear message."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise MachineError(f"memory ran out: {str(error)[:200]}; lower eval.batch_tokens") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise MachineError(f"memory ran out: {str(error)[:200]}; lower eval.batch_tokens") from error
