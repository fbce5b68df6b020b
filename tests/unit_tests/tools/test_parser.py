"""Parsing does not depend on how an answer is split; malformed calls never raise."""

from __future__ import annotations

import random
from typing import Any

import pytest

from langgraph_arbitrage.chat_model.content_blocks import BlockIndexer
from langgraph_arbitrage.tools.formats import (
    CallFormat,
    Hermes,
    LlamaJson,
    Mistral,
    Pythonic,
    QwenXml,
)
from langgraph_arbitrage.tools.messages import ChunkWriter, message_of_pieces
from langgraph_arbitrage.tools.parser import AnswerParser, Piece, open_thinking

TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {"properties": {"a": {"type": "integer"}, "s": {"type": "string"}}},
    },
}
Parts = list[tuple[str, Any]]


def parts(pieces: list[Piece]) -> Parts:
    """Return kind and content of the pieces, with adjacent pieces of one kind joined."""
    joined: Parts = []
    for piece in pieces:
        if piece.call is not None:
            joined.append(("call", (piece.call.name, piece.call.args)))
        elif joined and joined[-1][0] == piece.kind:
            joined[-1] = (piece.kind, joined[-1][1] + piece.text)
        else:
            joined.append((piece.kind, piece.text))
    return joined


ONE, TWO = ("call", ("f", {"a": 1})), ("call", ("f", {"a": 2}))
CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
XML = (
    "<tool_call>\n<function=f>\n<parameter=a>\n12\n</parameter>\n"
    "<parameter=s>\nx\n\ny\n</parameter>\n</function>\n</tool_call>"
)
CASES: list[tuple[str, CallFormat | None, str | None, Parts]] = [
    ("Hello there\n\n", Hermes(), None, [("text", "Hello there\n\n")]),
    (f"Hi.\n{CALL}\n{CALL.replace('1', '2')}\n", Hermes(), None, [("text", "Hi."), ONE, TWO]),
    (f"{CALL}\nDone", Hermes(), None, [ONE, ("text", "Done")]),
    ('<tool_call>{"name": "f", "argum', Hermes(), None, [("call", ("f", None))]),
    (CALL.removesuffix("</tool_call>"), Hermes(), None, [("call", ("f", None))]),
    ("<tool_call>[1, 2</tool_call>", Hermes(), None, [("call", (None, None))]),
    ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', Hermes(), None, [ONE]),
    ("<think>\nhm <tool_call>\n</think>\n\nyes", Hermes(), None,
     [("reasoning", "hm <tool_call>"), ("text", "yes")]),
    ("hm\n</think>\n\nyes", None, "</think>", [("reasoning", "hm"), ("text", "yes")]),
    ("no end", None, "</think>", [("reasoning", "no end")]),
    ("[THINK]a[/THINK]b", None, None, [("reasoning", "a"), ("text", "b")]),
    (CALL, None, None, [("text", CALL)]),
    ('{"name": "f", "parameters": {"a": 1}}', LlamaJson(), None, [ONE]),
    ('<|python_tag|>{"name": "f", "parameters": {"a": 1}}; {"name": "f", "parameters": {"a": 2}}',
     LlamaJson(), None, [ONE, TWO]),
    ('{"name": "f", "parameters": {"a": 1', LlamaJson(), None, [("call", ("f", None))]),
    ('{"name": "Ann", "age": 3}', LlamaJson(), None, [("text", '{"name": "Ann", "age": 3}')]),
    ("{a set} of", LlamaJson(), None, [("text", "{a set} of")]),
    ('[f(a=1), f(s="x", a=true)]', Pythonic(), None,
     [ONE, ("call", ("f", {"s": "x", "a": True}))]),
    ("[f(a=", Pythonic(), None, [("call", ("f", None))]),
    ("[f(a=open('x'))]", Pythonic(), None, [("call", ("f", None))]),
    ("[1] is a note", Pythonic(), None, [("text", "[1] is a note")]),
    ('[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}]', Mistral(), None,
     [ONE]),
    ('Sure[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]f[CALL_ID]x[ARGS]{"a": 2}', Mistral(), None,
     [("text", "Sure"), ONE, TWO]),
    (XML, QwenXml(), None,
     [("call", ("f", {"a": 12, "s": "x\n\ny"}))]),
    ("<tool_call>\n<function=f>\n<parameter=a>\n12\n</function></tool_call>", QwenXml(), None,
     [("call", ("f", None))]),
    ("a < b <think and <tool_ca", Hermes(), None, [("text", "a < b <think and <tool_ca")]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "call_format", "closing_mark", "expected"), CASES)
def test_a_split_answer_is_parsed_like_a_whole_one(
    text: str, call_format: CallFormat | None, closing_mark: str | None, expected: Parts
) -> None:
    rng = random.Random(text)
    for max_length in (len(text), 1, 2, 5, 9):
        parser = AnswerParser([call_format] if call_format else [], [TOOL], closing_mark)
        pieces, rest = [], text
        while rest:
            n = rng.randint(1, max_length) if max_length < len(text) else max_length
            pieces += parser.feed(rest[:n])
            rest = rest[n:]
        assert parts([*pieces, *parser.finish()]) == expected


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize(("text", "call_format", "closing_mark", "expected"), CASES)
def test_chunks_add_up_to_the_message(
    text: str,
    call_format: CallFormat | None,
    closing_mark: str | None,
    expected: Parts,
    blocks: bool,
) -> None:
    parser = AnswerParser([call_format] if call_format else [], [TOOL], closing_mark)
    pieces = [p for c in text for p in parser.feed(c)] + parser.finish()
    message = message_of_pieces(pieces)
    writer = ChunkWriter()
    chunks = [*writer.chunks(pieces), writer.last()]
    if blocks:
        indexer = BlockIndexer()
        chunks = [indexer.convert(chunk) for chunk in chunks]
    whole = sum(chunks[1:], chunks[0])
    assert whole.text == message.text == "".join(t for kind, t in expected if kind == "text")
    called = [(c["name"], c["args"]) for c in message.tool_calls]
    assert called == [c for kind, c in expected if kind == "call" and c[1] is not None]
    assert [(c["name"], c["args"]) for c in whole.tool_calls] == called
    assert len(whole.invalid_tool_calls) == len(message.invalid_tool_calls)
    thought = "".join(t for kind, t in expected if kind == "reasoning")
    reasoning = [b["reasoning"] for b in whole.content_blocks if b["type"] == "reasoning"]
    assert "".join(reasoning) == thought
    assert len(reasoning) <= 1


def test_a_malformed_region_of_a_response_template_is_an_invalid_call() -> None:
    from langgraph_arbitrage.engine import Tokenizer
    from langgraph_arbitrage.tools.template_parser import TemplateParser
    from tiny import tokenizer

    template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "<assistant>",
        "fields": {
            "reasoning_content": {"open": "<think>", "close": "</think>", "content": "text"},
            "tool_calls": {
                "open_pattern": r"<call:(?P<name>\w+)>", "close": "</call>", "repeats": True,
                "content": "json",
                "transform": {"type": "function",
                              "function": {"name": "{name}", "arguments": "{content}"}},
            },
            "content": {"content": "text"},
        },
    }  # fmt: skip
    parser = TemplateParser(Tokenizer(tokenizer(), "tiny", None), template, [TOOL], None)
    text = (
        '<think>hm</think>Sure.<call:f>{"a": 1}</call><call:f>{"a": </call><call:f>{"a": 2}</call>'
    )
    pieces = [p for i in range(0, len(text), 7) for p in parser.feed(text[i : i + 7])]
    joined = parts([*pieces, *parser.finish()])
    assert joined == [("reasoning", "hm"), ("text", "Sure."), ONE, ("call", (None, None)), TWO]


@pytest.mark.parametrize(
    ("text", "opening_mark", "closing_mark"),
    [
        ("", None, None),
        ("<think>", None, "</think>"),
        (" <think>Let me", None, "</think>"),
        ("[THINK]Let me", None, "[/THINK]"),
        ("Let me", "<think>", "</think>"),
        ("Let me</think>\n\nSo", "<think>", None),
        ("<think>a</think> <think>b", None, "</think>"),
        ("<think>a</think>The mark <think> opens", None, None),
        ("The mark <think> opens", None, None),
    ],
)
def test_thinking_is_open_only_if_no_text_precedes_it(
    text: str, opening_mark: str | None, closing_mark: str | None
) -> None:
    assert open_thinking(text, opening_mark) == closing_mark
