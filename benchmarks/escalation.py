"""Compare the seconds of an escalated step with and without verification of the draft's step.

Results are grouped by the fraction of draft tokens that the target accepts. Before each measurement
the target's KV cache lacks the same step. The sides alternate, and the minimum of each counts. The
draft writes the steps, on held-out embedded problems that continue at random with the draft's or
the target's step. The embedded models almost always agree, so each step is also verified with one
token replaced at a random position.

    python benchmarks/escalation.py [--questions 30] [--temperature 0.7]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace

from common import CHECKPOINTS, RESULTS, markdown_table, questions
from langgraph_arbitrage.engine import (
    Engine,
    GenerateOutput,
    GenerateRequest,
    ModelSpec,
    SamplingParams,
)

MAX_RATIO = 1.05
"""Goal: verification takes at most this multiple of the time without it."""
BINS = {"none": 0.0, "to 1/4": 0.25, "to 1/2": 0.5, "to 3/4": 0.75, "more": 0.999, "all": 1.0}
"""Upper bounds of the accepted fraction."""
SEPARATORS = ("\n\n",)
UNUSED_TOKEN = 3
"""A token id that no text contains."""


@dataclass(frozen=True)
class Escalation:
    """One escalated step, generated with and without verification."""

    replaced: bool
    """Whether a draft token was replaced."""
    equal: bool
    """Whether both ways generated the same step. They do, except for ties within rounding."""
    accepted: float
    """Fraction of the draft tokens that the target accepted."""
    plain: float
    """Seconds without verification."""
    verified: float
    """Seconds with verification."""
    draft_tokens: int
    """Number of tokens of the draft's step."""
    target_tokens: int
    """Number of tokens of the target's step."""

    @property
    def ratio(self) -> float:
        """Time with verification, relative to the time without it."""
        return self.verified / self.plain


def main() -> None:
    """Measure, print and write benchmarks/results/escalation.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side")
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 0.7])
    options = parser.parse_args()
    parts = {
        f"temperature {t:g}": measure(options.questions, options.rounds, t)
        for t in options.temperature
    }
    lines = ["# Escalated steps with and without verification", "", __doc__.split("\n\n")[1]]
    for name, escalations in parts.items():
        lines += ["", f"## {name}", "", *markdown(escalations)]
    print("\n".join(lines))
    records = {name: [vars(e) for e in escalations] for name, escalations in parts.items()}
    (RESULTS / "escalation.json").write_text(json.dumps(records) + "\n")
    (RESULTS / "escalation.md").write_text("\n".join(lines) + "\n")


def measure(count: int, rounds: int, temperature: float) -> list[Escalation]:
    """Escalate every step of `count` questions with and without verification."""
    draft, target = (
        Engine(ModelSpec(CHECKPOINTS[role], max_slots=1)) for role in ("draft", "target")
    )
    escalations, rng = [], random.Random(1)
    for number, (before, ids, step) in enumerate(steps(count, draft, target, temperature)):
        request = GenerateRequest(
            ids,
            128,
            SEPARATORS,
            sampling=SamplingParams(temperature=temperature, seed=2 * number + 1),
        )
        replaced = list(step)
        replaced[rng.randrange(len(step))] = UNUSED_TOKEN
        draft_tokens = {"plain": [], "draft": step, "replaced": replaced}
        outputs: dict[str, list[GenerateOutput]] = {side: [] for side in draft_tokens}
        for _ in range(rounds):
            for side in rng.sample(list(outputs), len(outputs)):
                # As in the loop, the target's cache lacks the last step.
                target.submit(GenerateRequest(before, max_tokens=1)).result()
                verification = replace(request, draft_tokens=draft_tokens[side])
                outputs[side].append(target.submit(verification).result())
        seconds = {side: min(o.seconds for o in some) for side, some in outputs.items()}
        plain = outputs["plain"][0]
        for side in ("draft", "replaced"):
            output = outputs[side][0]
            escalations.append(
                Escalation(
                    side == "replaced",
                    plain.ids == output.ids,
                    output.accepted_draft_tokens / len(step),
                    seconds["plain"],
                    seconds[side],
                    len(step),
                    len(output.ids),
                )
            )
    draft.close()
    target.close()
    return escalations


def steps(
    count: int, draft: Engine, target: Engine, temperature: float
) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Yield for each step: the ids before the last step, the ids before it, and its draft ids."""
    rng = random.Random(0)
    for question in questions(count):
        before = ids = draft.tokenizer.render([{"role": "user", "content": question}])
        finish = "separator"
        while finish == "separator" and len(ids) < 400:
            sampling = SamplingParams(temperature=temperature, seed=rng.getrandbits(30))
            request = GenerateRequest(ids, 128, SEPARATORS, sampling=sampling)
            output = draft.submit(request).result()
            yield before, ids, output.ids
            if rng.random() < 0.5:
                output = target.submit(request).result()
            before, ids, finish = ids, [*ids, *output.ids], output.finish


def markdown(escalations: list[Escalation]) -> list[str]:
    """Format a table by accepted fraction, and a summary, as Markdown lines."""
    heads = ["accepted draft tokens", "steps", "plain ms", "verified ms", "median ratio"]
    heads += ["maximum", f"above {MAX_RATIO}"]
    unchanged = [e for e in escalations if not e.replaced]
    groups = {name: [e for e in escalations if bin_of(e) == name] for name in BINS}
    rows = [
        [
            name,
            len(group),
            1e3 * statistics.mean(e.plain for e in group),
            1e3 * statistics.mean(e.verified for e in group),
            statistics.median(e.ratio for e in group),
            max(e.ratio for e in group),
            sum(e.ratio > MAX_RATIO for e in group),
        ]
        for name, group in {**groups, "steps without replaced token": unchanged}.items()
        if group
    ]
    accepted = statistics.mean(e.accepted for e in unchanged)
    equal = sum(e.equal for e in escalations)
    summary = (
        f"Of the draft's own steps, {accepted:.1%} of the tokens are accepted. Goal: no ratio "
        f"above {MAX_RATIO}. Both ways generated the same step in {equal} of {len(escalations)} "
        "cases."
    )
    return [*markdown_table(heads, rows), "", summary]


def bin_of(escalation: Escalation) -> str:
    """Return the first bin whose upper bound is not exceeded."""
    return next(name for name, bound in BINS.items() if escalation.accepted <= bound)


if __name__ == "__main__":
    main()
