"""One chat format: ids equal to llama.cpp's for the rendered prompt, typed control tokens stay text, labels are the answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medllama.chat import (
    FAMILY_TEMPLATES,
    IGNORED_LABEL,
    LLAMA2_TEMPLATE,
    LLAMA3_TEMPLATE,
    PINNED_DATE,
    Chat,
    load_chat,
)
from medllama.errors import InputError
from medllama.llamacpp import Model
from medllama.tokenizer import Tokenizer
from tests.medllama.conversations import CONTROL_TEXTS, REAL_VECTORS, conversations, texts

FAMILIES = ("llama2", "llama3")
every_family = pytest.mark.parametrize("family", FAMILIES)
Messages = list[dict[str, str]]
Chats = dict[str, tuple[Chat, Model]]

ONE_TURN: Messages = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is gout?"},
    {"role": "assistant", "content": "An inflammation."},
]
CHATML = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""


@pytest.fixture(scope="module")
def chats(llama2_base: Path, llama3_base: Path, llama2_words: Model, llama3_words: Model) -> Chats:
    """By family the chat of a base without a template, and llama.cpp's tokenizer of the same checkpoint."""
    return {
        "llama2": (loaded(llama2_base), llama2_words),
        "llama3": (loaded(llama3_base), llama3_words),
    }


def loaded(base: Path, adapter: Path | None = None, choice: str = "auto") -> Chat:
    chat = load_chat(base, adapter, choice)
    assert chat is not None
    return chat


def contents(messages: Messages) -> str:
    return "\n".join(message["content"] for message in messages)


@every_family
def test_a_conversation_has_the_ids_that_llama_cpp_gives_for_the_rendered_prompt(chats: Chats, family: str) -> None:
    chat, model = chats[family]

    @settings(max_examples=200)
    @given(conversations(), st.booleans())
    def holds(messages: Messages, add_generation_prompt: bool) -> None:
        assume(not any(token in contents(messages) for token in chat.tokenizer.control))
        rendered = chat.render(messages, add_generation_prompt=add_generation_prompt)
        ids = chat.encode(messages, add_generation_prompt=add_generation_prompt)
        assert ids == model.tokenize(rendered, parse_special=True)

    holds()


@every_family
def test_a_control_token_that_somebody_types_stays_text(chats: Chats, family: str) -> None:
    chat, _ = chats[family]
    harmless = st.sampled_from(("x", "gout is", ""))
    dangerous = st.lists(st.sampled_from(CONTROL_TEXTS[family]) | texts, min_size=1, max_size=4).map("".join)

    @settings(max_examples=200)
    @given(conversations(dangerous), conversations(harmless))
    def holds(messages: Messages, others: Messages) -> None:
        ids = chat.encode(messages)
        # The template's own control tokens are those of a harmless conversation with the same roles ...
        calm = [{**message, "content": "x"} for message in messages]
        controls = [index for index in ids if chat._is_control(index)]
        assert controls == [index for index in chat.encode(calm) if chat._is_control(index)]
        # ... and everything that was typed is still there as text.
        shown = chat.tokenizer.decode(ids, show_control=True)
        if family == "llama2":  # a space before each text between control tokens; U+2581 is a space to SentencePiece
            rendered = chat.render(messages).replace("▁", " ")
            assert shown.replace(" ", "") == rendered.replace(" ", "")
        else:
            assert shown == chat.render(messages)

    holds()


@every_family
def test_labels_are_exactly_the_answers_and_their_end_tokens(chats: Chats, family: str) -> None:
    chat, _ = chats[family]
    # Llama 3's pattern joins line breaks: an answer that begins with white space and a line break shares its first token
    # with the two line breaks of the prompt before it.
    answers = texts.filter(lambda text: text == text.lstrip())

    @settings(max_examples=200)
    @given(conversations(answers=answers))
    def holds(messages: Messages) -> None:
        labelled = chat.encode_for_training(messages)
        assert labelled.input_ids == chat.encode(messages)
        assert len(labelled.labels) == len(labelled.input_ids)
        assert all(
            label in (IGNORED_LABEL, index) for index, label in zip(labelled.input_ids, labelled.labels, strict=True)
        )
        spans = [list(span) for is_learned, span in groupby(labelled.labels, IGNORED_LABEL.__ne__) if is_learned]
        said = [message["content"] for message in messages if message["role"] == "assistant"]
        form: Callable[[str], str] = {
            "llama2": lambda answer: f" {answer.replace('▁', ' ')} </s>",
            "llama3": lambda answer: f"{answer}<|eot_id|>",
        }[family]
        assert [chat.tokenizer.decode(span, show_control=True) for span in spans] == [form(answer) for answer in said]

    holds()


def test_an_answer_that_begins_with_line_breaks_is_still_learned_to_its_end(chats: Chats) -> None:
    chat, _ = chats["llama3"]
    labels = chat.encode_for_training([ONE_TURN[1], {"role": "assistant", "content": "\n\nYes"}]).labels
    learned = [label for label in labels if label != IGNORED_LABEL]
    assert chat.tokenizer.decode(learned, show_control=True).lstrip("\n") == "Yes<|eot_id|>"


def test_the_llama_2_layout_is_metas(chats: Chats) -> None:
    chat, _ = chats["llama2"]
    later: Messages = [{"role": "user", "content": "And why?"}]
    assert chat.render(ONE_TURN + later) == (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhat is gout? [/INST] An inflammation. </s><s>[INST] And why? [/INST]"
    )
    assert chat.render(later, add_generation_prompt=True) == "<s>[INST] And why? [/INST]"


def test_the_llama_3_layout_is_metas(chats: Chats) -> None:
    chat, _ = chats["llama3"]
    assert chat.render(ONE_TURN, add_generation_prompt=True) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is gout?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nAn inflammation.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_a_space_comes_before_the_text_after_a_control_token(real_tokenizers: dict[str, Tokenizer]) -> None:
    """Llama 2's first prompt ids are [1, 518]; raw Transformers gives [1, 29961]."""
    chat = Chat(LLAMA2_TEMPLATE, real_tokenizers["llama2"])
    assert chat.encode([{"role": "user", "content": "Hi"}]) == [1, 518, 25580, 29962, 6324, 518, 29914, 25580, 29962]


@every_family
def test_the_end_of_a_turn_is_the_templates_own_token(chats: Chats, family: str) -> None:
    chat, model = chats[family]
    end = chat.end_of_turn()
    assert end is not None
    assert chat.tokenizer.vocabulary.tokens[end] == {"llama2": "</s>", "llama3": "<|eot_id|>"}[family]
    assert model.is_end(end)


def test_a_template_that_ends_answers_by_text_alone_has_labels_and_no_end_token(chats: Chats) -> None:
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n\n{% endfor %}"
    chat = Chat(template + "{% if add_generation_prompt %}assistant:{% endif %}", chats["llama3"][0].tokenizer)
    assert chat.end_of_turn() is None
    learned = [label for label in chat.encode_for_training(ONE_TURN).labels if label != IGNORED_LABEL]
    assert chat.tokenizer.decode(learned) == " An inflammation.\n\n"


def test_a_template_with_its_own_control_tokens_ends_with_its_own(llama2_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(llama2_base, tmp_path / "base"))
    (base / "added_tokens.json").write_text(json.dumps({"<|im_start|>": 512, "<|im_end|>": 513}))
    (base / "special_tokens_map.json").write_text(
        json.dumps({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    )
    (base / "chat_template.jinja").write_text(CHATML)
    chat = loaded(base)
    assert chat.end_of_turn() == 513
    assert chat.render(ONE_TURN[1:2], add_generation_prompt=True) == (
        "<|im_start|>user\nWhat is gout?<|im_end|>\n<|im_start|>assistant\n"
    )
    learned = [label for label in chat.encode_for_training(ONE_TURN).labels if label != IGNORED_LABEL]
    assert chat.tokenizer.decode(learned, show_control=True).lstrip() == "An inflammation.<|im_end|>"


@every_family
def test_a_base_without_a_template_gets_its_familys(chats: Chats, family: str) -> None:
    assert chats[family][0].template == FAMILY_TEMPLATES[family]


def test_the_choice_of_a_template_is_a_family_a_file_none_or_auto(llama2_base: Path, tmp_path: Path) -> None:
    base, adapter = Path(shutil.copytree(llama2_base, tmp_path / "base")), tmp_path / "adapter"
    adapter.mkdir()
    file = tmp_path / "mine.jinja"
    file.write_text("mine {{ messages[0]['content'] }}")
    assert load_chat(base, None, "none") is None
    assert loaded(base, choice="llama3").template == LLAMA3_TEMPLATE
    assert loaded(base, choice=str(file)).render(ONE_TURN) == "mine Be brief."
    assert loaded(base).template == LLAMA2_TEMPLATE
    (base / "tokenizer_config.json").write_text(json.dumps({"chat_template": "the base's"}))
    assert loaded(base).template == "the base's"
    (base / "chat_template.jinja").write_text("the base's file")
    assert loaded(base).template == "the base's file"
    (adapter / "chat_template.jinja").write_text("the adapter's")
    assert loaded(base, adapter).template == "the adapter's"
    with pytest.raises(InputError, match=r"nowhere\.jinja does not exist"):
        load_chat(base, None, str(tmp_path / "nowhere.jinja"))


def test_of_several_templates_the_default_one_is_taken(llama2_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(llama2_base, tmp_path / "base"))
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    (base / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert loaded(base).template == "plain"


def test_a_template_that_asks_for_the_date_gets_a_pinned_one(chats: Chats, tmp_path: Path, llama3_base: Path) -> None:
    file = tmp_path / "dated.jinja"
    file.write_text(
        "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}"
        "{%- endif %}{%- endif %}Today is {{ date_string }}. {{ messages[0]['content'] }}"
    )
    chat = loaded(llama3_base, choice=str(file))
    assert chat.template == PINNED_DATE + file.read_text()
    assert chat.render(ONE_TURN) == "Today is 26 Jul 2024. Be brief."
    file.write_text(chat.template)
    assert loaded(llama3_base, choice=str(file)).template == chat.template, "a date is pinned once"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[7]['content'] }}", "has no element 7"),
        ("{{ messages[0]['content'] + 1 }}", "can only concatenate str"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages[0].content.nothing.more }}", "has no attribute"),
    ],
)
def test_a_template_that_refuses_a_conversation_is_an_error_for_people(
    chats: Chats, template: str, reason: str
) -> None:
    with pytest.raises(InputError) as caught:
        Chat(template, chats["llama2"][0].tokenizer).render(ONE_TURN)
    assert caught.value.message.startswith(
        "the chat template refuses a conversation of roles system, user, assistant: "
    )
    assert reason in caught.value.message


def test_an_unknown_role_is_refused_in_the_llama_2_layout(chats: Chats) -> None:
    with pytest.raises(InputError, match="refuses a conversation of roles tool: unknown role tool"):
        chats["llama2"][0].render([{"role": "tool", "content": "x"}])


def test_what_is_no_jinja_is_refused(chats: Chats) -> None:
    with pytest.raises(InputError, match="the chat template is not Jinja"):
        Chat("{% for %}", chats["llama2"][0].tokenizer)


def test_a_templates_text_decides_its_digest(chats: Chats) -> None:
    tokenizer = chats["llama2"][0].tokenizer
    assert Chat("a", tokenizer).sha256 == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert Chat("a", tokenizer).sha256 != Chat("a\n", tokenizer).sha256


@every_family
def test_the_real_tokenizers_chat_has_llama_cpps_ids(
    shared_data: Path, real_tokenizers: dict[str, Tokenizer], family: str
) -> None:
    chat = Chat(FAMILY_TEMPLATES[family], real_tokenizers[family])
    with Model(shared_data / "tokenizers" / "vectors" / REAL_VECTORS[family], vocab_only=True) as model:

        @settings(max_examples=100)
        @given(conversations(), st.booleans())
        def holds(messages: Messages, add_generation_prompt: bool) -> None:
            assume(not any(token in contents(messages) for token in chat.tokenizer.control))
            rendered = chat.render(messages, add_generation_prompt=add_generation_prompt)
            assert chat.encode(messages, add_generation_prompt=add_generation_prompt) == model.tokenize(
                rendered, parse_special=True
            )

        holds()
