"""The Go TEMPLATE gives Ollama the prompt that the model was trained with, or is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medllama.chat import LLAMA2_TEMPLATE, LLAMA3_TEMPLATE, Chat, Message, load_chat
from medllama.errors import UnsupportedError
from medllama.go_template import derive_go_template, go_template_sha256, read_layout
from medllama.tokenizer import Tokenizer
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint

PROGRAM = Path(__file__).resolve().parent.parent / "go_template"
Render = Callable[[str, Sequence[Sequence[Message]]], list[str]]

CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
CHATML_WITH_DEFAULT_SYSTEM = (
    """\
{%- if messages[0]['role'] != 'system' -%}{{- '<|im_start|>system\\nBe "brief" {{ and }} kind. 100%<|im_end|>\\n' -}}{%- endif -%}
"""
    + CHATML
)
# No control token ends a turn, fixed text comes first, and a conversation with a system message is refused.
INSTRUCTION = """\
{{- bos_token + 'Below is a task.\\n\\n' -}}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}{{- '### Question:\\n' + message['content'] + '\\n\\n' -}}
{%- elif message['role'] == 'assistant' -%}{{- '### Answer:\\n' + message['content'] + '\\n\\n' -}}
{%- else -%}{{- raise_exception('no system messages') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '### Answer:\\n' -}}{%- endif -%}
"""
# A fixed text comes first where there is no system message, and a later system message is left out.
VICUNA = """\
{{- bos_token + (messages[0]['content'] if messages[0]['role'] == 'system' else 'A chat.') + ' ' -}}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}{{- 'USER: ' + message['content'] + ' ' -}}
{%- elif message['role'] == 'assistant' -%}{{- 'ASSISTANT: ' + message['content'] + eos_token -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""
EDGES = ("{}", " {}", "{} ", "\n{}\n", "\t{}  ", "  \n{}")


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Chat]:
    folder = tmp_path_factory.mktemp("bases")
    llama2 = load_chat(make_llama2_checkpoint(folder / "llama2", num_hidden_layers=1))
    llama3 = load_chat(make_llama3_checkpoint(folder / "llama3", num_hidden_layers=1))
    assert llama2 is not None
    assert llama3 is not None
    without_bos = Tokenizer(dataclasses.replace(llama3.tokenizer.vocabulary, add_bos=False))
    return {
        "llama2": llama2,
        "llama3": llama3,
        "ChatML": Chat(CHATML, without_bos),
        "ChatML with BOS": Chat("{{- bos_token -}}\n" + CHATML, llama3.tokenizer),
        "ChatML with a default system prompt": Chat(CHATML_WITH_DEFAULT_SYSTEM, without_bos),
        "instruction": Chat(INSTRUCTION, llama2.tokenizer),
    }


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Go's own text/template, called as Ollama calls it."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed (Debian: golang-go), so the TEMPLATE is not rendered by Go itself")
    program = tmp_path_factory.mktemp("go") / "render"
    subprocess.run(["go", "build", "-o", program, "."], cwd=PROGRAM, check=True, timeout=300)

    def render(template: str, conversations: Sequence[Sequence[Message]]) -> list[str]:
        asked = json.dumps({"template": template, "conversations": conversations})
        done = subprocess.run([program], input=asked, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        prompts: list[str] = json.loads(done.stdout)
        return prompts

    return render


def conversation(turns: int, system: bool, edge: str = "{}", *, answered: bool = False) -> list[Message]:
    roles = ["system"] * system + (["user", "assistant"] * turns)[: 2 * turns - (not answered)]
    texts = ("What is gout?", "Gout is arthritis.", "And 100% {{ sure }}?", 'Yes, "sure".', "a\n\nb")
    return [{"role": role, "content": edge.format(texts[number % len(texts)])} for number, role in enumerate(roles)]


def ollama_ids(chat: Chat, prompt: str) -> list[int]:
    """The ids that Ollama's server makes of a prompt: BOS where the vocabulary asks for it, control tokens recognized."""
    vocabulary = chat.tokenizer.vocabulary
    bos = [vocabulary.bos_id] if vocabulary.add_bos and vocabulary.bos_id is not None else []
    return bos + chat.tokenizer.encode_rendered(prompt)


NAMES = ("llama2", "llama3", "ChatML", "ChatML with BOS", "ChatML with a default system prompt", "instruction")


@pytest.mark.parametrize("name", NAMES)
def test_go_renders_the_ids_that_chat_encodes(name: str, chats: dict[str, Chat], go: Render) -> None:
    chat = chats[name]
    conversations = [
        conversation(turns, system, edge)
        for turns in range(1, 6)
        for system in ((False, True) if name != "instruction" else (False,))
        for edge in EDGES
    ]
    prompts = go(derive_go_template(chat), conversations)
    for messages, prompt in zip(conversations, prompts, strict=True):
        assert ollama_ids(chat, prompt) == chat.encode(messages, add_generation_prompt=True), messages


@pytest.mark.parametrize("name", NAMES)
def test_go_leaves_a_last_answer_open(name: str, chats: dict[str, Chat], go: Render) -> None:
    chat = chats[name]
    layout, messages = read_layout(chat), conversation(2, False, answered=True)
    (prompt,) = go(layout.go_template(), [messages])
    assert prompt.endswith(messages[-1]["content"])
    assert ollama_ids(chat, prompt + layout.assistant[1]) == chat.encode(messages)


@pytest.mark.parametrize("name", NAMES)
def test_the_python_model_renders_what_go_renders(name: str, chats: dict[str, Chat], go: Render) -> None:
    layout = read_layout(chats[name])
    shapes = ["", "u", "s", "a", "su", "sua", "suaua", "sau", "auau", "usu", "uasu", "uasau", "suasuau", "tu", "utau"]
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    conversations = [
        [{"role": roles[letter], "content": f" {letter}{number}\n"} for number, letter in enumerate(shape)]
        for shape in shapes
    ]
    assert go(layout.go_template(), conversations) == [layout.render(messages) for messages in conversations]


@pytest.mark.parametrize("name", ["llama2", "llama3"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_text_goes_through_go_unchanged(name: str, chats: dict[str, Chat], go: Render, data: st.DataObject) -> None:
    chat = chats[name]
    text = st.text(max_size=30).filter(lambda value: not any(token in value for token in chat.tokenizer.control))
    roles = ["user", "assistant"] * data.draw(st.integers(0, 4)) + ["user"]
    if data.draw(st.booleans()):
        roles.insert(0, "system")
    messages = [{"role": role, "content": data.draw(text)} for role in roles]
    (prompt,) = go(derive_go_template(chat), [messages])
    assert ollama_ids(chat, prompt) == chat.encode(messages, add_generation_prompt=True)


@pytest.mark.parametrize("name", ["llama2", "llama3", "ChatML with BOS"])
def test_the_template_never_begins_with_bos(name: str, chats: dict[str, Chat]) -> None:
    chat = chats[name]
    vocabulary = chat.tokenizer.vocabulary
    assert vocabulary.bos_id is not None
    bos = vocabulary.tokens[vocabulary.bos_id]
    for system in (False, True):
        assert not read_layout(chat).render(conversation(2, system)).startswith(bos)


def test_later_turns_of_llama2_begin_with_bos_and_only_a_system_message_makes_a_block(chats: dict[str, Chat]) -> None:
    layout = read_layout(chats["llama2"])
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert layout.render(messages) == "[INST] a [/INST] b </s><s>[INST] c [/INST]"
    system = [{"role": "system", "content": "d"}]
    assert layout.render(system + messages[:1]) == "[INST] <<SYS>>\nd\n<</SYS>>\n\na [/INST]"


def test_a_template_holds_nothing_that_a_modelfile_loses(chats: dict[str, Chat]) -> None:
    odd = CHATML.replace("\\n", '\\n\u00a0\u200b""" \\\\ \\t')
    template = derive_go_template(Chat(odd, chats["ChatML"].tokenizer))
    assert '"""' not in template
    assert all(character.isprintable() or character == "\n" for character in template)


def test_a_template_of_odd_characters_renders_them(chats: dict[str, Chat], go: Render) -> None:
    chat = Chat(CHATML.replace("\\n", '\\n\u00a0\u200b🩺""" }} {{ \\\\ \\t\\r'), chats["ChatML"].tokenizer)
    messages = conversation(2, True)
    assert go(derive_go_template(chat), [messages]) == [chat.render(messages, add_generation_prompt=True)]


def test_the_digest_is_that_of_the_text() -> None:
    assert go_template_sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


LAST_TURN_SYSTEM = """\
{{- bos_token -}}
{%- for message in messages if message['role'] != 'system' -%}
{%- if message['role'] == 'user' -%}
{{- '[INST] ' -}}
{%- if loop.last and messages[0]['role'] == 'system' -%}{{- messages[0]['content'] + '\\n\\n' -}}{%- endif -%}
{{- message['content'] + ' [/INST]' -}}
{%- else -%}{{- ' ' + message['content'] + eos_token -}}{%- endif -%}
{%- endfor -%}
"""
OUTSIDE = {
    "white space at the edges": LLAMA3_TEMPLATE.replace("+ message['content'] +", "+ message['content'] | trim +"),
    "what a message says": LLAMA3_TEMPLATE.replace("message['content']", "message['content'].split('</think>')[-1]"),
    "does not begin with <|begin_of_text|>": LLAMA3_TEMPLATE.replace("{{- bos_token -}}", ""),
    "what follows a user turn depends on whether it is the last": LLAMA3_TEMPLATE.replace(
        "'<|eot_id|>' -}}", "('x' if loop.last else '<|eot_id|>') -}}"
    ),
    "left out, moved or repeated": LLAMA3_TEMPLATE.replace("message['content'] +", "message['content'] * 2 +"),
    "the first user turn is written in another way": LLAMA3_TEMPLATE.replace(
        "'<|start_header_id|>' +", "('a' if loop.first else 'b') +"
    ),
    "refuses a conversation of roles user, assistant, user": LLAMA3_TEMPLATE.replace(
        "{%- endfor -%}", "{%- if loop.index > 2 -%}{{ raise_exception('short') }}{%- endif -%}{%- endfor -%}"
    ),
    "depends on more than roles": LAST_TURN_SYSTEM,
    "roles: user, assistant, system, user is not made of the same pieces": VICUNA,
    "add_generation_prompt changes more": LLAMA3_TEMPLATE.replace(
        "'<|eot_id|>' -}}", "('x' if add_generation_prompt else '<|eot_id|>') -}}"
    ),
    "neither a turn of its own nor a part": LAST_TURN_SYSTEM.replace(
        "'[INST] '", "('' if messages[0]['role'] == 'system' else '[INST] ')"
    ),
}


@pytest.mark.parametrize("reason", OUTSIDE)
def test_a_template_outside_the_subset_is_refused_with_the_reason(reason: str, chats: dict[str, Chat]) -> None:
    chat = Chat(OUTSIDE[reason], chats["llama3"].tokenizer)
    with pytest.raises(UnsupportedError, match="no Go counterpart") as refused:
        derive_go_template(chat)
    assert reason in refused.value.message


def test_a_tokenizer_that_ends_prompts_is_refused(chats: dict[str, Chat]) -> None:
    vocabulary = dataclasses.replace(chats["llama2"].tokenizer.vocabulary, add_eos=True)
    with pytest.raises(UnsupportedError, match="ends every prompt"):
        derive_go_template(Chat(LLAMA2_TEMPLATE, Tokenizer(vocabulary)))
