"""Detect the features of a chat template and adapt conversations to them.

Chat templates differ, and many reject or drop some messages. The features of a template are
detected by rendering short probe conversations, once per tokenizer. Missing features have these
fallbacks:

| the template | fallback |
|---|---|
| renders no system turn | its text is prepended to the next user message |
| renders only a leading system turn | later ones are prepended to the next user message |
| requires alternating roles | adjacent turns of one role are merged, separated by a blank line |
| requires a leading user message | an empty one is inserted before the assistant's |
| renders no tools | the system turn lists them and describes how to call them |
| renders no tool calls | they are part of the text, as `<tool_call>{...}</tool_call>` |
| renders no custom role | its messages become user messages, as `role: ...` |
| renders no tool results | they become user messages, `<tool_response>...</tool_response>` |
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.errors import ChatTemplateError, MessageError
from langgraph_arbitrage.prompts.user_text import (
    SpecialTokensInText,
    protect_messages,
    protect_values,
)
from langgraph_arbitrage.tools.formats import PROBE, CallFormat, Hermes, Tool, detect_format

if TYPE_CHECKING:
    from langgraph_arbitrage.engine import Tokenizer

__all__ = ["Template", "template_of"]

Message = dict[str, Any]

TOOL_NOTE = """You can call tools. Tools, one JSON object a line:
{tools}
To call one, answer with its name and arguments as JSON, and nothing else:
<tool_call>{{"name": "NAME", "arguments": {{...}}}}</tool_call>"""
ROLES = ("system", "user", "assistant", "tool")
THINK_MARKS = ("<think>", "[THINK]")


@dataclass(frozen=True)
class Template:
    """The features of a tokenizer's chat template."""

    tokenizer: Tokenizer
    system: bool
    """Renders a leading system turn."""
    later_system: bool
    """Renders system turns at any position."""
    repeats: bool
    """Renders consecutive turns of one role."""
    assistant_first: bool
    """Renders a conversation that starts with an assistant turn."""
    tools: bool
    """Renders tool definitions."""
    calls: bool
    """Renders the assistant's tool calls."""
    results: bool
    """Renders tool results as separate turns."""
    text_arguments: bool
    """Requires tool call arguments as JSON text instead of an object."""
    call_format: CallFormat | None
    """Format of tool calls; None if the template renders none or the format is unknown."""
    supports_thinking: bool
    """The template's source contains a thinking mark."""
    opening_mark: str | None
    """The thinking mark at the end of the generation prompt; None if there is none."""

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        note: str = "",
        special_tokens_in_text: SpecialTokensInText = "escape",
        continue_final_message: bool = False,
    ) -> list[int]:
        """Adapt a conversation to the template and render it to token ids.

        Args:
            messages: Message dicts, as returned by `template_messages`.
            tools: Tools that the model may call.
            note: Text to append to the system turn.
            special_tokens_in_text: What to do with special tokens in the text of users and tools.
            continue_final_message: End the prompt within the last message, the assistant's.

        Raises:
            ChatTemplateError: The template rejects the adapted conversation.
            MessageError: A text contains a special token that is refused, or the message to
                continue is not one of the assistant with text.
        """
        options: dict[str, Any] = {}
        if special_tokens_in_text != "allow":
            tokens, mode = self.tokenizer.control_tokens, special_tokens_in_text
            messages = protect_messages(messages, tokens, mode)
            tools = protect_values(list(tools), tokens, mode, "A tool")
            if documents := self.tokenizer.template_kwargs.get("documents"):
                options["documents"] = protect_values(documents, tokens, mode, "A document")
        adapted, renders_tools = self.adapt(messages, tools, note)
        if renders_tools:
            options["tools"] = list(tools)
        if continue_final_message:
            _check_continuable(messages[-1])
            options |= {"continue_final_message": True, "add_generation_prompt": False}
        return self.tokenizer.render(adapted, **options)

    def adapt(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), note: str = ""
    ) -> tuple[list[Message], bool]:
        """Adapt a conversation to the template's features.

        Returns:
            The adapted messages, and True if the template itself renders the tools.
        """
        adapted = [dict(m) for m in messages]
        notes = [note] if note else []
        if tools and not self.tools:
            listed = "\n".join(json.dumps(tool["function"]) for tool in tools)
            notes.insert(0, TOOL_NOTE.format(tools=listed))
        if notes:
            adapted = _with_system(adapted, "\n".join(notes))
        adapted = [self._adapt_turn(m) for m in adapted]
        if not self.later_system:
            adapted = self._move_system_turns(adapted)
        if not self.repeats:
            adapted = _merged(adapted)
        if not self.assistant_first and _first_role(adapted) == "assistant":
            at = 1 if adapted[0]["role"] == "system" else 0
            adapted.insert(at, {"role": "user", "content": ""})
        return adapted, bool(tools) and self.tools

    def _adapt_turn(self, message: Message) -> Message:
        """Replace a role, tool result or tool call that the template does not render."""
        calls, role = message.get("tool_calls"), message["role"]
        if role not in ROLES and not _renders_role(self.tokenizer, role):
            return {**message, "role": "user", "content": f"{role}: {message['content']}"}
        if role == "tool" and not self.results:
            name = f' name="{message["name"]}"' if message.get("name") else ""
            text = f"<tool_response{name}>\n{message['content']}\n</tool_response>"
            return {"role": "user", "content": text}
        if calls and not self.calls:
            written = [
                "<tool_call>" + json.dumps(call["function"]) + "</tool_call>" for call in calls
            ]
            text = "\n".join([message["content"], *written] if message["content"] else written)
            return {"role": "assistant", "content": text}
        if calls and self.text_arguments:
            functions = [
                {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}
                for call in calls
            ]
            changed = [{**c, "function": f} for c, f in zip(calls, functions, strict=True)]
            return {**message, "tool_calls": changed}
        return message

    def _move_system_turns(self, messages: list[Message]) -> list[Message]:
        """Merge leading system turns and prepend the text of others to the next user turn.

        Without support for a system turn, leading ones are prepended as well.
        """
        moved: list[Message] = []
        pending: list[str] = []
        for message in messages:
            if message["role"] == "system":
                leading = self.system and not any(m["role"] != "system" for m in moved)
                if leading and moved:
                    moved[0] = {**moved[0], "content": _joined(moved[0], message)}
                elif leading:
                    moved.append(message)
                else:
                    pending.append(message["content"])
            elif message["role"] == "user" and pending:
                text = "\n\n".join([*pending, message["content"]])
                moved.append({**message, "content": text})
                pending = []
            else:
                moved.append(message)
        if pending:
            moved.append({"role": "user", "content": "\n\n".join(pending)})
        return moved


def _check_continuable(message: Message) -> None:
    if message["role"] != "assistant" or message.get("tool_calls") or not message["content"]:
        kind = "with tool calls" if message.get("tool_calls") else f"of role {message['role']!r}"
        raise MessageError(
            "continue_final_message needs a conversation that ends with an assistant message with "
            f"text, but the last message is {kind if message['content'] else 'empty'}"
        )


def _with_system(messages: list[Message], note: str) -> list[Message]:
    """Append a note to the system turn; add the turn if there is none."""
    if messages and messages[0]["role"] == "system":
        first = {**messages[0], "content": "\n".join([messages[0]["content"], note]).lstrip()}
        return [first, *messages[1:]]
    return [{"role": "system", "content": note}, *messages]


def _merged(messages: list[Message]) -> list[Message]:
    """Merge adjacent turns of one role. Tool results remain separate turns."""
    merged: list[Message] = []
    for message in messages:
        last = merged[-1] if merged else None
        if last and last["role"] == message["role"] and message["role"] != "tool":
            joined = {**last, "content": _joined(last, message)}
            if calls := [*last.get("tool_calls", ()), *message.get("tool_calls", ())]:
                joined["tool_calls"] = calls
            merged[-1] = joined
        else:
            merged.append(message)
    return merged


def _joined(first: Message, second: Message) -> str:
    return "\n\n".join(text for m in (first, second) if (text := m["content"]))


def _first_role(messages: list[Message]) -> str | None:
    return next((m["role"] for m in messages if m["role"] != "system"), None)


# --- detection ---------------------------------------------------------------------------

_TOOL = {
    "type": "function",
    "function": {
        "name": PROBE[0],
        "description": "A probe.",
        "parameters": {
            "type": "object",
            "properties": {next(iter(PROBE[1])): {"type": "string", "description": "A key."}},
            "required": list(PROBE[1]),
        },
    },
}


@lru_cache(maxsize=64)
def template_of(tokenizer: Tokenizer) -> Template:
    """Detect the features of a tokenizer's chat template. Results are cached per tokenizer.

    Raises:
        ChatTemplateError: The tokenizer has no template, or it fails to render a user message.
    """
    user, reply = _message("user", "text U"), _message("assistant", "text A")
    next_user = _message("user", "text W")
    prompt = tokenizer.render_text([user])
    renders = _Probe(tokenizer)
    tools = renders([user], PROBE[0], tools=[_TOOL])
    tool_options = {"tools": [_TOOL]} if tools else {}
    for text_arguments in (False, True):
        call = _call(text_arguments)
        sample = _call_sample(
            renders.text([user, call], add_generation_prompt=False, **tool_options)
        )
        if sample:
            break
    result = {"role": "tool", "content": "text R", "name": PROBE[0], "tool_call_id": "abcdefghi"}
    call_format = detect_format(sample) if sample else None
    source = tokenizer.chat_template or ""
    tail = prompt[-40:].rstrip()
    return Template(
        tokenizer=tokenizer,
        system=renders([_message("system", "text S"), user], "text S"),
        later_system=renders([user, reply, _message("system", "text S"), next_user], "text S")
        and renders([_message("system", "text S"), _message("system", "text T"), user], "text T"),
        repeats=renders([user, next_user, reply, _message("assistant", "text B"), user], "text B")
        and renders([user, next_user], "text U"),
        assistant_first=renders([reply, user], "text A"),
        tools=tools,
        calls=sample is not None,
        results=sample is not None and renders([user, call, result], "text R", **tool_options),
        text_arguments=sample is not None and text_arguments,
        call_format=call_format,
        supports_thinking=any(mark in source for mark in THINK_MARKS),
        opening_mark=next((mark for mark in THINK_MARKS if tail.endswith(mark)), None),
    )


@lru_cache(maxsize=256)
def _renders_role(tokenizer: Tokenizer, role: str) -> bool:
    """Return True if the template renders messages of a custom role."""
    user = _message("user", "text U")
    return _Probe(tokenizer)([user, _message(role, "text C")], "text C")


class _Probe:
    """Checks whether a template renders a given text of a conversation."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def text(self, messages: Sequence[Any], **options: Any) -> str | None:
        """Render a conversation; None if the template rejects it."""
        try:
            return self._tokenizer.render_text(messages, **options)
        except ChatTemplateError:
            return None

    def __call__(self, messages: Sequence[Any], expected: str, **options: Any) -> bool:
        text = self.text(messages, **options)
        return text is not None and expected in text


def _message(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def _call(text_arguments: bool) -> Message:
    arguments: Any = json.dumps(PROBE[1]) if text_arguments else PROBE[1]
    function = {"name": PROBE[0], "arguments": arguments}
    call = {"type": "function", "id": "abcdefghi", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _call_sample(text: str | None) -> str | None:
    """Return the rendered `PROBE` call; None if it is missing or its arguments are not JSON."""
    sample = (text or "").rpartition("text U")[2]
    rendered = PROBE[0] in sample and "probe value" in sample
    return sample if rendered and "{'" not in sample and '\\"probe' not in sample else None


FALLBACK_FORMAT = Hermes('<tool_call>{"name": "', '", "arguments": ', "}</tool_call>")
"""Format of tool calls if the template renders none. `TOOL_NOTE` describes it to the model."""
