"""Detection of a chat template's features and call format, and the fallbacks."""

from __future__ import annotations

import pytest

from langgraph_arbitrage import embedded
from langgraph_arbitrage.engine import ModelSpec, Tokenizer, load_tokenizer
from langgraph_arbitrage.prompts.chat_template import Template, template_of
from langgraph_arbitrage.tools.formats import (
    CallFormat,
    Hermes,
    LlamaJson,
    Mistral,
    Pythonic,
    QwenXml,
)
from tiny import tokenizer

TURNS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] or '' }}"
    "{% for c in m.tool_calls or [] %}CALL{% endfor %}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NAME, JSON = "{{ c.function.name }}", "{{ c.function.arguments | tojson }}"
ITEMS = "{% for k, v in c.function.arguments.items() %}"
CALLS: dict[type[CallFormat], str] = {
    Hermes: f'<tool_call>\n{{"name": "{NAME}", "arguments": {JSON}}}\n</tool_call>',
    LlamaJson: f'{{"name": "{NAME}", "parameters": {JSON}}}',
    Mistral: f"[TOOL_CALLS]{NAME}[ARGS]{JSON}",
    Pythonic: f'[{NAME}({ITEMS}{{{{ k }}}}="{{{{ v }}}}"{{% endfor %}})]',
    QwenXml: f"<tool_call>\n<function={NAME}>\n{ITEMS}<parameter={{{{ k }}}}>\n{{{{ v }}}}\n"
    "</parameter>\n{% endfor %}</function>\n</tool_call>",
}
LIST = f'[TOOL_CALLS] [{{"name": "{NAME}", "arguments": {JSON}, "id": "{{{{ c.id }}}}"}}]'
USER, ASSISTANT = ({"role": r, "content": c} for r, c in (("user", "Hi"), ("assistant", "Yes")))
SYSTEM = {"role": "system", "content": "Be brief."}


def template(source: str) -> Template:
    fast = tokenizer()
    hf = type(fast)(tokenizer_object=fast.backend_tokenizer, bos_token="<eos>", eos_token="<eos>")
    return template_of(Tokenizer(hf, "tiny", source))


@pytest.mark.parametrize("kind", CALLS)
def test_the_call_format_is_detected_from_the_template(kind: type[CallFormat]) -> None:
    detected = template(TURNS.replace("CALL", CALLS[kind]))
    assert type(detected.call_format) is kind
    assert detected.tools
    assert detected.calls
    assert not detected.text_arguments


def test_the_texts_of_a_call_match_the_template() -> None:
    assert template(TURNS.replace("CALL", CALLS[Hermes])).call_format == Hermes()
    call_format = template(TURNS.replace("CALL", LIST)).call_format
    assert call_format == Mistral('[TOOL_CALLS] [{"name": "', '", "arguments": ', "}]")
    embedded_target = template_of(load_tokenizer(ModelSpec(embedded.TARGET)))
    assert embedded_target.call_format == Hermes(
        '<tool_call>{"name": "', '", "arguments": ', "}</tool_call>"
    )
    as_text = TURNS.replace("CALL", CALLS[Hermes].replace(JSON, "{{ c.function.arguments }}"))
    assert template(as_text).text_arguments


def test_without_a_system_turn_its_text_is_prepended_to_the_user_message() -> None:
    strict = template(
        "{% for m in messages %}"
        "{% if m.role == 'system' or (m.role == 'user') == loop.index0 % 2 %}"
        "{{ raise_exception('no') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    adapted, _ = strict.adapt([SYSTEM, USER, USER, ASSISTANT, SYSTEM])
    assert [(m["role"], m["content"]) for m in adapted] == [
        ("user", "Be brief.\n\nHi\n\nHi"),
        ("assistant", "Yes"),
        ("user", "Be brief."),
    ]
    adapted, _ = strict.adapt([ASSISTANT, USER])
    assert [m["role"] for m in adapted] == ["user", "assistant", "user"]


def test_without_tool_support_the_system_turn_lists_the_tools() -> None:
    plain = template(TURNS.replace("CALL", "").replace("{{ tools | tojson }}", ""))
    tool = {"type": "function", "function": {"name": "now", "parameters": {}}}
    called = {
        **ASSISTANT,
        "tool_calls": [{"id": "c", "function": {"name": "now", "arguments": {}}}],
    }
    result = {"role": "tool", "content": "noon", "name": "now", "tool_call_id": "c"}
    adapted, rendered = plain.adapt([USER, called, result], [tool])
    assert not rendered
    assert [m["role"] for m in adapted] == ["system", "user", "assistant", "user"]
    assert '{"name": "now", "parameters": {}}' in adapted[0]["content"]
    assert adapted[2]["content"] == 'Yes\n<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    assert adapted[3]["content"] == '<tool_response name="now">\nnoon\n</tool_response>'
