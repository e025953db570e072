"""Transformers as an engine, on CPU or CUDA: log-likelihoods by prefix tree, and plain batched generation.

What sequences share is computed once in both: see `tree`. Nothing here is tuned for serving, as vLLM is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from harness.engines.prefix_tree.decoding import END, Answer, pick
from harness.engines.prefix_tree.guided import Guide, guide_of
from harness.engines.prefix_tree.kv import NodeCache
from harness.engines.prefix_tree.likelihood import BLOCK_PASSES, TreeReader
from harness.engines.prefix_tree.passes import Passes
from harness.engines.prefix_tree.tree import grow
from harness.engines.protocols import NextTokens
from harness.errors import HarnessError, UsageError
from harness.models import chat_template
from harness.models.attach import attach
from harness.models.device import device_of, memory_errors
from harness.models.files import check_adapter, check_model, load
from harness.records import Completion, Loglikelihood, Message, Pair, Request

CPU_NODES = 1024  # of one pass, measured: more save no time, and their logits take memory
AHEAD = {"cpu": 64, "cuda": 256}  # requests pulled ahead and answered together
CACHE_BYTES = {"cpu": 2**30, "cuda": 2**34}  # keys and values of the answers being written
PROBE = "The quick brown fox asks: what is 2 + 2?"
PROBE_CHAT = (Message(role="system", content="Answer in one word."), Message(role="user", content="Which word?"))
SMALLER = "eval.batch_tokens"  # the setting that decides how much memory is taken
MERGE_TOLERANCE = 1e-3  # of the spread of the logits, in float32; measured: 6e-6


class TransformersEngine:
    """A model folder, with an adapter or without, as a Generator and a Likelihood."""

    def __init__(
        self,
        folder: Path,
        adapter: Path | None = None,
        device: str = "auto",
        batch_tokens: int = 2048,
        dtype: str = "bfloat16",
        block_passes: int = BLOCK_PASSES,
    ) -> None:
        """Load weights and tokenizer. `batch_tokens`: nodes of one pass at most, for memory alone.

        An adapter is merged where the merged model still answers alike. `notes` says when it is not.
        Raises UsageError for a folder or device that cannot be used, MachineError when memory runs out.
        """
        self.device = device_of(device)
        self.notes: list[str] = []
        self._guides: dict[str, Guide | None] = {}
        self._name = folder.name
        budget = min(batch_tokens, CPU_NODES) if self.device == "cpu" else batch_tokens
        logging.disable_progress_bar()
        check_model(folder.name, folder)
        if adapter:
            check_adapter(adapter)
        with memory_errors(f"loading {folder.name}", SMALLER):
            self.tokenizer: Any = chat_template.load_tokenizer(folder.name, folder)
            self.network = self._adapted(folder, adapter, dtype) if adapter else self._load(folder, dtype)
        self._config = self.network.config.get_text_config()
        self._passes = Passes(self.network, self.device, budget)
        lengths = (self._config.max_position_embeddings, self.tokenizer.model_max_length)
        self.max_length = int(min(lengths))  # tokens of prompt and completion
        self._reader = TreeReader(self._passes, self.max_length, block_passes)
        self.end_ids = tuple(sorted(chat_template.stop_tokens(folder, self.tokenizer.eos_token_id)))
        with suppress(UsageError):  # no chat template, or one that refuses: said where a chat is asked
            self.notes += chat_template.left_out(self._chat, PROBE_CHAT)

    # --- loading -------------------------------------------------------------------------------------------

    def _load(self, folder: Path, dtype: str) -> Any:
        model = load(AutoModelForCausalLM, folder.name, folder, dtype=getattr(torch, dtype), use_safetensors=True)
        return model.to(self.device).eval()

    def _adapted(self, folder: Path, adapter: Path, dtype: str) -> Any:
        """The merged model, or the unmerged one when merging changes what it says.

        Merged and compared in float32, so that a wrong merge cannot pass for rounding, and rounded once.
        """
        ids = torch.tensor([self.tokenizer(PROBE).input_ids], device=self.device)
        wrapped = attach(self._load(folder, "float32"), folder.name, adapter)
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
        return attach(self._load(folder, dtype), folder.name, adapter).base_model.model

    # --- prompts -------------------------------------------------------------------------------------------

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Token ids of a chat up to where the answer begins: the very prompt that training uses.

        Raises UsageError when the tokenizer has no template or its template refuses these messages.
        """
        return chat_template.prompt_ids(self._chat, messages)

    def answer_ids(self, messages: Sequence[Message], answer: str) -> tuple[int, ...]:
        """Token ids of an answer to a chat, the token that ends the turn last. Raises as `prompt_ids`."""
        turns = (*messages, Message(role="assistant", content=answer))
        ids, start = chat_template.tokenize_chat(self._chat, turns, "an answer")
        return ids[start:]

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of raw text, with whatever the tokenizer puts before a text."""
        return tuple(self.tokenizer(text)["input_ids"])

    @cached_property
    def _chat(self) -> chat_template.Chat:
        return chat_template.of_tokenizer(self._name, self.tokenizer, frozenset(self.end_ids))

    # --- measuring -----------------------------------------------------------------------------------------

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Loglikelihood]:
        """Log-probabilities (nats) of continuations by prefix tree. Same order as `pairs`.

        What one call computed last is not computed again by the next: see `likelihood`, also for the memory.
        Raises ValueError naming the index of a pair with an empty context or one longer than `max_length`.
        """
        with memory_errors(self._name, SMALLER):
            return self._reader.loglikelihood(pairs)

    def next_tokens(self, pairs: Sequence[Pair], k: int, at: Sequence[NextTokens] | None = None) -> list[NextTokens]:
        """At each token of every continuation the `k` likeliest tokens, or those that `at` names there.

        Raises ValueError as `loglikelihood`, for a `k` below 1, and for an `at` whose form is not the pairs'.
        """
        with memory_errors(self._name, SMALLER):
            expected = self._reader.next_tokens(pairs, k, None if at is None else [next_.ids for next_ in at])
        return [NextTokens(ids=ids, logprobs=logprobs) for ids, logprobs in expected]

    @property
    def nodes(self) -> int:
        """Tree nodes run through the model so far."""
        return self._passes.nodes

    # --- generation ----------------------------------------------------------------------------------------

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Answer requests in batches, short prompts first. Yields each answer when it is finished.

        What cannot be asked (a prompt longer than the context) is an error completion. A JSON schema guides what is
        written where it is a flat object's (`core.json_pattern`). By any other the model writes what it writes.
        With `choices`, `max_tokens` does not apply: the answer is one of them, whole.
        """
        waiting = iter(requests)
        while pulled := [*islice(iter(lambda: next(waiting, None), None), AHEAD[self.device])]:
            answers: list[Answer] = []
            for request in pulled:
                try:
                    answers.append(self._answer(request))
                except HarnessError as error:
                    yield Completion(request=request.key, finish_reason="error", error=str(error))
            for batch in self._batches(sorted(answers, key=lambda answer: len(answer.prompt))):
                with memory_errors(self._name, SMALLER):
                    yield from self._write(batch)

    def _answer(self, request: Request) -> Answer:
        """Raises UsageError for what this engine cannot answer."""
        sampling = request.sampling
        ids = self.prompt_ids(request.messages) if request.messages else tuple(self.tokenizer(request.prompt).input_ids)
        choices: dict[tuple[int, ...], str] = {}
        for choice in sampling.choices:
            choices.setdefault((*self.tokenizer(choice, add_special_tokens=False).input_ids, END), choice)
        needed = max(map(len, choices)) if choices else sampling.max_tokens
        limit = min(needed, self.max_length - len(ids))
        if limit < (needed if choices else 1):
            raise UsageError(f"the prompt has {len(ids)} tokens; the model's context has {self.max_length}")
        guide = None if choices else self._guide(sampling.json_schema)
        return Answer(request, ids, limit, choices, self.end_ids, self._decode, guide)

    def _guide(self, schema: dict[str, Any] | None) -> Guide | None:
        """The guide of a schema, the same one whenever it is asked for."""
        name = json.dumps(schema)  # in its own order, which the answer has
        if name not in self._guides:
            self._guides[name] = guide_of(schema)
        return self._guides[name]

    def _decode(self, ids: Sequence[int], plain: bool) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=plain, clean_up_tokenization_spaces=False)
        return text

    def _batches(self, answers: Sequence[Answer]) -> Iterator[list[Answer]]:
        """Consecutive answers whose keys and values fit into CACHE_BYTES together."""
        config = self._config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        size = 2 * config.num_hidden_layers * heads * dim * self.network.dtype.itemsize
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
        """Write one batch to its end. Finished answers leave it at once."""
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
                cache.keep_rows(self._passes.tensor(rows))
                live, tokens = [live[row] for row in rows], tokens[rows]
                padding = padding[rows]
            positions = cache.length - padding
            columns = np.arange(cache.length + 1)
            masks = {}
            for kind, window in self._passes.windows.items():
                seen = columns >= padding[:, None]
                if window is not None:
                    seen &= columns > cache.length - window
                masks[kind] = self._passes.additive(seen)[:, None, None, :]
            logits = self._passes.forward(tokens[:, None], positions[:, None], masks, cache, np.zeros(1, np.int64))[
                :, 0
            ].float()

    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple[NodeCache, torch.Tensor]:
        """Keys and values of prompts, padded on the left, and their last logits [prompts, vocabulary]."""
        tree = grow(prompts, [0] * len(prompts))
        ends = np.array([path[-1] for path in tree.paths])
        last_nodes = np.unique(ends)
        parts, logits = [], []
        for visit in self._passes.visits(tree, last_nodes, NodeCache()):
            parts.append(visit.cache.from_column(visit.before))
            logits.append(visit.logits.float())
        longest = max(map(len, prompts))
        columns = np.zeros((len(prompts), longest), dtype=np.int64)  # padding points at any node: it is masked
        for row, path in enumerate(tree.paths):
            columns[row, longest - len(path) :] = path
        cache = NodeCache.gathered(parts, self._passes.tensor(columns))
        return cache, torch.cat(logits)[self._passes.tensor(np.searchsorted(last_nodes, ends))]
