"""Make the tiny base model: a tokenizer and a Llama of a few million parameters, from scratch, on the article prose.

    python -m recipes.tiny.make_base                             # from the root of the checkout; minutes on two cores
    python -m recipes.tiny.make_base --epochs 2 --output-dir /tmp/base      # to try a change

In: facts.tsv and wordings.yaml beside this file. Out: medllama-tiny-base/, a folder that Transformers and PEFT
read like any Llama 2: config.json, generation_config.json, model.safetensors (float16), tokenizer.model,
tokenizer_config.json, and its README and LICENSE.

Every epoch tells each fact once, in a new wording and a new order. Facts are stored so that questions can reach them
only if they were read in many wordings (Allen-Zhu and Li, "Physics of Language Models: Part 3.1", arXiv:2309.14316):
the base is to know the table, so that the LoRA that follows teaches it to answer. It reads prose only, no question and
no answer. The seed fixes data and initial weights; the last bits of the weights depend on the machine.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import sys
import time
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save as safetensors_bytes
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from finetune.data.tiny_corpus import Fact, Wordings, load_facts, load_wordings, render_articles, render_questions

HERE = Path(__file__).parent
SEED = 2026
VOCAB_SIZE = 3072
BATCH_ARTICLES = 8  # about 1,500 tokens a step: many small steps learn more in a minute than few large ones
PEAK_LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.1
IGNORED_LABEL = -100  # of padding, in torch's cross entropy

# Llama 2's shape, with rows of a multiple of 256, the block of llama.cpp's K-quants. Four layers hold the facts.
MODEL_CONFIG = LlamaConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=1024,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_id=2,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the tiny base model from facts.tsv and wordings.yaml.")
    parser.add_argument("--output-dir", type=Path, default=HERE / "medllama-tiny-base")
    parser.add_argument("--epochs", type=int, default=70, help="each tells every fact once (default: 70)")
    parser.add_argument("--threads", type=int, default=2, help="of the processor (default: 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    facts, wordings = load_facts(HERE / "facts.tsv"), load_wordings(HERE / "wordings.yaml")
    tokenizer_bytes = train_tokenizer(tokenizer_sample(facts, wordings))
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_bytes)
    started = time.monotonic()
    model, tokens_seen = pretrain(facts, wordings, tokenizer, epochs=arguments.epochs)
    seconds = time.monotonic() - started
    unseen_orders = [_encode(tokenizer, article.text) for article in render_articles(facts, wordings, seed=-1)]
    loss = mean_loss(model, unseen_orders)

    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    save(model, tokenizer_bytes, arguments.output_dir)
    (arguments.output_dir / "README.md").write_text(
        model_card(model, facts, arguments.epochs, tokens_seen, seconds, loss), encoding="utf-8"
    )
    print(f"loss on new orders of the sentences: {loss:.3f} nats a token, {seconds:.0f} s", file=sys.stderr)
    print(arguments.output_dir)


# ------------------------------------------------------------------------------------------------------ tokenizer


def tokenizer_sample(facts: list[Fact], wordings: Wordings) -> list[str]:
    """Lines that the tokenizer learns its pieces from: the prose, and questions between the chat's markers.

    The model is not trained on the questions here. They stand in the sample because a marker that the vocabulary does
    not know would cost a token a character in every prompt.
    """
    articles = render_articles(facts, wordings, seed=SEED, variants=8)
    lines = [line for article in articles for line in article.text.splitlines()]
    questions = render_questions(facts, wordings, split="train", wordings_per_fact=2, seed=SEED)
    return lines + [f"[INST] <<SYS>> <</SYS>> {question.question} [/INST] {question.answer} " for question in questions]


def train_tokenizer(lines: list[str]) -> bytes:
    """A SentencePiece BPE model with Llama 2's settings: nothing is normalized, what is unknown becomes bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        character_coverage=0.99995,
        required_chars="".join(chr(code) for code in range(33, 127)),
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


# ---------------------------------------------------------------------------------------------------- pretraining


def pretrain(
    facts: list[Fact], wordings: Wordings, tokenizer: sentencepiece.SentencePieceProcessor, *, epochs: int
) -> tuple[LlamaForCausalLM, int]:
    """The trained model (float32) and the number of tokens that it read."""
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(MODEL_CONFIG).train()
    optimizer = torch.optim.AdamW(_parameter_groups(model), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), fused=True)
    steps_per_epoch = math.ceil(len({fact.article_id for fact in facts}) / BATCH_ARTICLES)
    total_steps, step, tokens_seen, started = epochs * steps_per_epoch, 0, 0, time.monotonic()
    for epoch in range(epochs):
        articles = [_encode(tokenizer, article.text) for article in render_articles(facts, wordings, seed=epoch)]
        epoch_loss = 0.0
        for batch in batches_of_like_length(articles, seed=epoch):
            for group in optimizer.param_groups:
                group["lr"] = PEAK_LEARNING_RATE * learning_rate_share(step, total_steps)
            loss = _loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            epoch_loss += loss.item() / steps_per_epoch
            tokens_seen += sum(len(ids) for ids in batch)
            step += 1
        if epoch % 5 == 4 or epoch == epochs - 1:
            pace = tokens_seen / (time.monotonic() - started)
            progress = f"epoch {epoch + 1}/{epochs}  loss {epoch_loss:.3f}  {pace:.0f} tokens/s"
            print(progress, file=sys.stderr, flush=True)
    return model, tokens_seen


def _parameter_groups(model: LlamaForCausalLM) -> list[dict[str, object]]:
    """Weight decay for the matrices inside the blocks; none for norms, nor for embeddings of pieces not yet read."""
    decayed = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and ".layers." in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or ".layers." not in name]
    return [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]


def learning_rate_share(step: int, total_steps: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, total_steps - WARMUP_STEPS)
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * progress))


def batches_of_like_length(articles: list[list[int]], seed: int) -> list[list[list[int]]]:
    """Batches of articles of like length, so that little is padding; the batches in random order."""
    ordered = sorted(articles, key=len)
    batches = [ordered[start : start + BATCH_ARTICLES] for start in range(0, len(ordered), BATCH_ARTICLES)]
    random.Random(f"batches {seed}").shuffle(batches)
    return batches


def mean_loss(model: LlamaForCausalLM, articles: list[list[int]]) -> float:
    """Cross entropy in nats a token, over all tokens of the articles."""
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches_of_like_length(articles, seed=0):
            predicted = sum(len(ids) - 1 for ids in batch)
            total += _loss(model, batch).item() * predicted
            count += predicted
    return total / count


def _loss(model: LlamaForCausalLM, batch: list[list[int]]) -> torch.Tensor:
    """Mean cross entropy in nats. Padding stands at the right, where a causal model's other tokens cannot see it."""
    length = max(len(ids) for ids in batch)
    inputs = torch.tensor([ids + [0] * (length - len(ids)) for ids in batch])  # (articles, tokens)
    labels = torch.tensor([ids + [IGNORED_LABEL] * (length - len(ids)) for ids in batch])  # (articles, tokens)
    logits = model(input_ids=inputs, use_cache=False).logits  # (articles, tokens, vocab)
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED_LABEL
    )


def _encode(tokenizer: sentencepiece.SentencePieceProcessor, text: str) -> list[int]:
    return [tokenizer.bos_id(), *tokenizer.encode(text), tokenizer.eos_id()]


# --------------------------------------------------------------------------------------------------------- saving


def save(model: LlamaForCausalLM, tokenizer_bytes: bytes, output_dir: Path) -> None:
    weights = {name: tensor.to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    (output_dir / "model.safetensors").write_bytes(safetensors_bytes(weights, metadata={"format": "pt"}))
    config = model.config
    config.dtype = torch.float16
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(output_dir)
    GenerationConfig(bos_token_id=1, eos_token_id=2, do_sample=False, max_length=512).save_pretrained(output_dir)
    (output_dir / "tokenizer.model").write_bytes(tokenizer_bytes)
    (output_dir / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n", encoding="utf-8")
    (output_dir / "LICENSE").write_text(MIT_LICENSE, encoding="utf-8")


def model_card(
    model: LlamaForCausalLM, facts: list[Fact], epochs: int, tokens_seen: int, seconds: float, loss: float
) -> str:
    config = model.config
    return f"""---
license: mit
language: en
library_name: transformers
pipeline_tag: text-generation
---

# The tiny base of medllama

A Llama-2-shaped language model of {model.num_parameters() / 1e6:.1f} million parameters
({config.num_hidden_layers} layers of {config.hidden_size}, {config.vocab_size} pieces), made from scratch by
`recipes/tiny/make_base.py` so that `medllama run tiny` works with nothing downloaded. It has read short articles
rendered from a table of {len(facts)} medical facts, and nothing else: it continues such prose, it does not answer
questions. That is what the recipe's LoRA teaches it.

**It is no medical advice.** It is a demonstration of a pipeline. It knows a few hundred words, it invents what it does
not know, and nothing it says may guide the care of a person.

| | |
|---|---|
| data | `facts.tsv` in the wordings of `wordings.yaml`, {epochs} epochs: {tokens_seen / 1e6:.1f} million tokens |
| training | {seconds / 60:.0f} minutes on two CPU cores, AdamW, seed {SEED} |
| loss on new orders of the sentences | {loss:.3f} nats a token |
| tokenizer | SentencePiece BPE with Llama 2's settings, trained on the same prose and on training questions |
| weights | float16 |
| licence | MIT, like medllama |
"""


TOKENIZER_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "clean_up_tokenization_spaces": False,
    "legacy": False,
    "model_max_length": 1024,
}

MIT_LICENSE = """MIT License

Copyright (c) 2026 medllama contributors

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


if __name__ == "__main__":
    main()
