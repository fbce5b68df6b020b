"""The target writes a step, and the draft guesses on inside of it where that is faster."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from langgraph_arbitrage.engine import Engine, Sampling, Write, Written
from langgraph_arbitrage.nodes.drive import Call
from langgraph_arbitrage.speculation import GUESSES, Guesses, Speculation

__all__ = ["speculated"]


def speculated(
    call: Call, draft: Engine | None, speculation: Speculation
) -> Generator[Sequence[Call], Sequence[Any], tuple[Written, Guesses]]:
    """Have the target write a step: what it would write alone, in the fewest seconds.

    Where it parts from the draft's step, the draft guesses the next tokens of the target's, the
    target keeps them up to where it parts again, and so on until the step ends or the target is
    faster alone. It chooses each token by itself, whatever is guessed: the text is the same.

    Args:
        call: The request for the step, with the draft's own as its proposal if there is one.
        draft: Who guesses; None where nobody may.
        speculation: Whether it pays.

    Returns:
        The step as if one request had written it, and what was guessed.
    """
    assert isinstance(call.request, Write)  # noqa: S101 - a score writes nothing
    step = _Step(call.request)
    guessing = draft is not None and speculation.wanted
    while step.finish == "settled":
        request, guess = step.rest(), None
        under_way = call.under_way or bool(step.parts)
        if draft is not None and guessing and not request.proposal:
            ahead = _ahead(request, draft)
            guessing = ahead is not None
            if ahead is not None:
                (guess,) = yield [Call(draft, ahead, under_way=under_way)]
                request = replace(request, proposal=guess.ids)
        request = replace(request, pauses=guessing)
        (written,) = yield [replace(call, request=request, under_way=under_way)]
        step.add(written, guess)
        if guess is not None:
            spent = guess.spent, written.spent
            besides = guess.seconds + written.seconds - sum(spent)
            first = len(step.guesses) == 1
            speculation.round(*spent, len(written.ids), besides, first=first)
            guessing = speculation.pays
        elif draft is not None and written.pace:
            speculation.alone(written.pace)
    return step.written, step.guessed


def _ahead(request: Write, draft: Engine) -> Write | None:
    """What the draft is asked for; None where its context has no room.

    Its likeliest tokens, also where the target draws its own.
    """
    room = min(GUESSES, request.max_tokens)
    if draft.context is not None:
        room = min(room, draft.context - len(request.ids))
    return replace(request, max_tokens=room, sampling=Sampling()) if room > 0 else None


@dataclass
class _Step:
    """A step under way: what the target has written of it, request by request."""

    request: Write
    parts: list[Written] = field(default_factory=list)
    guesses: list[Written] = field(default_factory=list)

    @property
    def finish(self) -> str:
        return self.parts[-1].finish if self.parts else "settled"

    @property
    def ids(self) -> list[int]:
        return [token for part in self.parts for token in part.ids]

    def add(self, written: Written, guess: Written | None) -> None:
        self.parts.append(written)
        self.guesses += [guess] if guess is not None else []

    def rest(self) -> Write:
        """The request for what is still to be written."""
        if not self.parts:
            return self.request
        ids = self.ids
        return replace(
            self.request,
            ids=[*self.request.ids, *ids],
            begun=len(ids),
            max_tokens=self.request.max_tokens - len(ids),
            proposal=(),
        )

    @property
    def written(self) -> Written:
        """All parts as one answer; the time of the guesses is part of it."""
        first, last = self.parts[0], self.parts[-1]
        return replace(
            last,
            ids=self.ids,
            logprobs=[logprob for part in self.parts for logprob in part.logprobs],
            fed=sum(part.fed for part in self.parts),
            spent=sum(part.spent for part in self.parts),
            cached=first.cached,
            kept=first.kept if self.request.proposal else 0,
            seconds=sum(answer.seconds for answer in (*self.parts, *self.guesses)),
        )

    @property
    def guessed(self) -> Guesses:
        return Guesses(
            proposed=sum(len(guess.ids) for guess in self.guesses),
            kept=sum(part.kept for part in self.parts) - self.written.kept,
            fed=sum(guess.fed for guess in self.guesses),
        )
