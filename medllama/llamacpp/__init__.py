"""The one place that knows llama.cpp's C API: load a GGUF, tokenize, decode, sample, apply a LoRA; quantize (quantizer.py).

    with Model(path) as model, Context(model, context_tokens=2048) as context:
        logits = context.logits(model.tokenize("What is gout?"))      # (n, n_vocab) float32

Everything llama.cpp logs is kept back and shown only as the reason of an error. Contexts compute in the most exact way that
llama.cpp offers (float32 KV cache, no flash attention) unless asked otherwise, and in batches whose shape depends on the
number of tokens alone: the same prompt in other batches moves the logits of a quantized model by up to 0.2.

A GGUF that is truncated or lies about its sizes can end the process inside llama.cpp: `medllama verify` checks it first.
"""

from __future__ import annotations

import abc
import contextlib
import ctypes
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy
import numpy.typing

from medllama.cores import usable_cores
from medllama.errors import InputError, MedllamaError, ResourceError

Logits = numpy.typing.NDArray[numpy.float32]
LOG_LINES = 200
LOG_LEVEL_ERROR = 4  # GGML_LOG_LEVEL_ERROR


class BatchToken(NamedTuple):
    """A token with its place: `sequences` are those that it belongs to, several where they share a prefix."""

    token_id: int
    position: int
    sequences: tuple[int, ...]
    wants_logits: bool


class LlamaCppError(MedllamaError):
    """llama.cpp refused or failed; the message holds its own reason."""


_log: deque[tuple[int, str]] = deque(maxlen=LOG_LINES)
_captured: list[str] | None = None
_library: Any = None


def library() -> Any:
    """The `llama_cpp` module, loaded once, with its log captured."""
    global _library
    if _library is None:
        import llama_cpp

        @llama_cpp.llama_log_callback
        def keep(level: int, text: bytes, user_data: Any) -> None:
            told = text.decode("utf-8", errors="replace")
            _log.append((level, told))
            if _captured is not None:
                _captured.append(told)

        llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        keep_alive = (llama_cpp, keep)
        _library = keep_alive
    return _library[0]


def forget_log() -> None:
    """What llama.cpp logs from here on is about the next call."""
    _log.clear()


def reason() -> str:
    """What llama.cpp complained of first, as one line: its later complaints only say that something failed."""
    complaints = "".join(text for level, text in _log if level == LOG_LEVEL_ERROR).splitlines()
    return next((line.strip() for line in complaints if any(map(str.isalpha, line))), "llama.cpp said nothing")


@contextlib.contextmanager
def captured_log() -> Iterator[list[str]]:
    """Everything that llama.cpp logs meanwhile, in pieces, however much it is."""
    global _captured
    _captured = []
    try:
        yield _captured
    finally:
        _captured = None


class _Owner(abc.ABC):
    """What owns something of llama.cpp's, and frees it at the end of a `with`."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Model(_Owner):
    """A GGUF in memory. `vocab_only` loads the tokenizer alone, in a fraction of a second."""

    def __init__(self, path: Path, *, vocab_only: bool = False, threads: int | None = None) -> None:
        self.path = path
        self.threads = threads or usable_cores()
        self._adapters: list[Any] = []
        if not path.is_file():
            raise InputError(f"{path} does not exist", hint="medllama convert makes GGUF files")
        c = library()
        _log.clear()
        parameters = c.llama_model_default_params()
        parameters.vocab_only = vocab_only
        parameters.n_gpu_layers = 0
        # Weights stay in the file's layout: repacked ones compute slightly other logits on every kind of CPU, and this
        # build's AMX layout ends the process on CPUs that have AMX (a prompt of 8 tokens on a Q4_K_M file).
        parameters.use_extra_bufts = False
        self.handle = c.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.handle:
            raise LlamaCppError(f"llama.cpp cannot load {path}: {reason()}", hint="medllama verify names the fault")
        self._vocabulary = c.llama_model_get_vocab(self.handle)

    def close(self) -> None:
        """Free the model; its contexts must be closed before."""
        if self.handle:
            for adapter in self._adapters:
                library().llama_adapter_lora_free(adapter)
            library().llama_model_free(self.handle)
            self.handle = None

    @property
    def n_vocab(self) -> int:
        return int(library().llama_vocab_n_tokens(self._vocabulary))

    @property
    def n_ctx_train(self) -> int:
        return int(library().llama_model_n_ctx_train(self.handle))

    @property
    def cache_bytes_per_token(self) -> int:
        """What a context keeps of each token in float16: a key and a value per layer and key-value head."""
        c = library()
        values = c.llama_model_n_layer(self.handle) * c.llama_model_n_head_kv(self.handle)
        values *= c.llama_model_n_embd(self.handle) // c.llama_model_n_head(self.handle)
        return int(2 * 2 * values)

    @property
    def bos_id(self) -> int:
        return int(library().llama_vocab_bos(self._vocabulary))

    @property
    def eos_id(self) -> int:
        return int(library().llama_vocab_eos(self._vocabulary))

    @property
    def eot_id(self) -> int:
        return int(library().llama_vocab_eot(self._vocabulary))

    @property
    def add_bos(self) -> bool:
        return bool(library().llama_vocab_get_add_bos(self._vocabulary))

    @property
    def chat_template(self) -> str | None:
        return self.metadata("tokenizer.chat_template")

    def metadata(self, key: str) -> str | None:
        """A metadata value as llama.cpp prints it, or None."""
        c = library()
        size = c.llama_model_meta_val_str(self.handle, key.encode(), ctypes.create_string_buffer(1), 1)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        c.llama_model_meta_val_str(self.handle, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", errors="replace")

    def is_end(self, token_id: int) -> bool:
        """Whether this token ends generation in llama.cpp and in everything built on it."""
        return bool(library().llama_vocab_is_eog(self._vocabulary, token_id))

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """llama.cpp's ids of a text; `parse_special` recognizes control tokens, `add_special` adds BOS where the file says so."""
        c, data = library(), text.encode()
        room = len(data) + 8
        while True:
            tokens = (c.llama_token * room)()
            count = c.llama_tokenize(self._vocabulary, data, len(data), tokens, room, add_special, parse_special)
            if count >= 0:
                return list(tokens[:count])
            room = -count

    def piece(self, token_id: int, *, show_control: bool = False) -> bytes:
        """The bytes that a token stands for."""
        if not 0 <= token_id < self.n_vocab:  # it would end the process inside llama.cpp
            raise InputError(f"{self.path} has no token {token_id}", hint=f"its tokens are 0 to {self.n_vocab - 1}")
        c, room = library(), 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            size = c.llama_token_to_piece(self._vocabulary, token_id, buffer, room, 0, show_control)
            if size >= 0:
                return buffer.raw[:size]
            room = -size

    def detokenize(self, token_ids: Sequence[int], *, show_control: bool = False) -> str:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.piece(index, show_control=show_control) for index in token_ids).decode(errors="replace")

    def load_adapter(self, path: Path) -> Any:
        """A LoRA GGUF loaded beside this model, for `Context.set_adapter`."""
        _log.clear()
        adapter = library().llama_adapter_lora_init(self.handle, str(path).encode())
        if not adapter:
            raise LlamaCppError(
                f"llama.cpp cannot apply {path} to {self.path}: {reason()}", hint="is it an adapter of this base?"
            )
        self._adapters.append(adapter)
        return adapter


class Context(_Owner):
    """A KV cache and what is needed to compute on it. Token ids in, float32 logits out."""

    def __init__(
        self, model: Model, *, context_tokens: int, batch_tokens: int = 512, sequences: int = 1, exact: bool = True,
        most_rows: int = 0, on_operation: Callable[[int, bool, Any], bool] | None = None,
    ) -> None:  # fmt: skip
        """`most_rows` is how many tokens of a batch want logits at most (0: all): fewer need less memory. `on_operation` is
        llama.cpp's cb_eval: asked about each operation's tensor (its address), then called with it."""
        c = library()
        self.model = model
        context_tokens = max(context_tokens, sequences)  # llama.cpp ends the process where a sequence has no room
        self.batch_tokens = max(min(batch_tokens, context_tokens), sequences)
        self.context_tokens = context_tokens
        parameters = c.llama_context_default_params()
        parameters.n_ctx = context_tokens
        parameters.n_batch = parameters.n_ubatch = self.batch_tokens
        parameters.n_seq_max = sequences
        parameters.kv_unified = True
        parameters.n_outputs_max = most_rows
        parameters.n_threads = parameters.n_threads_batch = model.threads
        if exact:
            parameters.type_k = parameters.type_v = c.GGML_TYPE_F32
            parameters.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if on_operation is not None:
            self._on_operation = c.llama_cpp.ggml_backend_sched_eval_callback(on_operation)  # must live as long
            parameters.cb_eval = self._on_operation
        _log.clear()
        self.handle = c.llama_init_from_model(model.handle, parameters)
        if not self.handle:
            raise ResourceError(
                f"llama.cpp cannot make a context of {context_tokens} tokens for {model.path}: {reason()}",
                hint="use fewer tokens, or close other programs",
            )
        self._batch = c.llama_batch_init(self.batch_tokens, 0, sequences)

    def close(self) -> None:
        """Free the cache."""
        if self.handle:
            library().llama_batch_free(self._batch)
            library().llama_free(self.handle)
            self.handle = None

    def clear(self) -> None:
        """Forget every token."""
        library().llama_memory_clear(library().llama_get_memory(self.handle), True)

    def truncate(self, length: int) -> None:
        """Forget every token of sequence 0 from position `length` on."""
        library().llama_memory_seq_rm(library().llama_get_memory(self.handle), 0, length, -1)

    def share_prefix(self, sequences: int) -> None:
        """Give what sequence 0 holds to sequences 1 to `sequences` - 1 as well; it is kept once."""
        memory = library().llama_get_memory(self.handle)
        for sequence in range(1, sequences):
            library().llama_memory_seq_cp(memory, 0, sequence, -1, -1)

    def truncate_all(self, length: int) -> None:
        """Forget every token of every sequence from position `length` on."""
        library().llama_memory_seq_rm(library().llama_get_memory(self.handle), -1, length, -1)

    def set_adapter(self, adapter: Any | None, scale: float = 1.0) -> None:
        """Apply a LoRA from `Model.load_adapter` in this context alone; None takes it off."""
        c = library()
        count = 0 if adapter is None else 1
        adapters = (c.llama_adapter_lora_p_ctypes * 1)(adapter if adapter is not None else None)
        scales = (ctypes.c_float * 1)(scale)
        if c.llama_set_adapters_lora(self.handle, adapters, count, scales) != 0:
            raise LlamaCppError(f"llama.cpp cannot apply the adapter: {reason()}")

    def logits(self, token_ids: Sequence[int]) -> Logits:
        """Logits after each token, from an empty cache: (n, n_vocab) float32."""
        self.clear()
        nothing = numpy.empty((0, self.model.n_vocab), dtype=numpy.float32)
        return numpy.concatenate([nothing, *self.decode(token_ids, start=0)])

    def decode(self, token_ids: Sequence[int], *, start: int, every: bool = True) -> Iterator[Logits]:
        """Decode tokens at positions `start`, `start` + 1, ... of sequence 0, a batch at a time.

        Yields (batch, n_vocab) float32 after each batch; with `every` false only the last token's row, (1, n_vocab).
        """
        if start + len(token_ids) > self.context_tokens:
            raise InputError(
                f"{start + len(token_ids)} tokens do not fit a context of {self.context_tokens}",
                hint="shorten the text",
            )
        last = len(token_ids) - 1
        yield from self.decode_batch(
            [BatchToken(token, start + number, (0,), every or number == last) for number, token in enumerate(token_ids)]
        )

    def decode_batch(self, tokens: Sequence[BatchToken]) -> Iterator[Logits]:
        """Decode tokens of several sequences, `batch_tokens` at a time; each sees those of its sequences before it.

        A prefix that belongs to several sequences is computed and kept once. Yields, in order, the rows of the tokens that
        want logits: (wanted in this batch, n_vocab) float32.
        """
        c = library()
        for offset in range(0, len(tokens), self.batch_tokens):
            piece = tokens[offset : offset + self.batch_tokens]
            self._batch.n_tokens = len(piece)
            for place, token in enumerate(piece):
                self._batch.token[place] = token.token_id
                self._batch.pos[place] = token.position
                self._batch.n_seq_id[place] = len(token.sequences)
                for number, sequence in enumerate(token.sequences):
                    self._batch.seq_id[place][number] = sequence
                self._batch.logits[place] = token.wants_logits
            _log.clear()
            if (status := c.llama_decode(self.handle, self._batch)) != 0:
                raise LlamaCppError(f"llama.cpp could not decode {len(piece)} tokens (status {status}): {reason()}")
            if rows := sum(token.wants_logits for token in piece):
                pointer = c.llama_get_logits(self.handle)
                yield numpy.ctypeslib.as_array(pointer, shape=(rows, self.model.n_vocab)).copy()

    def greedy(self, token_ids: Sequence[int], max_tokens: int) -> list[int]:
        """The most likely continuation, token by token, without the end token that stops it."""
        if not token_ids:
            raise InputError("there is no token to continue from", hint="begin with BOS")
        self.clear()
        generated: list[int] = []
        feed, start = list(token_ids), 0
        while len(generated) < max_tokens and start + len(feed) <= self.context_tokens:
            *_, logits = self.decode(feed, start=start, every=False)
            token = int(logits[-1].argmax())
            if self.model.is_end(token):
                break
            generated.append(token)
            start, feed = start + len(feed), [token]
        return generated


class Sampler(_Owner):
    """What chooses the next token: at temperature 0 the likeliest, else one drawn with a seed from the likeliest tokens that
    together have the probability `top_p` (llama.cpp's order: `top_p` first, then the temperature)."""

    def __init__(self, *, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0) -> None:
        c = library()
        self.handle = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
        if temperature <= 0:
            steps = [c.llama_sampler_init_greedy()]
        else:
            steps = [
                c.llama_sampler_init_top_p(top_p, 1), c.llama_sampler_init_temp(temperature), c.llama_sampler_init_dist(seed)
            ]  # fmt: skip
        for step in steps:
            c.llama_sampler_chain_add(self.handle, step)

    def close(self) -> None:
        """Free the sampler."""
        if self.handle:
            library().llama_sampler_free(self.handle)
            self.handle = None

    def sample(self, context: Context) -> int:
        """The token after the last one that was decoded in this context."""
        return int(library().llama_sampler_sample(self.handle, context.handle, -1))
