"""Tiny random models with real files: what a folder from the hub holds, in a second and under a megabyte.

They know nothing; they are there so that loading, templates, tuning, merging and serving run for real.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 64, 2, 2, 1, 32  # vLLM's CPU attention takes no head below 32
CONTEXT = 2048  # tokens
END_OF_TURN = "<|im_end|>"  # also the padding, as in SmolLM2: what is hard there must be hard here

SENTENCES = (
    "My parcel has not arrived yet and the tracking page shows nothing since Monday.",
    "How do I cancel the monthly plan before the next bill is sent to me?",
    "The answer to the question is one of these: delivery, billing, repair, cancel, battery, theft.",
    "Message: the screen went dark and it will not start. Topic: repair",
    "You are a helpful assistant. Reply with one word.",
    "I was charged twice; please return 12.50 to my card, thank you!",
    "A list of messages that customers wrote to the help desk:",
)
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tiny_model(folder: Path, architecture: str = "llama", random_seed: int = 0) -> Path:
    """Write a random model with tied embeddings (bf16 safetensors) and its tokenizer; returns `folder`.

    `architecture` is a transformers model type: llama, qwen2, qwen3, gemma2 or gemma3_text.
    """
    import torch
    from transformers import AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    config = _config(architecture, len(tokenizer), tokenizer.convert_tokens_to_ids(END_OF_TURN))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        with torch.no_grad():  # a padding row of zeros is the stop token's too: tied, it could never be learned
            model.get_input_embeddings().weight[config.pad_token_id].normal_(0, config.initializer_range)
    model.generation_config.pad_token_id = model.generation_config.eos_token_id = config.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _name_tokenizer_class(folder)
    return folder


def make_adapter(
    base: Path, folder: Path, rank: int = 4, targets: str | list[str] = "all-linear", scale: float = 0.5
) -> Path:
    """Write a random adapter of `base`, as PEFT saves it; `scale` is how far it moves the weights. Returns `folder`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        tuned = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))
        for name, weights in tuned.named_parameters():
            if "lora_B" in name:  # zero at first, which changes nothing
                torch.nn.init.normal_(weights, std=scale)
    tuned.save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that any text encodes, with the two marks of a chat turn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    marks = ["<|im_start|>", END_OF_TURN]
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=marks, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=marks[0],
        eos_token=END_OF_TURN,
        pad_token=END_OF_TURN,
        model_max_length=CONTEXT,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _config(architecture: str, tokens: int, end: int) -> PreTrainedConfig:
    from transformers import AutoConfig

    sizes: dict[str, Any] = {
        "vocab_size": -(-tokens // 64) * 64,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,  # sharper logits than 0.02 gives: rounding must not change the best token
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    if architecture.startswith("gemma"):
        sizes |= {"query_pre_attn_scalar": HEAD_DIM, "sliding_window": 32}
    return AutoConfig.for_model(architecture, **sizes)


def _name_tokenizer_class(folder: Path) -> None:
    """The name every version of transformers knows, whichever wrote the file."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=1))
