"""Whether it pays that the draft guesses on inside of an escalated step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TypeVar

__all__ = ["ALWAYS", "GUESSES", "Guesses", "Speculation"]

GUESSES = 8  # tokens a round: of more, more are guessed for nothing where the two part again
ENOUGH = 3  # measurements of the target alone before anything is guessed
REMEMBERED = 8  # measurements of each way
RECHECK = 16  # steps that are ended one way before the other one is tried again

_T = TypeVar("_T")


@dataclass(frozen=True)
class Guesses:
    """What the draft has guessed inside of one step of the target's."""

    proposed: int = 0
    """Tokens."""
    kept: int = 0
    """Those of them that the target would have written."""
    fed: int = 0
    """Tokens fed through the draft for it."""


class Speculation:
    """Two ways of ending a step after draft and target have parted, and which is the cheaper now.

    Alone, the target decodes token by token. In a round the draft guesses, and the target verifies
    in one forward, which adds the guesses that it keeps and mostly one token of its own:

        guesses pay iff (guessing + verification + hand-over) / a round's tokens < a token alone

    A token alone takes no longer than a verification, whatever was measured at another time, so
    that guesses of which none is kept never pay. Of a forward that several rows share each counts
    its share: many rows make the target's tokens cheap. Waiting counts nothing, for others use that
    time. Medians of the last measurements decide, so that a moment without the processor does not.

    The way that lost is tried again now and then, by one step in `RECHECK`. Guesses that lose again
    end there after a round, so that a draft that guesses badly guesses few tokens.
    """

    def __init__(self) -> None:
        self._alone: tuple[float, ...] = ()  # seconds a token
        self._rounds: tuple[tuple[float, float, int], ...] = ()  # two times, and tokens
        self._hand_over = float("inf")
        self._guessed = False  # how the last steps were ended
        self._alike = 0  # how many of them

    @property
    def pays(self) -> bool:
        """Whether guesses are the cheaper way; they are tried once the other one is known."""
        if len(self._alone) < ENOUGH or not self._rounds:
            return len(self._alone) >= ENOUGH
        guessing, verification, tokens = zip(*self._rounds, strict=True)
        verified: float = median(verification)
        a_round = median(guessing) + verified + self._hand_over
        return bool(a_round / fmean(tokens) < min(verified, median(self._alone)))

    @property
    def wanted(self) -> bool:
        """Whether the next step is to be ended by guesses: if they pay, or to see whether."""
        pays = self.pays
        recheck = self._guessed == pays and self._alike >= RECHECK
        return pays != recheck

    def alone(self, pace: float) -> None:
        """The target has ended a step alone, at so many seconds a token."""
        self._alone = _last(self._alone, pace)
        self._ended(guessed=False)

    def round(
        self, guessing: float, verification: float, tokens: int, besides: float, *, first: bool
    ) -> None:
        """A round is over.

        Args:
            guessing: Seconds of the draft's forwards.
            verification: Seconds of the target's.
            tokens: What it has added to the step.
            besides: Seconds that it took besides: handing over, and waiting.
            first: It is the first one of its step.
        """
        if first and not self._guessed and self._alike >= RECHECK:
            self._rounds = ()  # as it was long ago; now it may be otherwise
        self._rounds = _last(self._rounds, (guessing, verification, tokens))
        self._hand_over = min(self._hand_over, besides)  # the least had no waiting
        if first:
            self._ended(guessed=True)

    def _ended(self, *, guessed: bool) -> None:
        self._alike = self._alike + 1 if guessed == self._guessed else 1
        self._guessed = guessed


class _Always(Speculation):
    """Whatever it costs."""

    pays = wanted = True

    def alone(self, pace: float) -> None:
        """Nothing is decided by it."""

    def round(
        self, guessing: float, verification: float, tokens: int, besides: float, *, first: bool
    ) -> None:
        """Nothing is decided by it."""


ALWAYS = _Always()


def _last(values: Sequence[_T], value: _T) -> tuple[_T, ...]:
    """A new tuple each time: some threads read one while another adds."""
    return (*values, value)[-REMEMBERED:]
