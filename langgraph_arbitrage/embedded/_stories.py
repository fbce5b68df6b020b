"""Texts of the problems: stories, their events, and the sentences of the solution steps.

Placeholders: ``{k}`` and ``{b}`` are numbers (``b`` groups of ``k``), ``{c}`` is the calculation of
a step, and all other placeholders are names and things. The embedded models were trained on these
texts: do not change them.
"""

import random
from dataclasses import dataclass

SHE = ("Ann", "Eva", "Mia", "Zoe", "Lena", "Ruth", "Nora", "Ida", "Sara", "Kim")
HE = ("Bob", "Tom", "Max", "Leo", "Finn", "Paul", "Omar", "Ben", "Hugo", "Jan")
THINGS = (
    "apples", "books", "coins", "cards", "stamps", "shells", "pens", "beads", "marbles", "nuts",
    "stickers", "buttons", "eggs", "cups",
)  # fmt: skip
PARTS = ("parts", "chairs", "boxes", "toys", "lamps", "bolts", "tiles", "bricks")


@dataclass(frozen=True)
class Event:
    """An event of a story, with the sentences of its solution steps."""

    ops: str
    """Operators of the event's calculations in order: one or two of ``+ - * / %``. Empty for an
    event that only states the first quantity."""
    sentence: str
    steps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Story:
    """A setting with its possible events."""

    name: str
    starts: tuple[Event, ...]
    events: dict[str, tuple[Event, ...]]
    """Events by their `ops`."""
    questions: tuple[str, ...]
    total: str | None = None
    """Last step of a story about two people, which adds up their things; None for other stories."""

    def draw_words(self, rng: random.Random) -> dict[str, str]:
        """Draw the names and things that fill the placeholders."""
        she = rng.random() < 0.5
        first, second = rng.sample(THINGS, 2)
        return {
            "n": rng.choice(SHE if she else HE),
            "m": rng.choice(HE if she else SHE),
            "P": "She" if she else "He",
            "p": "she" if she else "he",
            "i": first,
            "j": second,
            "w": rng.choice(PARTS),
        }


def _events(*events: Event) -> dict[str, tuple[Event, ...]]:
    grouped: dict[str, tuple[Event, ...]] = {}
    for event in events:
        grouped[event.ops] = (*grouped.get(event.ops, ()), event)
    return grouped


INVENTORY = Story(
    "inventory",
    (
        Event("", "{n} has {b} {i}."),
        Event("", "{n} starts with {b} {i}."),
        Event("*", "{n} has {b} bags of {k} {i}.", ("The bags hold {c} {i}.",)),
    ),
    _events(
        Event("+", "{P} buys {k} more.", ("Now {p} has {c}.",)),
        Event("+", "{P} finds {k}.", ("With those {p} found, {p} has {c}.",)),
        Event("+", "A friend gives {n} {k}.", ("With the gift {p} has {c}.",)),
        Event("-", "{P} sells {k}.", ("After the sale {c} are left.",)),
        Event("-", "{P} loses {k}.", ("After the loss {p} has {c}.",)),
        Event("-", "{P} gives {k} away.", ("Then {p} keeps {c}.",)),
        Event("*+", "{P} buys {b} packs of {k}.", ("The packs hold {c}.", "Now {p} has {c}.")),
        Event("*+", "{b} friends bring {k} each.", ("They bring {c}.", "That makes {c}.")),
        Event("*-", "{P} sells {b} sets of {k}.", ("The sets hold {c}.", "Then {c} are left.")),
        Event("*", "Soon {p} has {k} times as many.", ("That many times is {c}.",)),
        Event("/", "{P} makes {k} equal piles and keeps one.", ("One pile is {c}.",)),
        Event("%", "{P} fills crates of {k} and keeps the rest.", ("The rest is {c}.",)),
    ),
    ("How many {i} does {n} have now?", "How many {i} are there in the end?"),
)

SHOP = Story(
    "shop",
    (
        Event("*", "{n} buys {b} {i} at {k} dollars each.", ("The {i} cost {c}.",)),
        Event("", "{n} has a bill of {b} dollars."),
    ),
    _events(
        Event("+", "Shipping adds {k} dollars.", ("With shipping it is {c}.",)),
        Event("+", "Gift wrap costs {k} dollars.", ("With the wrap it is {c}.",)),
        Event("-", "A coupon takes off {k} dollars.", ("With the coupon it is {c}.",)),
        Event("-", "{P} has paid {k} dollars before.", ("That leaves {c} to pay.",)),
        Event(
            "*+",
            "{P} adds {b} {j} at {k} dollars each.",
            ("The {j} cost {c}.", "Together that is {c}."),
        ),
        Event(
            "*-",
            "{P} returns {b} {j} of {k} dollars each.",
            ("The {j} were {c}.", "After that it is {c}."),
        ),
        Event("*", "{P} orders all that {k} times.", ("All orders cost {c}.",)),
        Event("/", "{k} people share the bill equally.", ("One share is {c}.",)),
        Event("%", "{P} pays in notes of {k} and the rest in coins.", ("The rest is {c}.",)),
    ),
    ("How many dollars does {n} pay in the end?", "What is left for {n} to pay?"),
)

WORK = Story(
    "work",
    (
        Event("*", "{n} makes {k} {w} a day for {b} days.", ("In all days that is {c}.",)),
        Event("*", "{b} machines make {k} {w} each.", ("The machines make {c}.",)),
    ),
    _events(
        Event("+", "An extra shift makes {k}.", ("With the shift it is {c}.",)),
        Event("+", "{k} come from the store.", ("With the store it is {c}.",)),
        Event("-", "{k} are broken.", ("Without the broken ones it is {c}.",)),
        Event("-", "{k} go to a shop.", ("Then {c} stay.",)),
        Event("*+", "{b} helpers make {k} each.", ("The helpers make {c}.", "In all it is {c}.")),
        Event("*-", "{b} trucks take {k} each.", ("The trucks take {c}.", "Then {c} stay.")),
        Event("*", "The next week brings {k} times as many.", ("The next week brings {c}.",)),
        Event("/", "{k} shops get equal parts; count one.", ("One shop gets {c}.",)),
        Event("%", "Full crates of {k} leave; the rest stays.", ("The rest is {c}.",)),
    ),
    ("How many {w} are there now?", "How many {w} is that in the end?"),
)

PAIR = Story(
    "pair",
    (
        Event("", "{n} has {b} {i} and {m} begins with as many."),
        Event("", "{n} and {m} get {b} {i} each."),
    ),
    _events(
        Event("+", "{m} wins {k}.", ("{m} then has {c}.",)),
        Event("+", "{m} buys {k} more.", ("Now {m} has {c}.",)),
        Event("-", "{m} loses {k}.", ("{m} is left with {c}.",)),
        Event("-", "{m} gives {k} away.", ("{m} keeps {c}.",)),
        Event("*+", "{m} gets {b} packs of {k}.", ("The packs hold {c}.", "{m} now has {c}.")),
        Event("*-", "{m} sells {b} sets of {k}.", ("The sets hold {c}.", "{m} then has {c}.")),
        Event("*", "{m} soon has {k} times as many.", ("{m} has {c}.",)),
        Event("/", "{m} makes {k} equal piles and keeps one.", ("One pile is {c}.",)),
        Event("%", "{m} fills crates of {k} and keeps the rest.", ("The rest is {c}.",)),
    ),
    ("How many {i} do they have together?",),
    total="Together they have {c}.",
)

STORIES = (INVENTORY, SHOP, WORK, PAIR)
