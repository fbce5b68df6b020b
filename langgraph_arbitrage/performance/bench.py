"""Measure a pair of models: the device, each model through the engine, and whole answers."""

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
from langgraph_arbitrage.performance.report import Bench, ForecastCheck, RoleReport
from langgraph_arbitrage.performance.step_pairs import generate_step_pairs, mean
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
    """Measure a pair of models and forecast the speed-up of the loop.

    Args:
        settings: Models, policy and limits.
        questions: Questions that both models answer, to measure step lengths and how many draft
            tokens the target accepts.
        check: Further questions, answered by the loop and by the target alone, to check the
            forecast. Default: none.
        batches: Further batch sizes at which decoding is measured. Default: none.
        rounds: Number of repetitions of each measurement, of which the median is used.
        tell: Receives progress messages.

    Raises:
        SettingsError: There are no questions, or the policy does not use both models, or it needs
            the target's step to decide.
    """
    policy = settings.policy
    if not (policy.needs_draft and policy.needs_target) or policy.needs_target_step:
        raise SettingsError(
            f"{type(policy).__name__} cannot be benchmarked, because it does not choose between "
            "accepting and escalating a draft step. Use router, rsd, judge, likelihood, "
            "confidence or random"
        )
    if not questions:
        raise SettingsError("a benchmark needs at least one question")
    return _PairBenchmark(settings, rounds, tell).bench(questions, check, batches)


class _PairBenchmark:
    """Runs the measurements of a benchmark on a pair of models."""

    def __init__(
        self, settings: ArbitrageSettings, rounds: int, tell: Callable[[str], None]
    ) -> None:
        self.settings = settings
        self.rounds = rounds
        self.tell = tell
        self.runner = Runner(settings)
        self.models = Models(settings)  # shares the engines of the runner
        self.policy: Policy = settings.policy

    def bench(
        self, questions: Sequence[str], check: Sequence[str], batches: Sequence[int]
    ) -> Bench:
        self.tell("Loading the models")
        self.runner.warm_up()
        self.tell("Answering with both models at every step")
        run = Run(self.models, RunSettings.of(self.settings))
        pairs = asyncio.run(generate_step_pairs(run, questions, self.settings.max_steps))
        escalated = [pair for pair in pairs if pair.escalated] or pairs
        prompt = self._prompt(run, questions[0])
        step = max(2, round(mean(pair.draft_tokens for pair in pairs)))
        self.tell("Measuring the draft")
        draft = writer_costs(self.models.engine("draft"), prompt["draft"], step, self.rounds)
        self.tell("Measuring the target")
        target = writer_costs(self.models.engine("target"), prompt["target"], step, self.rounds)
        self.tell("Measuring the router and the graph")
        scorers = self.models.scorer_engines(self.policy)
        router_prompt = sum(scoring_seconds(s, len(prompt["draft"]), self.rounds) for s in scorers)
        # Exclude the first decision of an answer, whose time includes prefilling the question.
        later = [pair.router_seconds for pair in pairs if pair.index]
        forecast = Forecast(
            draft_token=draft.token,
            target_token=target.token,
            router=statistics.median(later or [pair.router_seconds for pair in pairs]),
            graph=self._graph(questions),
            draft_read=draft.read,
            target_read=target.read,
            draft_step=mean(pair.draft_tokens for pair in pairs),
            target_step=mean(pair.target_tokens for pair in pairs),
            decoded=mean(pair.decoded_tokens for pair in escalated),
            draft_prompt=draft.prompt,
            target_prompt=target.prompt,
            router_prompt=router_prompt,
            steps=len(pairs) / len(questions),
            target_scores=any(pair.target_scores for pair in pairs),
            target_verifies=any(pair.target_verifies for pair in pairs),
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
            rate=mean(pair.escalated for pair in pairs),
            steps=len(pairs),
            agreement=sum(pair.accepted_draft_tokens for pair in escalated)
            / sum(pair.draft_tokens for pair in escalated),
            check=self._check(check, forecast) if check else None,
        )

    def _prompt(self, run: Run, question: str) -> dict[str, list[int]]:
        from langchain_core.messages import HumanMessage

        return self.models.render_prompts([HumanMessage(question)], run.settings)

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
        assert size is not None  # noqa: S101 - known since the first request
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
        """Measure the seconds that the graph adds to a step, on answers by the draft alone."""
        (answers,) = self._answers(questions, AlwaysDraft())
        overhead: float = sum(
            a.seconds - sum(s["seconds"] for s in a.statistics["steps"]) for a in answers
        )
        return overhead / sum(len(a.statistics["steps"]) for a in answers)

    def _answers(self, questions: Sequence[str], *policies: Policy) -> list[list[Answer]]:
        """Answer each question with all policies before the next question.

        Returns:
            The answers of each policy.
        """
        runners = [self.runner.with_policy(policy) for policy in policies]
        answers: list[list[Answer]] = [[] for _ in runners]
        for question in questions:
            for runner, collected in zip(runners, answers, strict=True):
                runner.warm_up()  # clears the cached tokens of the other policy
                collected.append(runner.answer(question))
        return answers

    def _check(self, questions: Sequence[str], forecast: Forecast) -> ForecastCheck:
        self.tell("Checking the forecast on whole answers")
        alone, loop = self._answers(questions, AlwaysTarget(), self.policy)
        steps = [s for a in loop for s in a.statistics["steps"]]
        return ForecastCheck(
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
    """Forecast the seconds of an answer by the target alone from its step and token counts."""
    steps = answer.statistics["steps"]
    tokens: int = answer.statistics["target_tokens"]
    return f.target_prompt + tokens * f.target_token + len(steps) * f.graph


def _loop(answer: Answer, f: Forecast) -> float:
    """Forecast the seconds of an answer by the loop from its step and token counts."""
    counts = answer.statistics
    steps = counts["steps"]
    escalated = [s for s in steps if s["writer"] == "target"]
    # Verification also yields the token after the accepted draft tokens, unless the target accepts
    # the whole step. The target does not decode this token.
    verification_tokens = sum(s["accepted_draft_tokens"] < s["tokens"] for s in escalated)
    drafted = counts["draft_tokens"] + counts["discarded_tokens"]
    seconds: float = f.draft_prompt + f.router_prompt + drafted * f.draft_token
    seconds += len(steps) * (f.router + f.graph)
    if escalated or f.target_scores:
        seconds += f.target_prompt
    if escalated:
        last = max(i for i, s in enumerate(steps) if s["writer"] == "target")
        accepted_steps = sum(s["tokens"] for s in steps[:last] if s["writer"] == "draft")
        read, forwards = accepted_steps + counts["discarded_tokens"], len(escalated)
        if f.target_verifies:
            read = forwards = 0
        elif f.target_scores:
            read = counts["discarded_tokens"]
        decoded = counts["target_tokens"] - counts["accepted_draft_tokens"] - verification_tokens
        target_step = counts["target_tokens"] / len(escalated)
        draft_catch_up = max(0.0, f.draft_read.of(target_step) - f.draft_token)
        seconds += forwards * f.target_read.base + len(escalated) * draft_catch_up
        seconds += read * f.target_read.slope + decoded * f.target_token
    return seconds
