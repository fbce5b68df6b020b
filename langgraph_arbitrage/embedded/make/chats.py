"""Short chat turns and simple tool use, generated; what they train is copying and form.

Names of tools and arguments are put together from syllables and common words, so that a model
learns to copy whatever name and value it is shown. Names and texts of public test suites are kept
out: see ``KEPT_OUT``.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from langgraph_arbitrage.embedded._stories import HE, PARTS, SHE, THINGS

Message = dict[str, Any]
Chat = tuple[list[Message], list[dict[str, Any]]]
"""Messages, and the tools that are described."""

KEPT_OUT = ("magic", "weather", "joke", "person", "multiply", "adder", "generate")
"""Words that no generated name or text contains."""

HELD_OUT_ENDINGS = ("ka", "mo")
"""Names that end so occur in the held-out chats only, and all names there end so."""

SYLLABLES = """
    ba be bi bo da de di do fa fe fi fo ga ge gi go ka ke ki ko la le li lo ma me mi mo na ne ni
    no pa pe pi po ra re ri ro sa se si so ta te ti to va ve vi vo za ze zi zo ar el in on us er
    th st tr qu ly x y
""".split()
VERBS = """
    find look_up get set add send book open close count convert check list make read write save
    move start stop order pay plan order_new search translate measure sort update log rate
    remove compare pick show call mark split join play turn compute run
""".split()
NOUNS = """
    item room bill note order user file card flight route song light door price stock text word
    task event date city unit value table mail page list shop path key code area score team box
    color map train bus hotel table mass lamp number sum time record ticket alarm product
""".split()
ARGUMENTS = """
    name id key text title query topic city place day date count size number amount value a b x
    y n price limit unit color kind mode level speed from_city to_city user address code flag
    urgent active dry_run tags items ids words start end width height input left right first
    second item_id order_id user_name max_results language
""".split()
WORDS = """
    red blue green small large fast slow north south new old early late hot cold left right open
    closed high low soft hard light dark short long rome paris oslo lima cairo delhi tokyo milan
    berlin river stone garden window paper silver copper winter summer morning music story bread
    milk tea coffee soup apple pear lemon cat dog horse bird fish tree flower house road ship
""".split()
KINDS = ("string", "string", "integer", "integer", "number", "boolean", "enum", "array")
GREETINGS = ("Hello", "Hi", "Hey", "Good morning", "Good evening", "Hello!", "Hi there", "Hello.")
SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful assistant", "Be brief.",
    "Answer in one sentence.", "You solve word problems.", "You are an agent with tools.",
    "Use a tool where one fits.", "Be polite.", "You are careful with numbers.",
)  # fmt: skip


class Writer:
    """Writes chats from a seed; ``held_out`` ones use other names than training."""

    def __init__(self, rng: random.Random, held_out: bool = False) -> None:
        self.rng, self.held_out = rng, held_out

    def chat(self) -> Chat:
        """Write one chat of a random kind."""
        kinds: tuple[tuple[Callable[[], Chat], int], ...] = (
            (self.greeting, 1),
            (self.repeat, 3),
            (self.memory, 3),
            (self.tool_use, 9),
            (self.json_answer, 3),
        )
        while True:
            chat = self.rng.choices([k for k, _ in kinds], [n for _, n in kinds])[0]()
            text = json.dumps(chat).lower()
            if not any(word in text for word in KEPT_OUT):
                return chat

    # -- words and values ---------------------------------------------------------------------

    def word(self) -> str:
        """Make a word up, or take a common one in training."""
        rng = self.rng
        if not self.held_out and rng.random() < 0.35:
            return rng.choice(WORDS)
        word = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 3)))
        if self.held_out:
            return word + rng.choice(HELD_OUT_ENDINGS)
        return word + "n" if word.endswith(HELD_OUT_ENDINGS) else word

    def text(self) -> str:
        """Make one to three words, sometimes with capitals, digits or marks."""
        rng = self.rng
        words = [self.word() for _ in range(rng.choices((1, 2, 3), (6, 3, 1))[0])]
        if rng.random() < 0.4:
            words[0] = words[0].capitalize()
        joined = rng.choice((" ", " ", "_", "-")).join(words)
        return (
            f"{joined}{rng.choice(('', '', '-', ' ', '_', '@'))}{rng.randint(0, 99)}"
            if rng.random() < 0.2
            else joined
        )

    def number(self) -> int:
        """Draw an integer, mostly small, sometimes negative."""
        size = 10 ** self.rng.randint(1, 5)
        return self.rng.randrange(size) * (-1 if self.rng.random() < 0.05 else 1)

    def value(self, schema: dict[str, Any]) -> Any:
        """Draw a value that fits the schema."""
        rng = self.rng
        if "enum" in schema:
            return rng.choice(schema["enum"])
        if schema["type"] == "integer":
            return self.number()
        if schema["type"] == "number":
            return self.number() / rng.choice((1, 10, 10, 100))
        if schema["type"] == "boolean":
            return rng.random() < 0.5
        if schema["type"] == "array":
            return [self.value(schema["items"]) for _ in range(rng.randint(1, 3))]
        return self.text()

    def schema(self) -> dict[str, Any]:
        """Draw the schema of one argument."""
        rng = self.rng
        kind = rng.choice(KINDS)
        schema: dict[str, Any] = {"type": kind}
        if kind == "enum":
            schema = {"type": "string", "enum": [self.word() for _ in range(rng.randint(2, 3))]}
        elif kind == "array":
            schema["items"] = {"type": rng.choice(("string", "integer"))}
        if rng.random() < 0.25:
            schema["description"] = f"The {self.word()}"
        return schema

    def name(self, parts: tuple[list[str], ...]) -> str:
        """Make a tool's or an argument's name: common words, or made up."""
        rng = self.rng
        if not self.held_out and rng.random() < 0.6:
            return "_".join(rng.choice(part) for part in parts)
        words = [self.word() for _ in range(rng.choice((1, 1, 2)))]
        if rng.random() < 0.15:
            return "".join(w.capitalize() for w in words)
        return "_".join(words)

    def tool(self) -> dict[str, Any]:
        """Make a tool with none to three arguments."""
        rng = self.rng
        count = rng.choices((0, 1, 2, 3), (1, 5, 5, 2))[0]
        properties = {self.name((ARGUMENTS,)): self.schema() for _ in range(count)}
        name = self.name((VERBS, NOUNS))
        about = rng.choice(
            (
                f"{name.replace('_', ' ').capitalize()}.",
                f"Returns the {self.word()} of a {self.word()}.",
                f"Use it to {rng.choice(VERBS).replace('_', ' ')} the {self.word()}.",
                "",
            )
        )
        parameters: dict[str, Any] = {"type": "object", "properties": properties}
        if properties:
            parameters["required"] = list(properties)
        if rng.random() < 0.3:
            parameters = {"properties": properties, **parameters}
        return {
            "type": "function",
            "function": {"name": name, "description": about, "parameters": parameters},
        }

    # -- chats --------------------------------------------------------------------------------

    def opening(self, share: float = 0.3) -> list[Message]:
        """Open with a system message at times."""
        if self.rng.random() > share:
            return []
        return [{"role": "system", "content": self.rng.choice(SYSTEMS)}]

    def who(self) -> str:
        """Draw a person's name."""
        if self.held_out or self.rng.random() < 0.5:
            return self.word().capitalize()
        return self.rng.choice((*SHE, *HE))

    def greeting(self) -> Chat:
        """A greeting, with a name at times."""
        greeting, answer = self.rng.choice(GREETINGS), "Hello! How can I help you?"
        if self.rng.random() < 0.5:
            name = self.who()
            greeting, answer = f"{greeting.rstrip('.!')}, I am {name}.", f"Hello, {name}!"
        return [*self.opening(), _user(greeting), _assistant(answer)], []

    def repeat(self) -> Chat:
        """Say a text again."""
        rng = self.rng
        text = self.text() if rng.random() < 0.7 else f"{self.number()} {rng.choice(THINGS)}"
        ask = rng.choice(
            ("Repeat: {}", "Say {}", "Please say {}.", 'Repeat "{}".', "Write: {}", 'Say "{}"',
             "Repeat after me: {}", "Echo {}", "Answer with {}", "Reply with {} only.")
        )  # fmt: skip
        return [*self.opening(), _user(ask.format(text)), _assistant(text)], []

    def memory(self) -> Chat:
        """Ask about something that was said earlier in the chat."""
        rng = self.rng
        name, number, thing = self.who(), self.number(), rng.choice((*THINGS, *PARTS))
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
        for said, _, _ in chosen:
            messages += [_user(said), _assistant(rng.choice(("OK.", "Good to know.", "Noted.")))]
            if rng.random() < 0.3:
                messages += self.repeat()[0][-2:]
        for said, asks, answer in rng.sample(chosen, len(chosen)):
            messages += [_user(rng.choice(asks)), _assistant(answer or _word_of(said))]
        if len(chosen) == 1 and rng.random() < 0.25:  # both in one message
            said, asks, answer = chosen[0]
            told = _user(f"{said} {asks[0]}")
            messages = [*self.opening(), told, _assistant(answer or _word_of(said))]
        return messages, []

    def request(self, tool: dict[str, Any], arguments: dict[str, Any]) -> str:
        """Word a request for one call."""
        rng, name = self.rng, tool["function"]["name"]
        shown = {k: v if isinstance(v, str) else json.dumps(v) for k, v in arguments.items()}
        quote = rng.random() < 0.25
        shown = {
            k: f'"{v}"' if quote and isinstance(arguments[k], str) else v for k, v in shown.items()
        }
        called = name if rng.random() < 0.6 else name.replace("_", " ")
        pairs = rng.choice(("{} {}", "{} = {}", "{}={}", "{}: {}", "{} is {}", "the {} {}"))
        told = [
            pairs.format(k if rng.random() < 0.7 else k.replace("_", " "), v)
            for k, v in shown.items()
        ]
        told = rng.sample(told, len(told))
        listed = rng.choice((", ", " and ")).join(told) if len(told) < 3 else ", ".join(told)
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
        """Call one or two described tools, read the results, answer."""
        rng = self.rng
        tools = [self.tool() for _ in range(rng.choices((1, 2, 3), (5, 4, 2))[0])]
        if len({t["function"]["name"] for t in tools}) < len(tools):
            return self.tool_use()
        messages = self.opening(0.5)
        for _ in range(rng.choices((1, 2), (5, 1))[0]):
            if rng.random() < 0.12:  # a turn that needs no tool
                turn = self.repeat()[0] if rng.random() < 0.5 else self.greeting()[0]
                messages += turn[-2:]
                continue
            used = [rng.choice(tools) for _ in range(rng.choices((1, 2), (5, 1))[0])]
            calls = []
            for tool in used:
                properties = tool["function"]["parameters"]["properties"]
                calls.append({k: self.value(s) for k, s in properties.items()})
            asks = [self.request(t, a) for t, a in zip(used, calls, strict=True)]
            messages.append(_user(" Then ".join(asks)))
            made = [
                {"function": {"name": t["function"]["name"], "arguments": a}}
                for t, a in zip(used, calls, strict=True)
            ]
            messages.append({"role": "assistant", "content": "", "tool_calls": made})
            results = [self.result() for _ in made]
            messages += [{"role": "tool", "content": r} for r in results]
            messages.append(_assistant(f"The result is {' and '.join(results)}."))
        return messages, tools

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
        """Answer with a JSON object that follows a described schema."""
        rng = self.rng
        tool = self.tool()
        properties = tool["function"]["parameters"]["properties"]
        if not properties:
            return self.json_answer()
        arguments = {k: self.value(s) for k, s in properties.items()}
        schema = json.dumps({"type": "object", "properties": properties})
        ask = rng.choice(("Answer with a JSON object of this schema: {}",
                          "Answer as JSON. Schema: {}", "JSON schema: {}"))  # fmt: skip
        told = ", ".join(
            f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in arguments.items()
        )
        question = _user(rng.choice(("{}.", "Fill in: {}", "Here: {}", "{}")).format(told))
        answer = _assistant(json.dumps(arguments))
        if rng.random() < 0.6:
            return [{"role": "system", "content": ask.format(schema)}, question, answer], []
        return [_user(f"{question['content']}\n{ask.format(schema)}"), answer], []


def chats(seed: int, held_out: bool = False) -> Iterator[Chat]:
    """Write chats without end."""
    writer = Writer(random.Random(f"chats {seed} {held_out}"), held_out)
    while True:
        yield writer.chat()


def _word_of(said: str) -> str:
    return f"Your favorite word is {said.split()[-1]}"


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}
