"""Measure the loop at given escalation rates, and single escalated steps."""

from __future__ import annotations

import random

from on_gpu.decoding import PROMPT
from on_gpu.model_workers import ModelWorkers, run_concurrently
from random_models import clock, prompts

__all__ = ["RATES", "STEP", "answer_seconds", "escalation_ms", "steps_per_answer"]

RATES = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Escalation rates."""
STEP = 50
"""Number of tokens per step."""


def steps_per_answer(batch: int) -> int:
    """Return the number of steps per answer: 10 for a single answer, so that 10 % is one step."""
    return 10 if batch == 1 else 4


def answer_seconds(workers: ModelWorkers, batch: int, rate: float | None) -> float:
    """Measure the seconds of concurrent answers, with the requests of the graph's nodes.

    Args:
        workers: The models.
        batch: Number of concurrent answers, each on a thread of its own.
        rate: Escalation rate of the loop; None measures the target alone.
    """
    steps = steps_per_answer(batch)
    count = round((rate or 0.0) * batch * steps)
    escalated = [True] * count + [False] * (batch * steps - count)
    random.Random(0).shuffle(escalated)
    inputs = prompts(batch, PROMPT)

    def answer(index: int) -> None:
        ids = inputs[index]
        for step in range(steps):
            if rate is None:
                ids = [*ids, *workers.generate("target", ids, STEP).ids]
                continue
            step_ids = workers.generate("draft", ids, STEP).ids
            workers.score([*ids, *step_ids])
            if escalated[index * steps + step]:
                step_ids = workers.generate("target", ids, STEP, step_ids).ids
            ids = [*ids, *step_ids]

    start = clock(workers.device)
    run_concurrently(range(batch), answer)
    return clock(workers.device) - start


def escalation_ms(workers: ModelWorkers) -> dict[str, float]:
    """Measure a target step after a step that it has not computed, without and with verification.

    Returns:
        Milliseconds by the number of accepted draft tokens.
    """
    times: dict[str, list[float]] = {}
    for _ in range(2):
        (before,) = prompts(1, PROMPT)
        ids = [*before, *prompts(1, STEP)[0]]
        own = workers.generate("target", ids, STEP).ids
        wrong = [(token + 1) % 500 for token in own]
        accepted = {"no verification": None, "none accepted": 0, "half accepted": STEP // 2}
        accepted |= {"all accepted": STEP}
        for name, count in accepted.items():
            draft_tokens = [] if count is None else [*own[:count], *wrong[count:]]
            workers.generate("target", before, 1)  # leaves the cache one step behind
            start = clock(workers.device)
            workers.generate("target", ids, STEP, draft_tokens)
            times.setdefault(name, []).append(1e3 * (clock(workers.device) - start))
    return {name: min(values) for name, values in times.items()}
