"""Measure seconds per question at batch size 1 and compare them with a simple cost model."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langgraph_arbitrage import Policy, embedded
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.embedded import Problem
from langgraph_arbitrage.engine import Engine, GenerateRequest, ModelSpec, ScoreRequest
from langgraph_arbitrage.runner import Answer, Runner


@dataclass(frozen=True)
class Costs:
    """Costs at batch size 1, in milliseconds."""

    draft: float
    """Decoding a token with the draft."""
    target: float
    """Decoding a token with the target."""
    target_read: float
    """A forward of the target over a step that it has not computed."""
    router: float
    """A forward of the router's causal LM over a step."""
    graph: float
    """What the graph adds to a step."""

    def forecast(self, answers: Sequence[Answer], *, scored: bool) -> float:
        """Compute the mean milliseconds per question from the steps and tokens of answers.

        Args:
            answers: The answers.
            scored: Whether the policy runs the router's causal LM on each step.
        """
        steps = [s for a in answers for s in a.statistics["steps"]]
        drafted = sum(
            a.statistics["draft_tokens"] + a.statistics["discarded_tokens"] for a in answers
        )
        escalated = sum(s["writer"] == "target" for s in steps)
        total = self.draft * drafted + self.graph * len(steps)
        total += self.target * sum(a.statistics["target_tokens"] for a in answers)
        total += self.target_read * escalated + self.router * len(steps) * scored
        return total / len(answers)


def answer_alternating(
    problems: Sequence[Problem], policies: Mapping[str, Policy]
) -> dict[str, list[Answer]]:
    """Answer the problems with all policies, which alternate so that noise affects them alike."""
    shared = Runner(ArbitrageSettings(max_slots=1))
    runners = {name: shared.with_policy(policy) for name, policy in policies.items()}
    answers: dict[str, list[Answer]] = {name: [] for name in policies}
    for runner in runners.values():
        runner.warm_up()
        runner.answer(problems[0].question)
    for problem in problems:
        for name, runner in runners.items():
            runner.warm_up()  # clears the cached tokens of the other policies
            answers[name].append(runner.answer(problem.question))
    return answers


def measure_costs(draft_only: Sequence[Answer], rounds: int = 15, tokens: int = 20) -> Costs:
    """Measure the costs.

    Model costs are medians, measured directly on the engines. The graph's cost is the remaining
    time of answers by the draft alone.

    Args:
        draft_only: Answers by the draft alone.
        rounds: Number of measurements.
        tokens: Number of tokens per step.
    """
    paths = {"draft": embedded.DRAFT, "target": embedded.TARGET, "reader": embedded.READER}
    engines = {role: Engine(ModelSpec(path)) for role, path in paths.items()}
    question = next(iter(embedded.problems(1, seed=77))).question
    ids = engines["draft"].tokenizer.render([{"role": "user", "content": question}])
    seconds: dict[str, list[float]] = {name: [] for name in ("draft", "target", "read", "router")}
    for i in range(rounds + 2):
        start = [*ids, *[20 + i] * 8]  # differs in each round, so it is not cached
        step = [*start, *[30 + i] * tokens]
        for role in ("draft", "target"):
            engines[role].submit(GenerateRequest(start, max_tokens=1)).result()
            output = engines[role].submit(GenerateRequest(start, max_tokens=tokens)).result()
            seconds[role].append(output.seconds / len(output.ids))
        read = engines["target"].submit(GenerateRequest(step, max_tokens=1)).result()
        seconds["read"].append(read.seconds)
        engines["reader"].submit(ScoreRequest(start, start=len(start) - 4)).result()
        scores = engines["reader"].submit(ScoreRequest(step, start=len(start))).result()
        seconds["router"].append(scores.seconds)
    for engine in engines.values():
        engine.close()
    ms = {name: 1e3 * statistics.median(values[2:]) for name, values in seconds.items()}
    steps = sum(len(a.statistics["steps"]) for a in draft_only)
    decoding = ms["draft"] * sum(a.statistics["draft_tokens"] for a in draft_only)
    graph = (1e3 * sum(a.seconds for a in draft_only) - decoding) / steps
    return Costs(ms["draft"], ms["target"], ms["read"], ms["router"], graph)
