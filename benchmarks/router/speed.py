"""Seconds a question at batch 1, and what a simple model of costs makes of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langgraph_arbitrage import Policy, embedded
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.embedded import Problem
from langgraph_arbitrage.engine import Engine, GenerateRequest, ScoreRequest
from langgraph_arbitrage.runner import Answer, Runner


@dataclass(frozen=True)
class Costs:
    """Milliseconds, at batch 1."""

    draft: float
    """A token that the draft writes."""
    target: float
    """A token that the target writes."""
    target_read: float
    """A forward of the target over a step that it catches up with."""
    router: float
    """A forward of the reader over a step."""
    graph: float
    """A step's cycle through the graph, without the models."""

    def of(self, answers: Sequence[Answer], *, scored: bool) -> float:
        """Milliseconds a question that these answers should have taken."""
        steps = [s for a in answers for s in a.statistics["steps"]]
        by_draft = sum(
            a.statistics["draft_tokens"] + a.statistics["discarded_tokens"] for a in answers
        )
        escalated = sum(s["writer"] == "target" for s in steps)
        total = self.draft * by_draft + self.graph * len(steps)
        total += self.target * sum(a.statistics["target_tokens"] for a in answers)
        total += self.target_read * escalated + self.router * len(steps) * scored
        return total / len(answers)


def compare(problems: Sequence[Problem], policies: Mapping[str, Policy]) -> dict[str, list[Answer]]:
    """Each problem goes to all policies before the next one: they share the machine's noise."""
    first = Runner(ArbitrageSettings(max_slots=1))
    runners = {name: first.with_policy(policy) for name, policy in policies.items()}
    answers: dict[str, list[Answer]] = {name: [] for name in policies}
    for runner in runners.values():
        runner.warm_up()
        runner.answer(problems[0].question)
    for problem in problems:
        for name, runner in runners.items():
            runner.warm_up()  # so that none finds in the cache what another has read
            answers[name].append(runner.answer(problem.question))
    return answers


def measured(draft_only: Sequence[Answer], rounds: int = 15, tokens: int = 20) -> Costs:
    """The costs: medians of the engines alone; the graph is what draft-only took beside them."""
    from langgraph_arbitrage.engine import ModelSpec

    paths = {"draft": embedded.DRAFT, "target": embedded.TARGET, "reader": embedded.READER}
    engines = {role: Engine(ModelSpec(path)) for role, path in paths.items()}
    question = next(iter(embedded.problems(1, seed=77))).question
    ids = engines["draft"].tokenizer.render([{"role": "user", "content": question}])
    found: dict[str, list[float]] = {name: [] for name in ("draft", "target", "read", "router")}
    for i in range(rounds + 2):
        start = [*ids, *[20 + i] * 8]  # another ending each time, so that it is read
        for role in ("draft", "target"):
            engines[role].submit(GenerateRequest(start, max_tokens=1)).result()
            written = engines[role].submit(GenerateRequest(start, max_tokens=tokens)).result()
            found[role].append(written.seconds / len(written.ids))
            start_more = [*start, *[30 + i] * tokens]
        one = engines["target"].submit(GenerateRequest(start_more, max_tokens=1)).result()
        found["read"].append(one.seconds)
        engines["reader"].submit(ScoreRequest(start, start=len(start) - 4)).result()
        scored = engines["reader"].submit(ScoreRequest(start_more, start=len(start))).result()
        found["router"].append(scored.seconds)
    for engine in engines.values():
        engine.close()
    ms = {name: 1e3 * statistics.median(values[2:]) for name, values in found.items()}
    steps = sum(len(a.statistics["steps"]) for a in draft_only)
    inside = ms["draft"] * sum(a.statistics["draft_tokens"] for a in draft_only)
    graph = (1e3 * sum(a.seconds for a in draft_only) - inside) / steps
    return Costs(ms["draft"], ms["target"], ms["read"], ms["router"], graph)
