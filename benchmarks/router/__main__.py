"""What the embedded router is worth: judges of steps, policies at equal escalation, speed.

    python benchmarks/router                                  # all parts, about half an hour
    python benchmarks/router --part judges --questions 100    # one part, quickly

Thresholds are chosen on problems of one seed and measured on those of another; neither was used
to train or calibrate PRM or router. Speed alone takes the thresholds of the results that are there.
Results go to benchmarks/results/router.json and router.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curves import RATES, Curve, accuracy, difference, rate, walks
from rich.console import Console
from rich.progress import Progress
from speed import compare, measured
from world import JUDGES, Walk, World

from langgraph_arbitrage import (
    RSD,
    AlwaysDraft,
    AlwaysTarget,
    DraftConfidence,
    LearnedRouter,
    Policy,
    embedded,
)
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.embedded import Problem, check_answer
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.scorers import load_scorer
from langgraph_arbitrage.training.metrics import class_accuracy, roc_auc, spearman

RESULTS = Path(__file__).parent.parent / "results"
JSON = RESULTS / "router.json"
CHOOSE_SEED, MEASURE_SEED = 40, 41
WITHIN = 0.01
"""Loss of accuracy against the target alone that a chosen threshold may have."""

PARTS = ("judges", "policies", "speed")
SCORED = ("router", "router as shipped", "RSD")
"""Policies that ask the reader about each step."""


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all of them")
    parser.add_argument("--choose", type=int, default=300, help="problems that choose thresholds")
    parser.add_argument("--questions", type=int, default=520, help="problems that are measured")
    parser.add_argument("--timed", type=int, default=500, help="of these, timed at batch 1")
    options = parser.parse_args()
    parts = options.part or PARTS
    choose = list(embedded.problems(options.choose, CHOOSE_SEED))
    known = {p.question for p in choose}
    measure = [p for p in embedded.problems(options.questions, MEASURE_SEED)
               if p.question not in known]  # fmt: skip
    found: dict[str, Any] = {"problems": {"choose": len(choose), "measure": len(measure)}}
    before = json.loads(JSON.read_text()) if JSON.exists() else {}
    if parts == ["speed"] and "chosen" in before:
        found = before
    else:
        found["chosen"] = asyncio.run(loops(choose, measure, found, parts))
    if "speed" in parts:
        found["speed"] = speed(measure[: options.timed], found["chosen"])
    save(found)


async def loops(
    choose: Sequence[Problem],
    measure: Sequence[Problem],
    found: dict[str, Any],
    parts: Sequence[str],
) -> dict[str, float]:
    """Everything that needs no clock; returns the thresholds that were chosen."""
    models = Models(ArbitrageSettings())
    prm, router = load_scorer("embedded:prm"), load_scorer("embedded:router")
    some, others = ([World(models, p, prm, router) for p in ps] for ps in (choose, measure))
    chosen: dict[str, float] = {}
    with Progress(console=Console(stderr=True), refresh_per_second=1) as bar:
        task = bar.add_task("", total=None)

        def tick() -> None:
            bar.advance(task)

        alone = accuracy(await walks(some, "random", -1.0, tick))
        curves = {}
        for judge in JUDGES:
            bar.update(task, description=f"choosing {judge}")
            curves[judge] = await Curve.of(some, judge, tick)
            if (threshold := curves[judge].cheapest(alone - WITHIN)) is not None:
                chosen[judge] = threshold
        if "policies" in parts:
            found["policies"] = await policies(others, curves, chosen, bar, task)
        if "judges" in parts:
            bar.update(task, description="judges")
            found["judges"] = await judges(others, chosen)
    models.close()
    return chosen


async def policies(
    worlds: Sequence[World],
    curves: dict[str, Curve],
    chosen: dict[str, float],
    bar: Progress,
    task: Any,
) -> dict[str, Any]:
    """Accuracies at equal escalation, and at the chosen thresholds, on the measured problems."""

    async def of(judge: str, threshold: float) -> list[Walk]:
        bar.update(task, description=f"measuring {judge}")
        return await walks(worlds, judge, threshold, lambda: bar.advance(task))

    target, draft = await of("random", -1.0), await of("random", 2.0)
    at: dict[str, dict[str, list[Walk]]] = {
        judge: {f"{r:.0%}": await of(judge, curves[judge].at_rate(r)) for r in RATES}
        for judge in JUDGES
    }
    return {
        "target": shares(target, worlds),
        "draft": shares(draft, worlds),
        "at equal escalation": {
            judge: {r: shares(walk, worlds) for r, walk in rates.items()}
            for judge, rates in at.items()
        },
        "router against": {
            judge: {r: difference(at["router"][r], at[judge][r]) for r in at[judge]}
            for judge in JUDGES
            if judge != "router"
        },
        "within one point of the target": {
            judge: {"threshold": t, **shares(walk := await of(judge, t), worlds)}
            | {"against target": difference(walk, target)}
            for judge, t in chosen.items()
        },
    }


def shares(some: Sequence[Walk], worlds: Sequence[World]) -> dict[str, float]:
    """Accuracy with and without never-learned steps, and escalation rate."""
    learned = [w for w, world in zip(some, worlds, strict=True) if not world.problem.hard]
    return {"accuracy": accuracy(some), "learned": accuracy(learned), "escalated": rate(some)}


async def judges(worlds: Sequence[World], chosen: dict[str, float]) -> dict[str, Any]:
    """PRM against the checker; router, PRM and confidence against the exact advantage."""
    steps: list[tuple[float, int]] = []
    numbers: dict[str, list[float]] = {j: [] for j in ("router", "RSD", "confidence")}
    advantage: list[float] = []
    by_prm: list[float] = []
    for world in worlds:
        walk = await world.walk("router", chosen.get("router", 0.5))
        for context in walk.contexts:
            for writer in ("draft", "target"):
                right = await world.exact(writer, context)
                steps.append((await world.prm(writer, context), int(right)))
            for judge, values in numbers.items():
                values.append(await world.score(judge, context))
            advantage.append(await world.score("exact oracle", context))
            by_prm.append(await world.score("PRM oracle", context))
    better = [int(a > 0) for a in advantage]
    wrong, right = class_accuracy(*zip(*steps, strict=True))
    return {
        "PRM": {
            "steps": len(steps),
            "right": sum(r for _, r in steps) / len(steps),
            "auc": roc_auc(*zip(*steps, strict=True)),
            "accuracy on right": right,
            "accuracy on wrong": wrong,
        },
        "steps": len(better),
        "better": sum(better) / len(better),
        "advantage": {
            judge: {
                "rho": spearman(values, advantage),
                "rho with the PRM's": spearman(values, by_prm),
                "auc": roc_auc(values, better),
                **dict(
                    zip(
                        ("accuracy y=0", "accuracy y=1"),
                        class_accuracy(values, better, chosen.get(judge, 0.5)),
                        strict=True,
                    )
                ),
            }
            for judge, values in numbers.items()
        },
    }


def speed(problems: Sequence[Problem], chosen: dict[str, float]) -> dict[str, Any]:
    """Seconds a question at batch 1 with the chosen thresholds, beside the model of costs."""
    policies: dict[str, Policy] = {"target": AlwaysTarget(), "draft": AlwaysDraft()}
    if "router" in chosen:
        policies["router"] = LearnedRouter("embedded:router", chosen["router"])
    policies["router as shipped"] = LearnedRouter("embedded:router")
    if "RSD" in chosen:
        policies["RSD"] = RSD("embedded:prm", 1 - chosen["RSD"])
    if "confidence" in chosen:
        policies["confidence"] = DraftConfidence(1 - chosen["confidence"])
    answers = compare(problems, policies)
    costs = measured(answers["draft"])
    pace = statistics.mean(a.seconds for a in answers["target"])
    rows = {}
    for name, some in answers.items():
        right = [check_answer(p, a.text) for p, a in zip(problems, some, strict=True)]
        learned = [r for r, p in zip(right, problems, strict=True) if not p.hard]
        seconds = [a.seconds for a in some]
        easy = [s for s, p in zip(seconds, problems, strict=True) if not p.hard]
        steps = [s for a in some for s in a.statistics["steps"]]
        target_easy = [a.seconds for a, p in zip(answers["target"], problems, strict=True)
                       if not p.hard]  # fmt: skip
        rows[name] = {
            "accuracy": statistics.mean(right),
            "learned": statistics.mean(learned),
            "escalated": statistics.mean(s["writer"] == "target" for s in steps),
            "mean s": statistics.mean(seconds),
            "median s": statistics.median(seconds),
            "speed-up": pace / statistics.mean(seconds),
            "speed-up, learned": statistics.mean(target_easy) / statistics.mean(easy),
            "cost model, s": costs.of(some, scored=name in SCORED) / 1e3,
        }
    fed = sum(a.statistics["computed_tokens"]["router"] for a in answers.get("router", []))
    judged = sum(len(a.statistics["steps"]) for a in answers.get("router", []))
    return {
        "problems": len(problems),
        "costs in ms": vars(costs),
        "policies": rows,
        "router tokens fed a step": fed / judged if judged else None,
    }


def save(found: dict[str, Any]) -> None:
    """Print the tables; write JSON and Markdown."""
    from tables import markdown

    found["machine"] = {"processor": platform.processor() or platform.machine()}
    RESULTS.mkdir(exist_ok=True)
    text = markdown(found)
    (RESULTS / "router.md").write_text(text)
    JSON.write_text(json.dumps(found, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
