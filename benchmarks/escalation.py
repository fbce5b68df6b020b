"""Seconds of an escalated step: the draft's step verified, against written again from nothing.

By how much of the draft's step the target keeps. What follows then the target writes alone, or with
the draft's guesses. All sides find the target's cache in the same state, one step behind; they take
turns, and each is measured by its best turn. The steps are the draft's, on held-out embedded
problems that go on with the draft's or the target's step by chance. The embedded pair agrees nearly
always: so each step is proposed again with one token replaced, anywhere in it.

    python benchmarks/escalation.py [--questions 30] [--temperature 0.7]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from langgraph_arbitrage.nodes.drive import Call
from langgraph_arbitrage.nodes.speculate import speculated
from langgraph_arbitrage.speculation import ALWAYS

from langgraph_arbitrage.engine import (
    Engine,
    GenerateOutput,
    GenerateRequest,
    ModelSpec,
    SamplingParams,
)
from measure import CHECKPOINTS, questions, table

RESULTS = Path(__file__).parent / "results"
LIMIT = 1.05  # promise: an escalation with verification costs at most so many plain ones
BINS = {"none": 0.0, "to 1/4": 0.25, "to 1/2": 0.5, "to 3/4": 0.75, "more": 0.999, "all": 1.0}
SEPARATORS = ("\n\n",)


@dataclass(frozen=True)
class Escalation:
    """One step written both ways."""

    forced: bool
    """Whether a token was replaced."""
    same: bool
    """Whether all ways wrote the same, as they do but for ties within rounding."""
    kept: float
    """Part of the draft's step that the target kept."""
    plain: float
    """Seconds of regeneration, cache behind by one step."""
    verified: float
    """Seconds where the target ends the step alone."""
    guessed: float
    """Seconds where the draft guesses on."""
    drafted: int
    """Tokens of the draft's step."""
    tokens: int
    """Tokens of the target's."""

    @property
    def ratio(self) -> float:
        """Below 1 where verification pays."""
        return self.verified / self.plain

    @property
    def ratio_guessed(self) -> float:
        """Below 1 where verification pays, with guesses."""
        return self.guessed / self.plain


def main() -> None:
    """Measure, print, write benchmarks/results/escalation.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 0.7])
    options = parser.parse_args()
    parts = {
        f"temperature {t:g}": measured(options.questions, options.rounds, t)
        for t in options.temperature
    }
    lines = ["# Escalated steps: verified against regenerated", "", __doc__.split("\n\n")[1]]
    for name, found in parts.items():
        lines += ["", f"## {name}", "", *told(found)]
    print("\n".join(lines))
    figures = {name: [vars(e) for e in found] for name, found in parts.items()}
    (RESULTS / "escalation.json").write_text(json.dumps(figures) + "\n")
    (RESULTS / "escalation.md").write_text("\n".join(lines) + "\n")


def measured(count: int, rounds: int, temperature: float) -> list[Escalation]:
    """Every step of the questions, escalated both ways."""
    draft, target = (
        Engine(ModelSpec(CHECKPOINTS[role], max_slots=1)) for role in ("draft", "target")
    )
    found, rng = [], random.Random(1)
    for number, (before, ids, step) in enumerate(steps(count, draft, target, temperature)):
        write = GenerateRequest(
            ids,
            128,
            SEPARATORS,
            sampling=SamplingParams(temperature=temperature, seed=2 * number + 1),
        )
        wrong = list(step)
        wrong[rng.randrange(len(step))] = 3  # a token that no text holds
        sides: dict[tuple[str, bool], list[GenerateOutput]] = {
            (side, guess): [] for side in ("plain", "draft", "forced") for guess in (False, True)
        }
        del sides["plain", True]
        proposals = {"plain": [], "draft": step, "forced": wrong}
        for _ in range(rounds):
            for side, guess in rng.sample(list(sides), len(sides)):
                # The caches as the loop finds them: the target's one step behind.
                target.submit(GenerateRequest(before, max_tokens=1)).result()
                draft.submit(GenerateRequest([*ids, *step], max_tokens=1)).result()
                call = Call(target, replace(write, proposal=proposals[side]))
                sides[side, guess].append(written_by(call, draft if guess else None))
        seconds = {side: min(w.seconds for w in written) for side, written in sides.items()}
        for side in ("draft", "forced"):
            alone, written = sides["plain", False][0], sides[side, False][0]
            found.append(
                Escalation(
                    side == "forced",
                    alone.ids == written.ids == sides[side, True][0].ids,
                    written.kept / len(step),
                    seconds["plain", False],
                    seconds[side, False],
                    seconds[side, True],
                    len(step),
                    len(written.ids),
                )
            )
    draft.close()
    target.close()
    return found


def written_by(call: Call, draft: Engine | None) -> GenerateOutput:
    """The step, by the requests that the graph makes for it."""
    body = speculated(call, draft, ALWAYS)
    start = time.perf_counter()
    try:
        calls = next(body)
        while True:
            calls = body.send([c.engine.submit(c.request).result() for c in calls])
    except StopIteration as end:
        written: GenerateOutput = end.value[0]
        return replace(written, seconds=time.perf_counter() - start)


def steps(
    count: int, draft: Engine, target: Engine, temperature: float
) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """For each step: the ids before the last step, all ids before it, and the draft's step."""
    rng = random.Random(0)
    for question in questions(count):
        before = ids = draft.tokenizer.render([{"role": "user", "content": question}])
        finish = "separator"
        while finish == "separator" and len(ids) < 400:
            sampling = SamplingParams(temperature=temperature, seed=rng.getrandbits(30))
            written = draft.submit(
                GenerateRequest(ids, 128, SEPARATORS, sampling=sampling)
            ).result()
            yield before, ids, written.ids
            if rng.random() < 0.5:
                written = target.submit(
                    GenerateRequest(ids, 128, SEPARATORS, sampling=sampling)
                ).result()
            before, ids, finish = ids, [*ids, *written.ids], written.finish


def told(found: list[Escalation]) -> list[str]:
    """A table by agreement, and the promise."""
    heads = ["kept of the draft's step", "steps", "plain ms", "verified ms", "median ratio"]
    heads += ["largest", f"over {LIMIT}"]
    heads += ["with guesses, ms", "median ratio", "largest", f"over {LIMIT}"]
    real = [e for e in found if not e.forced]
    parts = {name: [e for e in found if bin_of(e) == name] for name in BINS}
    rows = [
        [
            name,
            len(here),
            1e3 * statistics.mean(e.plain for e in here),
            1e3 * statistics.mean(e.verified for e in here),
            statistics.median(e.ratio for e in here),
            max(e.ratio for e in here),
            sum(e.ratio > LIMIT for e in here),
            1e3 * statistics.mean(e.guessed for e in here),
            statistics.median(e.ratio_guessed for e in here),
            max(e.ratio_guessed for e in here),
            sum(e.ratio_guessed > LIMIT for e in here),
        ]
        for name, here in {**parts, "the draft's own steps": real}.items()
        if here
    ]
    kept, same = statistics.mean(e.kept for e in real), sum(e.same for e in found)
    summary = (
        f"Of the draft's own steps {kept:.1%} is kept. Promise: no ratio over {LIMIT}. All ways "
        f"wrote the same step {same} times of {len(found)}."
    )
    return [*table(heads, rows), "", summary]


def bin_of(escalation: Escalation) -> str:
    """The first bin that holds it."""
    return next(name for name, most in BINS.items() if escalation.kept <= most)


if __name__ == "__main__":
    main()
