"""The adapter's folder: a normal PEFT folder, with the tokenizer that its prompts were made with.

adapter_model.safetensors adapter_config.json      PEFT's; no pickles
tokenizer.json tokenizer_config.json chat_template.jinja
training.json metrics.jsonl                        medllama's (see finetune.train)
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedTokenizerFast, set_seed

from finetune.train_config import TrainConfig
from medllama.chat import Chat
from medllama.files import read_json, write_json
from medllama.tokenizer import Tokenizer, hugging_face_backend


def add_lora(model: Any, config: TrainConfig) -> PeftModel:
    """The base with a fresh LoRA on its linear layers: A random by the seed, B zero, so that it starts as the base."""
    set_seed(config.seed)
    is_all = config.target_modules == ("all-linear",)
    return get_peft_model(
        model,
        LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules="all-linear" if is_all else list(config.target_modules),
            use_rslora=config.rslora,
            use_dora=config.dora,
            task_type="CAUSAL_LM",
        ),
    )


def hugging_face_tokenizer(tokenizer: Tokenizer, chat: Chat | None, *, context: int) -> PreTrainedTokenizerFast:
    """The tokenizer that gives `Chat.encode`'s ids for a rendered prompt in plain Transformers."""
    vocabulary = tokenizer.vocabulary
    ids = {"bos": vocabulary.bos_id, "eos": vocabulary.eos_id, "unk": vocabulary.unk_id, "pad": vocabulary.pad_id}
    given = {f"{name}_token": vocabulary.tokens[index] for name, index in ids.items() if index is not None}
    if chat is not None:
        given["chat_template"] = chat.template
    return PreTrainedTokenizerFast(
        tokenizer_object=hugging_face_backend(vocabulary),
        clean_up_tokenization_spaces=False,
        model_max_length=context,
        **given,
    )


def save_adapter(
    model: PeftModel, tokenizer: PreTrainedTokenizerFast, folder: Path, *, base_model: str, weights: Any = None
) -> None:
    """Write adapter and tokenizer. The same adapter gives the same bytes: PEFT's order of target modules is not left to chance.
    `weights` are the adapter's where the model itself holds a part of them (FSDP)."""
    model.save_pretrained(folder, save_embedding_layers=False, state_dict=weights)
    (folder / "README.md").unlink()  # a form to fill in; `medllama package` writes the model card
    path = folder / "adapter_config.json"
    shutil.copymode(path, folder / "adapter_model.safetensors")  # safetensors leaves it readable for its owner alone
    settings: dict[str, Any] = read_json(path)
    settings["base_model_name_or_path"] = base_model
    if isinstance(settings["target_modules"], list):
        settings["target_modules"].sort()
    write_json(path, settings)

    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    # Transformers 5 writes its own new name of the class; this one is read by older versions and other tools too.
    write_json(path, read_json(path) | {"tokenizer_class": "PreTrainedTokenizerFast"})
