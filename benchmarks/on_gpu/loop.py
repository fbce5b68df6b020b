"""The loop at forced escalation rates, and a single step that is escalated."""

from __future__ import annotations

import random

from on_gpu.decoding import PROMPT
from on_gpu.served import Served, together
from random_models import clock, prompts

__all__ = ["RATES", "STEP", "answers", "escalations", "steps_of"]

RATES = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
STEP = 50  # tokens
STEPS = {1: 10}  # of an answer; enough that a tenth of them is one
FEW = 4  # of an answer, where several go on at once


def steps_of(batch: int) -> int:
    """Steps of each answer where so many go on at once."""
    return STEPS.get(batch, FEW)


def answers(served: Served, batch: int, rate: float | None) -> float:
    """Seconds of `batch` answers at once, by the loop, or by the target alone without a rate.

    As the nodes of the graph do it, one thread an answer; no graph is between.
    """
    steps = steps_of(batch)
    escalated = round((rate or 0.0) * batch * steps)
    drawn = [True] * escalated + [False] * (batch * steps - escalated)
    random.Random(0).shuffle(drawn)
    asked = prompts(batch, PROMPT)

    def answer(row: int) -> None:
        ids = asked[row]
        for step in range(steps):
            if rate is None:
                ids = [*ids, *served.write("target", ids, STEP).ids]
                continue
            draft = served.write("draft", ids, STEP).ids
            served.score([*ids, *draft])
            if drawn[row * steps + step]:
                draft = served.write("target", ids, STEP, draft).ids
            ids = [*ids, *draft]

    start = clock(served.device)
    together(range(batch), answer)
    return clock(served.device) - start


def escalations(served: Served) -> dict[str, float]:
    """Milliseconds of the target's step behind one that it has not read: plain, and verified."""
    found: dict[str, list[float]] = {}
    for _ in range(2):
        (before,) = prompts(1, PROMPT)
        ids = [*before, *prompts(1, STEP)[0]]
        own = served.write("target", ids, STEP).ids
        wrong = [(token + 1) % 500 for token in own]
        kept = {"plain": 0, "none kept": 0, "half kept": STEP // 2, "all kept": STEP}
        for name, count in kept.items():
            proposal = [] if name == "plain" else [*own[:count], *wrong[count:]]
            served.write("target", before, 1)  # the cache, one step behind
            start = clock(served.device)
            served.write("target", ids, STEP, proposal)
            found.setdefault(name, []).append(1e3 * (clock(served.device) - start))
    return {name: min(times) for name, times in found.items()}
