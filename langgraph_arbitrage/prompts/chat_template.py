"""What a chat template can render, and conversations rewritten to what it can.

Every model brings a template of its own, and many refuse or drop some messages. What a template
does is found by rendering short conversations with it, once a tokenizer. The fallbacks:

| the template | then |
|---|---|
| has no system turn | its text goes before the next user message |
| takes a system turn at the beginning only | later ones go before the next user message |
| wants user and assistant to alternate | neighbours of one role are merged, with a blank line |
| wants a user message first | an empty one is put before the assistant's |
| does not render tools | they are listed in the system turn, with how to call them |
| does not render calls | they are written into the text, `<tool_call>{...}</tool_call>` |
| does not render a role of one's own | its messages are the user's, `role: ...` |
| does not render tool results | they are user messages, `<tool_response>...</tool_response>` |
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.errors import ChatTemplateError
from langgraph_arbitrage.tools.formats import PROBE, CallFormat, Hermes, Tool, format_of_sample

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
    """What a chat template renders."""

    tokenizer: Tokenizer
    system: bool
    """A system turn at the beginning."""
    later_system: bool
    """A system turn anywhere."""
    repeats: bool
    """Two turns of one role after each other."""
    assistant_first: bool
    """A conversation that the assistant begins."""
    tools: bool
    """Descriptions of tools."""
    calls: bool
    """Tool calls of the assistant."""
    results: bool
    """Tool results as turns of their own."""
    text_arguments: bool
    """The arguments of calls have to be JSON text, not an object."""
    form: CallFormat | None
    """How it writes tool calls; None where it does not, or in no form that is known here."""
    thinks: bool
    """It knows of thinking."""
    opened: str | None
    """The mark of thinking that it opens for the answer, if it does."""

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), note: str = ""
    ) -> list[int]:
        """Token ids of a conversation, rewritten to what the template can.

        Args:
            messages: Plain messages, as `prompts.template_messages` makes them.
            tools: Tools to describe.
            note: Something to add to the system turn.

        Raises:
            ChatTemplateError: It refuses even that.
        """
        fitted, offered = self.fitted(messages, tools, note)
        return self.tokenizer.render(fitted, **({"tools": list(tools)} if offered else {}))

    def fitted(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), note: str = ""
    ) -> tuple[list[Message], bool]:
        """The conversation as the template takes it, and whether the template lists the tools."""
        fitted = [dict(m) for m in messages]
        notes = [note] if note else []
        if tools and not self.tools:
            listed = "\n".join(json.dumps(tool["function"]) for tool in tools)
            notes.insert(0, TOOL_NOTE.format(tools=listed))
        if notes:
            fitted = _with_system(fitted, "\n".join(notes))
        fitted = [self._turn(m) for m in fitted]
        if not self.later_system:
            fitted = self._without_system(fitted)
        if not self.repeats:
            fitted = _merged(fitted)
        if not self.assistant_first and _first_role(fitted) == "assistant":
            at = 1 if fitted[0]["role"] == "system" else 0
            fitted.insert(at, {"role": "user", "content": ""})
        return fitted, bool(tools) and self.tools

    def _turn(self, message: Message) -> Message:
        calls, role = message.get("tool_calls"), message["role"]
        if role not in ROLES and not _takes_role(self.tokenizer, role):
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

    def _without_system(self, messages: list[Message]) -> list[Message]:
        """System texts at the beginning in one turn, if it takes one; others before a user's."""
        kept: list[Message] = []
        waiting: list[str] = []
        for message in messages:
            if message["role"] == "system":
                leading = self.system and not any(m["role"] != "system" for m in kept)
                if leading and kept:
                    kept[0] = {**kept[0], "content": _joined(kept[0], message)}
                elif leading:
                    kept.append(message)
                else:
                    waiting.append(message["content"])
            elif message["role"] == "user" and waiting:
                text = "\n\n".join([*waiting, message["content"]])
                kept.append({**message, "content": text})
                waiting = []
            else:
                kept.append(message)
        if waiting:
            kept.append({"role": "user", "content": "\n\n".join(waiting)})
        return kept


def _with_system(messages: list[Message], note: str) -> list[Message]:
    """The conversation with a note in its system turn."""
    if messages and messages[0]["role"] == "system":
        first = {**messages[0], "content": "\n".join([messages[0]["content"], note]).lstrip()}
        return [first, *messages[1:]]
    return [{"role": "system", "content": note}, *messages]


def _merged(messages: list[Message]) -> list[Message]:
    """Neighbours of one role in one turn; results and calls stay turns of their own."""
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


# --- finding out -------------------------------------------------------------------------

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
    """What a tokenizer's template renders, found out once.

    Raises:
        ChatTemplateError: There is no template, or it renders not even one user message.
    """
    user, reply = _message("user", "text U"), _message("assistant", "text A")
    more = _message("user", "text W")
    prompt = tokenizer.render_text([user])
    renders = _Renders(tokenizer)
    tools = renders([user], PROBE[0], tools=[_TOOL])
    offered = {"tools": [_TOOL]} if tools else {}
    for text_arguments in (False, True):
        call = _call(text_arguments)
        sample = _written(renders.text([user, call], add_generation_prompt=False, **offered))
        if sample:
            break
    result = {"role": "tool", "content": "text R", "name": PROBE[0], "tool_call_id": "abcdefghi"}
    form = format_of_sample(sample) if sample else None
    source = tokenizer.chat_template or ""
    tail = prompt[-40:].rstrip()
    return Template(
        tokenizer=tokenizer,
        system=renders([_message("system", "text S"), user], "text S"),
        later_system=renders([user, reply, _message("system", "text S"), more], "text S")
        and renders([_message("system", "text S"), _message("system", "text T"), user], "text T"),
        repeats=renders([user, more, reply, _message("assistant", "text B"), user], "text B")
        and renders([user, more], "text U"),
        assistant_first=renders([reply, user], "text A"),
        tools=tools,
        calls=sample is not None,
        results=sample is not None and renders([user, call, result], "text R", **offered),
        text_arguments=sample is not None and text_arguments,
        form=form,
        thinks=any(mark in source for mark in THINK_MARKS),
        opened=next((mark for mark in THINK_MARKS if tail.endswith(mark)), None),
    )


@lru_cache(maxsize=256)
def _takes_role(tokenizer: Tokenizer, role: str) -> bool:
    user = _message("user", "text U")
    return _Renders(tokenizer)([user, _message(role, "text C")], "text C")


class _Renders:
    """Whether a template renders a conversation with a text of it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def text(self, messages: Sequence[Any], **options: Any) -> str | None:
        try:
            return self._tokenizer.render_text(messages, **options)
        except ChatTemplateError:
            return None

    def __call__(self, messages: Sequence[Any], wanted: str, **options: Any) -> bool:
        text = self.text(messages, **options)
        return text is not None and wanted in text


def _message(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def _call(text_arguments: bool) -> Message:
    arguments: Any = json.dumps(PROBE[1]) if text_arguments else PROBE[1]
    function = {"name": PROBE[0], "arguments": arguments}
    call = {"type": "function", "id": "abcdefghi", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _written(text: str | None) -> str | None:
    """How the call was written after the user's text; None where it was not, or not as JSON."""
    sample = (text or "").rpartition("text U")[2]
    shown = PROBE[0] in sample and "probe value" in sample
    return sample if shown and "{'" not in sample and '\\"probe' not in sample else None


FALLBACK_FORM = Hermes('<tool_call>{"name": "', '", "arguments": ', "}</tool_call>")
"""How calls are written by models whose template does not say: the note tells them so."""
