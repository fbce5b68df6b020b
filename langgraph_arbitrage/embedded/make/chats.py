"""Generated short chats with simple tool use, which train copying and output formats.

Names and texts of public test suites are excluded: see ``EXCLUDED_WORDS``. The embedded models were
trained on these texts: do not change them.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

from langgraph_arbitrage.embedded._stories import HE, PARTS, SHE, THINGS
from langgraph_arbitrage.embedded.make.words import ARGUMENTS, WordGenerator

Message = dict[str, Any]
Chat = tuple[list[Message], list[dict[str, Any]]]
"""Messages, and the available tools."""

EXCLUDED_WORDS = ("magic", "weather", "joke", "person", "multiply", "adder", "generate")
"""Words that do not occur in any generated name or text."""

GREETINGS = ("Hello", "Hi", "Hey", "Good morning", "Good evening", "Hello!", "Hi there", "Hello.")
SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful assistant", "Be brief.",
    "Answer in one sentence.", "You solve word problems.", "You are an agent with tools.",
    "Use a tool where one fits.", "Be polite.", "You are careful with numbers.",
)  # fmt: skip


class ChatGenerator(WordGenerator):
    """Generates random chats."""

    def chat(self) -> Chat:
        """Generate a chat of a random kind."""
        kinds: tuple[tuple[Callable[[], Chat], int], ...] = (
            (self.greeting, 1),
            (self.repeat, 2),
            (self.copy, 4),
            (self.memory, 3),
            (self.tool_use, 10),
            (self.report, 2),
            (self.json_answer, 4),
        )
        while True:
            chat = self.rng.choices([k for k, _ in kinds], [n for _, n in kinds])[0]()
            text = json.dumps(chat).lower()
            if not any(word in text for word in EXCLUDED_WORDS):
                return chat

    def opening(self, share: float = 0.3) -> list[Message]:
        """A system message with probability ``share``, else nothing."""
        if self.rng.random() > share:
            return []
        return [_system(self.rng.choice(SYSTEMS))]

    def person_name(self) -> str:
        """Draw the name of a person."""
        if self.held_out or self.rng.random() < 0.5:
            return self.word().capitalize()
        return self.rng.choice((*SHE, *HE))

    def greeting(self) -> Chat:
        """A greeting, sometimes with a name."""
        greeting, answer = self.rng.choice(GREETINGS), "Hello! How can I help you?"
        if self.rng.random() < 0.5:
            name = self.person_name()
            greeting, answer = f"{greeting.rstrip('.!')}, I am {name}.", f"Hello, {name}!"
        return [*self.opening(), _user(greeting), _assistant(answer)], []

    def repeat(self) -> Chat:
        """A request to repeat a text."""
        rng = self.rng
        text = self.text() if rng.random() < 0.7 else f"{self.number()} {rng.choice(THINGS)}"
        ask = rng.choice(
            ("Repeat: {}", "Say {}", "Please say {}.", 'Repeat "{}".', "Write: {}", 'Say "{}"',
             "Repeat after me: {}", "Echo {}", "Answer with {}", "Reply with {} only.")
        )  # fmt: skip
        return [*self.opening(), _user(ask.format(text)), _assistant(text)], []

    def copy(self) -> Chat:
        """A request to repeat a long meaningless text, which trains only copying."""
        words = [self.text() for _ in range(self.rng.randint(4, 24))]
        text = self.rng.choice((" ", ", ", "_", '", "', ": ")).join(words)
        return [*self.opening(0.1), _user(f"Repeat: {text}"), _assistant(text)], []

    def memory(self) -> Chat:
        """Questions about facts from earlier in the chat."""
        rng = self.rng
        name, number, thing = self.person_name(), self.number(), rng.choice((*THINGS, *PARTS))
        facts = [
            (f"My name is {name}.", ("What is my name?", "Who am I?", "Do you know my name?"),
             f"Your name is {name}."),
            (f"I am {name}.", ("What is my name?", "Who am I?"), f"Your name is {name}."),
            (f"My number is {number}.", ("What is my number?", "Which number did I say?"),
             f"Your number is {number}."),
            (f"I have {number} {thing}.", (f"How many {thing} do I have?", "What do I have?"),
             f"You have {number} {thing}."),
            (f"My favorite word is {self.word()}.", ("What is my favorite word?",), ""),
        ]  # fmt: skip
        chosen = rng.sample(facts, rng.choice((1, 1, 2)))
        messages = self.opening()
        for fact, _, _ in chosen:
            messages += [_user(fact), _assistant(rng.choice(("OK.", "Good to know.", "Noted.")))]
            if rng.random() < 0.3:
                messages += self.repeat()[0][-2:]
        for fact, questions, answer in rng.sample(chosen, len(chosen)):
            messages += [_user(rng.choice(questions)), _assistant(answer or _favorite_word(fact))]
        if len(chosen) == 1 and rng.random() < 0.25:  # fact and question in one message
            fact, questions, answer = chosen[0]
            question = _user(f"{fact} {questions[0]}")
            messages = [*self.opening(), question, _assistant(answer or _favorite_word(fact))]
        return messages, []

    def request(self, tool: dict[str, Any], arguments: dict[str, Any]) -> str:
        """Word a user's request for one tool call."""
        rng, name = self.rng, tool["function"]["name"]
        shown = {k: v if isinstance(v, str) else json.dumps(v) for k, v in arguments.items()}
        quote = rng.random() < 0.25
        shown = {
            k: f'"{v}"' if quote and isinstance(arguments[k], str) else v for k, v in shown.items()
        }
        called = name if rng.random() < 0.6 else name.replace("_", " ")
        pair_format = rng.choice(("{} {}", "{} = {}", "{}={}", "{}: {}", "{} is {}", "the {} {}"))
        pairs = [
            pair_format.format(k if rng.random() < 0.7 else k.replace("_", " "), v)
            for k, v in shown.items()
        ]
        pairs = rng.sample(pairs, len(pairs))
        listed = rng.choice((", ", " and ")).join(pairs) if len(pairs) < 3 else ", ".join(pairs)
        if len(shown) == 1 and rng.random() < 0.4:
            value = next(iter(shown.values()))
            ask = rng.choice(("{} {}", "{} of {}?", "{} for {}.", "What is the {} of {}?",
                              "What does {} give for {}?", "Please {} {}.", "{}: {}"))  # fmt: skip
            return ask.format(called, value)
        if not shown:
            ask = rng.choice(("Use {}.", "Call {}.", "{}, please.", "Run {} now.", "{}?"))
            return ask.format(called)
        ask = rng.choice(
            ("Use {} with {}.", "Call {} with {}", "{} with {}.", "Please {}: {}.",
             "I need {} for {}.", "Run {} ({})", "What does {} give with {}?")
        )  # fmt: skip
        return ask.format(called, listed)

    def tool_use(self) -> Chat:
        """Calls of one or two tools, and the answer from their results."""
        rng = self.rng
        tools = [self.tool() for _ in range(rng.choices((1, 2, 3), (5, 4, 2))[0])]
        if len({t["function"]["name"] for t in tools}) < len(tools):
            return self.tool_use()
        messages = self.opening(0.5)
        for _ in range(rng.choices((1, 2), (5, 1))[0]):
            if rng.random() < 0.12:  # a turn without a tool call
                turn = self.repeat()[0] if rng.random() < 0.5 else self.greeting()[0]
                messages += turn[-2:]
                continue
            used = [rng.choice(tools) for _ in range(rng.choices((1, 2), (5, 1))[0])]
            calls = [self.arguments(tool) for tool in used]
            requests = [self.request(t, a) for t, a in zip(used, calls, strict=True)]
            messages.append(_user(" Then ".join(requests)))
            messages.append(_calls(list(zip(used, calls, strict=True))))
            results = [self.result() for _ in used]
            messages += [{"role": "tool", "content": r} for r in results]
            messages.append(_assistant(f"The result is {' and '.join(results)}."))
        return messages, tools

    def report(self) -> Chat:
        """A tool call whose result is passed to another tool or returned as JSON."""
        rng = self.rng
        tool, form = self.tool(), self.tool()
        arguments = self.arguments(tool)
        result = self.result()
        number = re.fullmatch(r"-?\d+", result) is not None
        key = self.name((ARGUMENTS,))
        properties = {key: {"type": "integer" if number and rng.random() < 0.7 else "string"}}
        form["function"]["parameters"] = {"type": "object", "properties": properties}
        value = int(result) if properties[key]["type"] == "integer" else result
        if tool["function"]["name"] == form["function"]["name"]:
            return self.report()
        request = [_user(self.request(tool, arguments)), _calls([(tool, arguments)])]
        messages = [*request, {"role": "tool", "content": result}]
        if rng.random() < 0.6:
            return [*self.opening(), *messages, _calls([(form, {key: value})])], [tool, form]
        system = _system(self.schema_request(properties))
        return [system, *messages, _assistant(json.dumps({key: value}))], [tool]

    def result(self) -> str:
        """Draw a tool's result."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.45:
            return str(self.number())
        if kind < 0.8:
            return self.text()
        return f"{self.number()} {self.word()}"

    def json_answer(self) -> Chat:
        """A request for a JSON object of a given schema, and the object."""
        rng = self.rng
        tool = self.tool()
        properties = tool["function"]["parameters"]["properties"]
        if not properties:
            return self.json_answer()
        arguments = self.arguments(tool)
        ask = self.schema_request(properties)
        values = ", ".join(
            f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in arguments.items()
        )
        question = _user(rng.choice(("{}.", "Fill in: {}", "Here: {}", "{}")).format(values))
        answer = _assistant(json.dumps(arguments))
        if rng.random() < 0.6:
            return [_system(ask), question, answer], []
        return [_user(f"{question['content']}\n{ask}"), answer], []

    def schema_request(self, properties: dict[str, Any]) -> str:
        """Word a request for a JSON object of a schema."""
        schema = json.dumps({"type": "object", "properties": properties})
        ask = self.rng.choice(("Answer with a JSON object of this schema: {}",
                               "Answer as JSON. Schema: {}", "JSON schema: {}"))  # fmt: skip
        return ask.format(schema)


def chats(seed: int, held_out: bool = False) -> Iterator[Chat]:
    """Generate an endless stream of chats.

    Args:
        seed: Seed; the same arguments yield the same chats.
        held_out: True to use names that do not occur in training.
    """
    generator = ChatGenerator(random.Random(f"chats {seed} {held_out}"), held_out)
    while True:
        yield generator.chat()


def _favorite_word(fact: str) -> str:
    return f"Your favorite word is {fact.split()[-1]}"


def _calls(calls: list[tuple[dict[str, Any], dict[str, Any]]]) -> Message:
    tool_calls = [
        {"function": {"name": tool["function"]["name"], "arguments": arguments}}
        for tool, arguments in calls
    ]
    return {"role": "assistant", "content": "", "tool_calls": tool_calls}


def _system(content: str) -> Message:
    return {"role": "system", "content": content}


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}
