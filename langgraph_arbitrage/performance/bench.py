"""Measures a pair: the device, the models through the engine, and what they do together."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence

from langgraph_arbitrage.config.run_settings import RunSettings
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.engine import Engine, Footprint
from langgraph_arbitrage.engine.cpu import threads_for
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.loop.runtime import Run
from langgraph_arbitrage.performance.costs import decode_seconds, scoring_seconds, writer_costs
from langgraph_arbitrage.performance.device import Rates, measured_rates
from langgraph_arbitrage.performance.forecast import Forecast
from langgraph_arbitrage.performance.report import Bench, Checked, RoleReport
from langgraph_arbitrage.performance.walk import mean, walk
from langgraph_arbitrage.policies import AlwaysDraft, AlwaysTarget, Policy
from langgraph_arbitrage.runner import Answer, Runner

__all__ = ["run_bench"]


def run_bench(
    settings: ArbitrageSettings,
    questions: Sequence[str],
    *,
    check: Sequence[str] = (),
    batches: Sequence[int] = (),
    rounds: int = 7,
    tell: Callable[[str], None] = lambda text: None,
) -> Bench:
    """Measure a pair.

    Args:
        settings: The models, the policy, limits.
        questions: Asked once, to see how long steps are and how often models agree.
        check: Others, answered by the loop and by the target alone, to hold the forecast against.
        batches: Numbers of sequences at which decoding is measured, too.
        rounds: Of each measurement, of which the median is taken.
        tell: Called with what is measured next.

    Raises:
        SettingsError: The policy does without one of the models, or compares their steps.
    """
    policy = settings.policy
    if not (policy.needs_draft and policy.needs_target) or policy.needs_target_step:
        raise SettingsError(
            f"{type(policy).__name__} does not choose between accepting a draft's step and "
            "escalating it, which is what is measured: use a router, rsd, judge, confidence or "
            "random"
        )
    if not questions:
        raise SettingsError("there is no question to measure on: give at least one")
    return _Measurement(settings, rounds, tell).bench(questions, check, batches)


class _Measurement:
    """The models while they are measured."""

    def __init__(
        self, settings: ArbitrageSettings, rounds: int, tell: Callable[[str], None]
    ) -> None:
        self.settings = settings
        self.rounds = rounds
        self.tell = tell
        self.runner = Runner(settings)
        self.models = Models(settings)  # the same engines
        self.policy: Policy = settings.policy

    def bench(
        self, questions: Sequence[str], check: Sequence[str], batches: Sequence[int]
    ) -> Bench:
        self.tell("Loading the models")
        self.runner.warm_up()
        self.tell("Answering with both models at every step")
        run = Run(self.models, RunSettings.of(self.settings))
        walked = asyncio.run(walk(run, questions, self.settings.max_steps))
        chosen = [w for w in walked if w.escalated] or walked
        prompt = self._prompt(run, questions[0])
        step = max(2, round(mean(w.draft_tokens for w in walked)))
        self.tell("Measuring the draft")
        draft = writer_costs(self.models.engine("draft"), prompt["draft"], step, self.rounds)
        self.tell("Measuring the target")
        target = writer_costs(self.models.engine("target"), prompt["target"], step, self.rounds)
        self.tell("Measuring the router and the graph")
        scorers = self.models.scorer_engines(self.policy)
        router_prompt = sum(scoring_seconds(s, len(prompt["draft"]), self.rounds) for s in scorers)
        judged = [w.router_seconds for w in walked if w.index]  # the first one reads the question
        forecast = Forecast(
            draft_token=draft.token,
            target_token=target.token,
            router=statistics.median(judged or [w.router_seconds for w in walked]),
            graph=self._graph(questions),
            draft_read=draft.read,
            target_read=target.read,
            draft_step=mean(w.draft_tokens for w in walked),
            target_step=mean(w.target_tokens for w in walked),
            decoded=mean(w.decoded for w in chosen),
            draft_prompt=draft.prompt,
            target_prompt=target.prompt,
            router_prompt=router_prompt,
            steps=len(walked) / len(questions),
        )
        self.tell("Measuring the device")
        context = len(prompt["target"]) + round(forecast.steps * forecast.target_step / 2)
        roles = {}
        for role, costs, tokens in (
            ("draft", draft, forecast.draft_step),
            ("target", target, forecast.target_step),
        ):
            engine = self.models.engine(role)  # type: ignore[arg-type]
            roles[role] = self._role(
                engine,
                context,
                tokens,
                token=costs.token,
                read=costs.read.of(tokens),
                step=tokens * costs.token,
                batches={
                    n: n / decode_seconds(engine, prompt[role], 4 * step, self.rounds, n)
                    for n in batches
                },
            )
        if scorers:
            roles["router"] = self._role(
                scorers[0], context, forecast.draft_step, step=forecast.router
            )
        return Bench(
            policy=repr(self.policy),
            roles=roles,
            forecast=forecast,
            rate=mean(w.escalated for w in walked),
            steps=len(walked),
            agreement=sum(w.kept for w in chosen) / sum(w.draft_tokens for w in chosen),
            check=self._check(check, forecast) if check else None,
        )

    def _prompt(self, run: Run, question: str) -> dict[str, list[int]]:
        from langchain_core.messages import HumanMessage

        return self.models.render_prompts([HumanMessage(question)], run.policy)

    def _role(
        self,
        engine: Engine,
        context: int,
        tokens: float,
        *,
        step: float,
        token: float | None = None,
        read: float | None = None,
        batches: dict[int, float] | None = None,
    ) -> RoleReport:
        size = engine.footprint
        assert size is not None  # noqa: S101 - it has been asked before
        rates = _rates(engine, size)
        step_tokens = max(1, round(tokens))
        token_floor = rates.floor(size.bytes(1, 1, context), size.work(1, 1, context))
        read_floor = rates.floor(
            size.bytes(1, step_tokens, context), size.work(1, step_tokens, context)
        )
        return RoleReport(
            model=engine.spec.name,
            engine=engine.backend or "",
            device=size.device,
            dtype=size.dtype,
            parameters=size.parameters,
            weights=size.weights,
            bandwidth=rates.bandwidth,
            operations=rates.operations,
            token_floor=None if token is None else token_floor,
            token=token,
            read_floor=read_floor,
            read=read,
            step_floor=read_floor if token is None else tokens * token_floor,
            step=step,
            batches=batches or {},
        )

    def _graph(self, questions: Sequence[str]) -> float:
        """Seconds of a step's cycle without models: the draft alone, through the graph."""
        (answers,) = self._answers(questions, AlwaysDraft())
        outside: float = sum(
            a.seconds - sum(s["seconds"] for s in a.statistics["steps"]) for a in answers
        )
        return outside / sum(len(a.statistics["steps"]) for a in answers)

    def _answers(self, questions: Sequence[str], *policies: Policy) -> list[list[Answer]]:
        """Answers under each policy; each question goes to all before the next one."""
        runners = [self.runner.with_policy(policy) for policy in policies]
        answers: list[list[Answer]] = [[] for _ in runners]
        for question in questions:
            for runner, given in zip(runners, answers, strict=True):
                runner.warm_up()  # so that none finds in the cache what another has read
                given.append(runner.answer(question))
        return answers

    def _check(self, questions: Sequence[str], forecast: Forecast) -> Checked:
        self.tell("Holding the forecast against whole answers")
        alone, loop = self._answers(questions, AlwaysTarget(), self.policy)
        steps = [s for a in loop for s in a.statistics["steps"]]
        return Checked(
            questions=len(questions),
            alone=mean(a.seconds for a in alone),
            alone_forecast=mean(_alone(a, forecast) for a in alone),
            loop=mean(a.seconds for a in loop),
            loop_forecast=mean(_loop(a, forecast) for a in loop),
            rate=mean(s["writer"] == "target" for s in steps),
        )


def _rates(engine: Engine, size: Footprint) -> Rates:
    threads = engine.spec.threads or threads_for(size.parameters)
    return measured_rates(size.device, size.dtype, size.weights, threads)


def _alone(answer: Answer, f: Forecast) -> float:
    """Seconds that an answer of the target alone should have taken, by its steps and tokens."""
    steps = answer.statistics["steps"]
    tokens: int = answer.statistics["target_tokens"]
    return f.target_prompt + tokens * f.target_token + len(steps) * f.graph


def _loop(answer: Answer, f: Forecast) -> float:
    """Seconds that an answer of the loop should have taken, by its steps and tokens."""
    figures = answer.statistics
    steps = figures["steps"]
    escalated = [s for s in steps if s["writer"] == "target"]
    parted = sum(s["accepted_draft_tokens"] < s["tokens"] for s in escalated)
    drafted = figures["draft_tokens"] + figures["discarded_tokens"]
    seconds: float = f.draft_prompt + f.router_prompt + drafted * f.draft_token
    seconds += len(steps) * (f.router + f.graph)
    if escalated:
        last = max(i for i, s in enumerate(steps) if s["writer"] == "target")
        unseen = sum(s["tokens"] for s in steps[:last] if s["writer"] == "draft")
        read = unseen + figures["discarded_tokens"]
        decoded = figures["target_tokens"] - figures["accepted_draft_tokens"] - parted
        behind = f.draft_read.of(figures["target_tokens"] / len(escalated)) - f.draft_token
        seconds += f.target_prompt + len(escalated) * (f.target_read.base + max(0.0, behind))
        seconds += read * f.target_read.slope + decoded * f.target_token
    return seconds
