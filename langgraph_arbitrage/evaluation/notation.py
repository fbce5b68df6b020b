r"""Normalize the notation of answers and parse their numbers, units, bases, brackets and words."""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = [
    "base_of",
    "brackets_of",
    "choice_of",
    "normal",
    "number_of",
    "unit_of",
    "without_unit",
    "words_of",
]

_SIGNS = {
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "π": r"\pi ",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "°": r"^\circ ", "∪": r"\cup ",
    "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}",
    "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "²": "^2", "³": "^3",
    "±": r"\pm ", "’": "'", "\u00a0": " ", "\u202f": " ",
}  # fmt: skip
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[A-Za-z]))")
_SPACING = re.compile(r"\\left\b|\\right\b|\\[!,;:]|\\q?quad\b|(?<!\\)\\ |~|\\displaystyle\b")
_FRACTION = re.compile(r"\\[dtc]frac\b")
_BRACED_COMMA = re.compile(r"\{,\}")
_TEXT = re.compile(r"\\(?:textbf|textit|textrm|textnormal|mathrm|mathbf|mbox|text)\s*\{")
_AND = re.compile(r"\s*,?\s*(?:\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b)\s*")
_GROUPED = re.compile(r"(?<![\d,.])-?\d{1,3}(?:,\d{3})+(?![\d,])")
_SPACED = re.compile(r"-?\d{1,3}(?: \d{3})+")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
_RATIO = re.compile(r"([-+]?\d+)\s*/\s*(\d+)|([-+]?)\\frac\{(\d+)\}\{(\d+)\}")
_REPEATING = re.compile(r"(-?)(\d*)\.(\d*)\\overline\{(\d+)\}")
_UNIT = re.compile(
    r"(?<=[\d}).\s])\s*(?:\\text\{\s*([^{}]+?)\s*\}|([A-Za-z][A-Za-z/ ]*))(\^\{?[23]\}?)?$"
)
_BASE = re.compile(r"_\{?(\d+)\}?$")
_CHOICE = re.compile(r"(?:\\text\{)?\(?([A-J])\)?\}?")
_LETTERS = re.compile(r"[A-Za-z][A-Za-z' \-]*(?:,? ?\d{1,4})?")

_UNITS = {
    canonical: names.split()
    for canonical, names in {
        "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "m": "m meter metre",
        "km": "km kilometer kilometre", "in": "in inch inches", "ft": "ft foot feet",
        "yd": "yd yard", "mi": "mi mile", "mg": "mg milligram", "g": "g gram", "kg": "kg kilogram",
        "lb": "lb lbs pound", "oz": "oz ounce", "ms": "ms millisecond", "s": "s sec second",
        "min": "min minute", "h": "h hr hour", "d": "day", "w": "week", "month": "month",
        "y": "year", "l": "liter litre", "ml": "ml milliliter millilitre", "dollar": "dollar",
        "cent": "cent", "deg": "degree", "rad": "radian", "mph": "mph", "km/h": "km/h kph kmh",
        "m/s": "m/s", "percent": "percent",
    }.items()
}  # fmt: skip
_CANONICAL = {name: unit for unit, names in _UNITS.items() for name in names}
_DIMENSIONS = {"square": "^2", "sq": "^2", "cubic": "^3"}


def normal(text: str) -> str:
    r"""Normalize notation that does not change the meaning, such as spacing and `\dfrac`.

    Example:
        >>> normal(r"$\left(3,\,\dfrac{\pi}{2}\right)$."), normal("10,080"), normal("x=1 or x=2")
        ('(3, \\frac{\\pi}{2})', '10080', 'x=1, x=2')
    """
    for sign, latex in _SIGNS.items():
        text = text.replace(sign, latex)
    text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    text = re.sub(r"^\\\[|\\\]$|^\\\(|\\\)$", "", text.strip().strip("*").strip())
    text = text.replace(r"\$", "").replace("$", "")
    text = _BRACED_COMMA.sub(",", text)
    text = re.sub(r"(?<=\d)(?:\\[,!]|(?<=,)\\!)(?=\d{3}\b)", "", text).replace(r"\!", "")
    text = _SPACING.sub(" ", text)
    text = _FRACTION.sub(r"\\frac", text).replace(r"\varnothing", r"\emptyset")
    text = _TEXT.sub(r"\\text{", text)
    text = re.sub(r"^\\text\{\s*([-+]?\d[^{}]*)\}$", r"\1", text.strip())
    text = re.sub(r"\\%|\s+%", "%", text)
    if "\\text" not in text or _AND.search(text):
        text = _AND.sub(", ", text)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"(?<=[(\[{])\s+|\s+(?=[)\]}])|\s+(?=,)", "", text)
    text = re.sub(r"\s*[.;,]$", "", text) if not text.endswith("...") else text
    if not text.startswith(("(", "[", "{", "\\{")):
        text = _GROUPED.sub(lambda match: match[0].replace(",", ""), text)
        if _SPACED.fullmatch(text):
            text = text.replace(" ", "")
    return text


def number_of(text: str) -> Fraction | None:
    r"""Parse a plain number exactly: 12, -3.50, 1e-7, 3/4, \frac{3}{4}; None for other texts.

    Example:
        >>> number_of("0.50") == number_of(r"\frac{1}{2}"), number_of("x")
        (True, None)
    """
    if len(text) > 200:
        return None
    if match := _RATIO.fullmatch(text):
        sign = -1 if match[3] == "-" else 1
        numerator, denominator = int(match[1] or match[4]), int(match[2] or match[5])
        return sign * Fraction(numerator, denominator) if denominator else None
    if match := _REPEATING.fullmatch(text):
        whole, fixed, period = match[2] or "0", match[3], match[4]
        nines = (10 ** len(period) - 1) * 10 ** len(fixed)
        value = Fraction(f"{whole}.{fixed or 0}") + Fraction(int(period), nines)
        return -value if match[1] else value
    if not _NUMBER.fullmatch(text):
        return None
    mantissa, _, exponent = text.lower().partition("e")
    if len(exponent.lstrip("+-")) > 3:
        return None
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


def unit_of(text: str) -> str | None:
    r"""Return the canonical name of the unit that follows a number; None if there is no known unit.

    Example:
        >>> unit_of(r"5\text{ minutes}"), unit_of("5 min"), unit_of("3 square feet")
        ('min', 'min', 'ft^2')
    """
    if text.endswith(r"^\circ"):
        return "deg"
    if text.endswith("%"):
        return "percent"
    match = _UNIT.search(text)
    if match is None or not re.search(r"\d", text[: match.start()] or ""):
        return None
    name, power = (match[1] or match[2]).strip().lower(), (match[3] or "").translate(_NO_BRACES)
    first, _, rest = name.partition(" ")
    if first in _DIMENSIONS:
        name, power = rest, _DIMENSIONS[first]
    unit = _CANONICAL.get(name) or _CANONICAL.get(name.removesuffix("s"))
    return None if unit is None else unit + power


def without_unit(text: str) -> str:
    """Remove a spelled-out unit, because math-verify may not know the unit."""
    match = _UNIT.search(text)
    if match is None or unit_of(text) is None or len((match[1] or match[2]).strip()) < 3:
        return text
    return text[: match.start()].strip()


_NO_BRACES = str.maketrans("", "", "{}")


def base_of(text: str) -> str | None:
    """Return the base of a numeral, such as 8 for `52_8`; None if it has no subscript."""
    match = _BASE.search(text)
    return match[1] if match else None


def brackets_of(text: str) -> str | None:
    """Return `set` for a text in curly brackets, `tuple` for round or square ones, else None."""
    if text.startswith(r"\{") and text.endswith(r"\}") and text.count(r"\{") == 1:
        return "set"
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and text.count(text[0]) == 1:
        return "tuple"
    return None


def choice_of(text: str) -> str | None:
    r"""Return the letter of a multiple-choice answer: `(E)`, `\text{(E)}` or `\text{E}`."""
    match = _CHOICE.fullmatch(text)
    return match[1] if match and len(text) > 1 else None


def words_of(text: str) -> str | None:
    r"""Return the lower-case text of an answer that consists of words; None for mathematics.

    Example:
        >>> words_of(r"\text{Evelyn}"), words_of("June 20"), words_of("xy")
        ('evelyn', 'june 20', None)
    """
    marked = text.startswith(r"\text{") and text.endswith("}") and text.count("{") == 1
    plain = text[len(r"\text{") : -1].strip() if marked else text
    if not _LETTERS.fullmatch(plain):
        return None
    longest = max(len(word) for word in re.findall("[A-Za-z]+", plain))
    if not marked and longest < 4 and plain.lower() not in ("yes", "no", "odd"):
        return None
    if marked and longest < 2:
        return None
    return " ".join(plain.lower().replace(",", " ").split())
