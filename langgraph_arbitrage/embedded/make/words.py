"""Random words, values and tools for the generated chats.

Names of tools and arguments are composed of syllables and common words, so that a model learns to
copy any name and value. The embedded models were trained on these words: do not change them.
"""

import random
from typing import Any

HELD_OUT_ENDINGS = ("ka", "mo")
"""Endings of words made up for held-out chats. Words made up for training have other endings."""

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


class WordGenerator:
    """Draws words, values and tools.

    Args:
        rng: Source of randomness.
        held_out: True to use names that do not occur in training.
    """

    def __init__(self, rng: random.Random, held_out: bool = False) -> None:
        self.rng, self.held_out = rng, held_out

    def word(self) -> str:
        """Make up a word; in training, sometimes draw a common one."""
        rng = self.rng
        if not self.held_out and rng.random() < 0.35:
            return rng.choice(WORDS)
        word = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 3)))
        if self.held_out:
            return word + rng.choice(HELD_OUT_ENDINGS)
        return word + "n" if word.endswith(HELD_OUT_ENDINGS) else word

    def text(self) -> str:
        """Make up one to three words, sometimes with a capital, digits or punctuation."""
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
        """Draw an integer of up to five digits, sometimes negative."""
        size = 10 ** self.rng.randint(1, 5)
        return self.rng.randrange(size) * (-1 if self.rng.random() < 0.05 else 1)

    def value(self, schema: dict[str, Any]) -> Any:
        """Draw a value that matches a schema."""
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
        """Make up the name of a tool or an argument; in training, often from common words."""
        rng = self.rng
        if not self.held_out and rng.random() < 0.6:
            return "_".join(rng.choice(part) for part in parts)
        words = [self.word() for _ in range(rng.choice((1, 1, 2)))]
        if rng.random() < 0.15:
            return "".join(w.capitalize() for w in words)
        return "_".join(words)

    def tool(self) -> dict[str, Any]:
        """Make up a tool with up to three arguments."""
        rng = self.rng
        count = rng.choices((0, 1, 2, 3), (1, 5, 5, 2))[0]
        properties = {self.name((ARGUMENTS,)): self.schema() for _ in range(count)}
        name = self.name((VERBS, NOUNS))
        description = rng.choice(
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
            "function": {"name": name, "description": description, "parameters": parameters},
        }

    def arguments(self, tool: dict[str, Any]) -> dict[str, Any]:
        """Draw arguments that match a tool's schema."""
        properties = tool["function"]["parameters"]["properties"]
        return {key: self.value(schema) for key, schema in properties.items()}
