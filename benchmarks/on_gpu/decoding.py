"""Measure decoding relative to the limits of the device, and CUDA graphs relative to eager."""

from __future__ import annotations

from langgraph_arbitrage.engine.footprint import footprint
from langgraph_arbitrage.performance.device import measured_rates
from on_gpu.model_workers import EAGER, ModelWorkers, run_concurrently
from random_models import clock, prompts

__all__ = ["PROMPT", "TOKENS", "compare_with_eager", "measure_decoding", "seconds_per_token"]

PROMPT = 64
"""Prompt length in tokens."""
TOKENS = 64
"""Number of tokens per sequence in measurements of decoding."""


def seconds_per_token(workers: ModelWorkers, name: str, batch: int) -> float:
    """Measure the seconds per decoding step of `batch` sequences, without prefill."""

    def measure() -> float:
        inputs = prompts(batch, PROMPT)
        run_concurrently(inputs, lambda ids: workers.generate(name, ids, 1))
        start = clock(workers.device)
        run_concurrently(inputs, lambda ids: workers.generate(name, ids, TOKENS))
        return (clock(workers.device) - start) / TOKENS

    measure()  # captures the CUDA graphs
    return min(measure(), measure())


def measure_decoding(workers: ModelWorkers, role: str, batch: int) -> dict[str, float]:
    """Compare decoding with the lower bound from the device's bandwidth and compute rate."""
    seconds = seconds_per_token(workers, role, batch)
    model = workers.models[role]
    size = footprint(model)
    rates = measured_rates(workers.device, size.dtype, size.weights)
    context = PROMPT + TOKENS // 2
    bound = rates.floor(size.bytes(batch, 1, context), size.work(batch, 1, context))
    return {
        "ms per step": 1e3 * seconds,
        "tokens/s": batch / seconds,
        "lower bound, ms": 1e3 * bound,
        "lower bound / measured": bound / seconds,
        "bandwidth of the device, GB/s": rates.bandwidth / 1e9,
        "parameters": float(model.num_parameters()),
    }


def compare_with_eager(
    workers: ModelWorkers, role: str, batch: int, seconds: float
) -> dict[str, object]:
    """Compare a worker with CUDA graphs and one without on the same prompts.

    With random weights, rounding alone can change the chosen tokens. Therefore the eager worker
    also scores the tokens that the first worker generated, and log-probabilities are compared.

    Args:
        workers: The models.
        role: `draft` or `target`.
        batch: Number of sequences.
        seconds: Measured seconds per decoding step with CUDA graphs.
    """
    inputs, eager = prompts(batch, PROMPT), EAGER[role]
    outputs = run_concurrently(inputs, lambda ids: workers.generate(role, ids, TOKENS))
    eager_outputs = run_concurrently(inputs, lambda ids: workers.generate(eager, ids, TOKENS))
    scores = run_concurrently(
        zip(inputs, outputs, strict=True),
        lambda pair: workers.score([*pair[0], *pair[1].ids], eager, start=len(pair[0])),
    )
    equal = [
        a == b
        for output, other in zip(outputs, eager_outputs, strict=True)
        for a, b in zip(output.ids, other.ids, strict=True)
    ]
    differences = [
        abs(a - b)
        for output, score in zip(outputs, scores, strict=True)
        for a, b in zip(output.logprobs, score.logprobs, strict=True)
    ]
    eager_seconds = seconds_per_token(workers, eager, batch)
    graphs = workers.graphs(role)
    return {
        "ms with graphs": 1e3 * seconds,
        "ms eager": 1e3 * eager_seconds,
        "eager / graphs": eager_seconds / seconds,
        "fraction of equal tokens": sum(equal) / len(equal),
        "mean difference of log-probabilities": sum(differences) / len(differences),
        "maximum difference of log-probabilities": max(differences),
        "captured graphs": len(graphs.graphs) if graphs else 0,
        "replays": graphs.replays if graphs else 0,
        "disabled because": (graphs.disabled or "") if graphs else "no graphs on this device",
    }
