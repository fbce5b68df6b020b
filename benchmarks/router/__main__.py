"""Evaluate the embedded router: routing signals, policies at equal escalation rates, and speed.

    python benchmarks/router                                  # all parts, about half an hour
    python benchmarks/router --part judges --questions 100    # one part, quickly

Thresholds are chosen on problems of one seed and evaluated on problems of another. Neither seed was
used to train or calibrate the PRM or the router. `--part speed` alone uses the thresholds of the
existing results. Results are written to benchmarks/results/router.json and router.md.
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

from curves import RATES, Curve, accuracy, answer_all, difference, escalation_rate
from problem_steps import SIGNALS, LoopAnswer, ProblemSteps
from rich.console import Console
from rich.progress import Progress
from speed import answer_alternating, measure_costs

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
"""Accuracy that a chosen threshold may lose against the target alone."""

PARTS = ("judges", "policies", "speed")
SCORED = ("router", "router as shipped", "RSD")
"""Policies that run the router's causal LM on each step."""


def main() -> None:
    """Run the parts, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all parts")
    parser.add_argument("--choose", type=int, default=300, help="problems for choosing thresholds")
    parser.add_argument("--questions", type=int, default=520, help="problems for the evaluation")
    parser.add_argument("--timed", type=int, default=500, help="of these, problems for the speed")
    options = parser.parse_args()
    parts = options.part or PARTS
    choose = list(embedded.problems(options.choose, CHOOSE_SEED))
    chosen_on = {p.question for p in choose}
    measure = [p for p in embedded.problems(options.questions, MEASURE_SEED)
               if p.question not in chosen_on]  # fmt: skip
    results: dict[str, Any] = {"problems": {"choose": len(choose), "measure": len(measure)}}
    existing = json.loads(JSON.read_text()) if JSON.exists() else {}
    if parts == ["speed"] and "chosen" in existing:
        results = existing
    else:
        results["chosen"] = asyncio.run(evaluate(choose, measure, results, parts))
    if "speed" in parts:
        results["speed"] = evaluate_speed(measure[: options.timed], results["chosen"])
    save(results)


async def evaluate(
    choose: Sequence[Problem],
    measure: Sequence[Problem],
    results: dict[str, Any],
    parts: Sequence[str],
) -> dict[str, float]:
    """Choose thresholds and run the parts that do not measure time.

    Args:
        choose: Problems for choosing thresholds.
        measure: Problems for the evaluation.
        results: Receives the results.
        parts: Parts to run.

    Returns:
        The chosen threshold of each signal.
    """
    models = Models(ArbitrageSettings())
    prm, router = load_scorer("embedded:prm"), load_scorer("embedded:router")
    pilot, held_out = (
        [ProblemSteps(models, p, prm, router) for p in some] for some in (choose, measure)
    )
    chosen: dict[str, float] = {}
    with Progress(console=Console(stderr=True), refresh_per_second=1) as bar:
        task = bar.add_task("", total=None)

        def tick() -> None:
            bar.advance(task)

        target_alone = accuracy(await answer_all(pilot, "random", -1.0, tick))
        curves = {}
        for signal in SIGNALS:
            bar.update(task, description=f"choosing thresholds of {signal}")
            curves[signal] = await Curve.measure(pilot, signal, tick)
            if (threshold := curves[signal].cheapest(target_alone - WITHIN)) is not None:
                chosen[signal] = threshold
        if "policies" in parts:
            results["policies"] = await evaluate_policies(held_out, curves, chosen, bar, task)
        if "judges" in parts:
            bar.update(task, description="evaluating signals")
            results["judges"] = await evaluate_signals(held_out, chosen)
    models.close()
    return chosen


async def evaluate_policies(
    problems: Sequence[ProblemSteps],
    curves: dict[str, Curve],
    chosen: dict[str, float],
    bar: Progress,
    task: Any,
) -> dict[str, Any]:
    """Measure accuracies at equal escalation rates and at the chosen thresholds."""

    async def answer(signal: str, threshold: float) -> list[LoopAnswer]:
        bar.update(task, description=f"measuring {signal}")
        return await answer_all(problems, signal, threshold, lambda: bar.advance(task))

    # The values of "random" are from 0 to 1: all of them are above -1, and none above 2.
    target, draft = await answer("random", -1.0), await answer("random", 2.0)
    answers: dict[str, dict[str, list[LoopAnswer]]] = {
        signal: {f"{r:.0%}": await answer(signal, curves[signal].at_rate(r)) for r in RATES}
        for signal in SIGNALS
    }
    return {
        "target": summarize(target, problems),
        "draft": summarize(draft, problems),
        "at equal escalation": {
            signal: {rate: summarize(some, problems) for rate, some in by_rate.items()}
            for signal, by_rate in answers.items()
        },
        "router against": {
            signal: {
                rate: difference(answers["router"][rate], some) for rate, some in by_rate.items()
            }
            for signal, by_rate in answers.items()
            if signal != "router"
        },
        "within one point of the target": {
            signal: {"threshold": t, **summarize(some := await answer(signal, t), problems)}
            | {"against target": difference(some, target)}
            for signal, t in chosen.items()
        },
    }


def summarize(answers: Sequence[LoopAnswer], problems: Sequence[ProblemSteps]) -> dict[str, float]:
    """Compute accuracy on all and on learned problems, and the escalation rate."""
    learned = [a for a, p in zip(answers, problems, strict=True) if not p.problem.hard]
    return {
        "accuracy": accuracy(answers),
        "learned": accuracy(learned),
        "escalated": escalation_rate(answers),
    }


async def evaluate_signals(
    problems: Sequence[ProblemSteps], chosen: dict[str, float]
) -> dict[str, Any]:
    """Compare the PRM with the exact checker, and the signals with the exact advantage."""
    steps: list[tuple[float, int]] = []
    scores: dict[str, list[float]] = {s: [] for s in ("router", "RSD", "confidence")}
    advantage: list[float] = []
    prm_advantage: list[float] = []
    for problem in problems:
        answer = await problem.answer("router", chosen.get("router", 0.5))
        for context in answer.contexts:
            for writer in ("draft", "target"):
                right = await problem.exact(writer, context)
                steps.append((await problem.prm(writer, context), int(right)))
            for signal, values in scores.items():
                values.append(await problem.score(signal, context))
            advantage.append(await problem.score("exact oracle", context))
            prm_advantage.append(await problem.score("PRM oracle", context))
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
            signal: {
                "rho": spearman(values, advantage),
                "rho with the PRM's": spearman(values, prm_advantage),
                "auc": roc_auc(values, better),
                **dict(
                    zip(
                        ("accuracy y=0", "accuracy y=1"),
                        class_accuracy(values, better, chosen.get(signal, 0.5)),
                        strict=True,
                    )
                ),
            }
            for signal, values in scores.items()
        },
    }


def evaluate_speed(problems: Sequence[Problem], chosen: dict[str, float]) -> dict[str, Any]:
    """Measure seconds per question at batch size 1 and compare them with the cost model."""
    policies: dict[str, Policy] = {"target": AlwaysTarget(), "draft": AlwaysDraft()}
    if "router" in chosen:
        policies["router"] = LearnedRouter("embedded:router", chosen["router"])
    policies["router as shipped"] = LearnedRouter("embedded:router")
    if "RSD" in chosen:
        policies["RSD"] = RSD("embedded:prm", 1 - chosen["RSD"])
    if "confidence" in chosen:
        policies["confidence"] = DraftConfidence(1 - chosen["confidence"])
    answers = answer_alternating(problems, policies)
    costs = measure_costs(answers["draft"])
    target_seconds = statistics.mean(a.seconds for a in answers["target"])
    rows = {}
    for name, some in answers.items():
        right = [check_answer(p, a.text) for p, a in zip(problems, some, strict=True)]
        learned = [r for r, p in zip(right, problems, strict=True) if not p.hard]
        seconds = [a.seconds for a in some]
        learned_seconds = [s for s, p in zip(seconds, problems, strict=True) if not p.hard]
        steps = [s for a in some for s in a.statistics["steps"]]
        target_learned_seconds = [
            a.seconds for a, p in zip(answers["target"], problems, strict=True) if not p.hard
        ]
        rows[name] = {
            "accuracy": statistics.mean(right),
            "learned": statistics.mean(learned),
            "escalated": statistics.mean(s["writer"] == "target" for s in steps),
            "mean s": statistics.mean(seconds),
            "median s": statistics.median(seconds),
            "speed-up": target_seconds / statistics.mean(seconds),
            "speed-up, learned": statistics.mean(target_learned_seconds)
            / statistics.mean(learned_seconds),
            "cost model, s": costs.forecast(some, scored=name in SCORED) / 1e3,
        }
    computed = sum(a.statistics["computed_tokens"]["router"] for a in answers.get("router", []))
    scored_steps = sum(len(a.statistics["steps"]) for a in answers.get("router", []))
    return {
        "problems": len(problems),
        "costs in ms": vars(costs),
        "policies": rows,
        "router tokens fed a step": computed / scored_steps if scored_steps else None,
    }


def save(results: dict[str, Any]) -> None:
    """Print the tables, and write JSON and Markdown."""
    from tables import markdown

    results["machine"] = {"processor": platform.processor() or platform.machine()}
    RESULTS.mkdir(exist_ok=True)
    text = markdown(results)
    (RESULTS / "router.md").write_text(text)
    JSON.write_text(json.dumps(results, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
