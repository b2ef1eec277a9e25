"""A record as token ids: every option of a question as an answer to one prompt, or a conversation whose answers are measured.

In plain text the ids are lm-evaluation-harness's: those of prompt and answer together, of which the first, as many as the prompt
alone has, are the prompt's. In a chat they are the chat template's, and the labels are the answer that training would learn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eval.tasks import Passage, Question, Task
from eval.wording import Wording
from medllama.chat import IGNORED_LABEL, Chat, Labelled
from medllama.errors import InputError
from medllama.tokenizer import Tokenizer, common_prefix

Answers = Sequence[Labelled]  # conversations or texts that differ in the answer alone


@dataclass(frozen=True)
class Encoder:
    """Turns the records of one task into ids. `chat` is None for a model that has no chat template."""

    task: Task
    wording: Wording
    form: Literal["plain", "chat"]
    tokenizer: Tokenizer
    chat: Chat | None

    def encode(self, record: Question | Passage) -> Answers:
        """A record with one `Labelled` per option, or one alone."""
        if isinstance(record, Question):
            answers = self._plain(record) if self.form == "plain" else self._chat(record)
        elif record.messages:
            answers = [self._conversation(record)]
        else:
            answers = [_text(record.text, self.tokenizer)]
        for answer in answers:
            answer.labels[0] = IGNORED_LABEL  # nothing comes before it that could predict it
            if all(label == IGNORED_LABEL for label in answer.labels):
                raise InputError(f"{self.task.path}: the prompt leaves no answer of record {record.record_id}")
        return answers

    def _conversation(self, passage: Passage) -> Labelled:
        chat = self._template()
        try:
            return chat.encode_for_training(passage.messages)
        except InputError as error:
            raise InputError(
                f"{self.task.path}: record {passage.document_id}: {error.message}", hint=error.hint
            ) from None

    def _plain(self, question: Question) -> list[Labelled]:
        prompt = self.plain_text(question)
        start = bos(self.tokenizer)
        length = len(start) + len(self.tokenizer.encode_text(prompt))
        answers = []
        for answer in self.wording.answers(question):
            ids = start + self.tokenizer.encode_text(f"{prompt} {answer}")
            answers.append(Labelled(ids, [IGNORED_LABEL] * length + ids[length:]))
        return answers

    def plain_text(self, question: Question) -> str:
        """What stands before the answer: the header, the examples with theirs, and the question."""
        examples = (f"{self.wording.ask(it)} {self.wording.answer(it)}\n\n" for it in self._examples(question))
        return self.wording.header(question.subject) + "".join(examples) + self.wording.ask(question)

    def _chat(self, question: Question) -> list[Labelled]:
        chat, messages = self._template(), self.messages(question)
        if len(messages) == 1:
            said = [[*messages, {"role": "assistant", "content": it}] for it in self.wording.answers(question)]
            return [chat.encode_for_training(conversation) for conversation in said]
        prompt = chat.encode(messages, add_generation_prompt=True)
        answers = []
        for answer in self.wording.answers(question):
            labelled = chat.encode_for_training([*messages, {"role": "assistant", "content": answer}])
            start = common_prefix(prompt, labelled.input_ids)  # the examples' answers are not scored
            answers.append(Labelled(labelled.input_ids, [IGNORED_LABEL] * start + labelled.labels[start:]))
        return answers

    def messages(self, question: Question) -> list[dict[str, str]]:
        """The conversation before the answer: the header as the system's words, each example as a turn."""
        header = self.wording.header(question.subject).strip()
        messages = [{"role": "system", "content": header}] if header else []
        for example in self._examples(question):
            messages.append({"role": "user", "content": self.wording.ask(example)})
            messages.append({"role": "assistant", "content": self.wording.answer(example)})
        return [*messages, {"role": "user", "content": self.wording.ask(question)}]

    def _examples(self, question: Question) -> list[Question]:
        is_by_subject = self.task.benchmark == "mmlu-medical"
        return [it for it in self.task.examples if not is_by_subject or it.subject == question.subject]

    def _template(self) -> Chat:
        if self.chat is None:
            raise InputError(
                f"{self.task.path}: these records need a chat template, and the GGUF has none",
                hint="convert it with --chat-template llama2, llama3 or a Jinja file; questions can be asked with --prompt plain",
            )
        return self.chat


def _text(text: str, tokenizer: Tokenizer) -> Labelled:
    """A text as training has it: BOS, the text, EOS. EOS counts as its ending."""
    vocabulary = tokenizer.vocabulary
    start, end = ([] if index is None else [index] for index in (vocabulary.bos_id, vocabulary.eos_id))
    ids = start + tokenizer.encode_text(text) + end
    return Labelled(ids, list(ids))


def ids_sha256(ids: Any) -> str:
    """The SHA-256 of lists of ids, as JSON."""
    return hashlib.sha256(json.dumps(ids, separators=(",", ":")).encode()).hexdigest()


def bos(tokenizer: Tokenizer) -> list[int]:
    """The id with which a plain text begins, where the file says that one does."""
    vocabulary = tokenizer.vocabulary
    return [vocabulary.bos_id] if vocabulary.add_bos and vocabulary.bos_id is not None else []
