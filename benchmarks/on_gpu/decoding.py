"""What a token costs: against the device's floor, and by graphs against eager."""

from __future__ import annotations

from langgraph_arbitrage.engine.footprint import footprint
from langgraph_arbitrage.performance.device import measured_rates
from on_gpu.served import EAGER, Served, together
from random_models import clock, prompts

__all__ = ["PROMPT", "against_eager", "rate", "seconds_a_token"]

PROMPT = 64
TOKENS = 64  # where only decoding is measured


def seconds_a_token(served: Served, who: str, batch: int) -> float:
    """Seconds of a decoded token of `batch` rows, their prompts read before."""

    def once() -> float:
        asked = prompts(batch, PROMPT)
        together(asked, lambda ids: served.write(who, ids, 1))
        start = clock(served.device)
        together(asked, lambda ids: served.write(who, ids, TOKENS))
        return (clock(served.device) - start) / TOKENS

    once()  # captures its graphs
    return min(once(), once())


def rate(served: Served, role: str, batch: int) -> dict[str, float]:
    """Decoding against what the device's bandwidth and matrix rate allow."""
    seconds = seconds_a_token(served, role, batch)
    model = served.models[role]
    size = footprint(model)
    rates = measured_rates(served.device, size.dtype, size.weights)
    context = PROMPT + TOKENS // 2
    floor = rates.floor(size.bytes(batch, 1, context), size.work(batch, 1, context))
    return {
        "ms a token and step": 1e3 * seconds,
        "tokens a second": batch / seconds,
        "floor, ms": 1e3 * floor,
        "share of the floor": floor / seconds,
        "GB a second that the device reads": rates.bandwidth / 1e9,
        "parameters": float(model.num_parameters()),
    }


def against_eager(served: Served, role: str, batch: int, seconds: float) -> dict[str, object]:
    """The same prompts by a worker with graphs and by one without.

    Rounding alone lets random models choose otherwise: so the tokens that were written are read
    again without graphs, and the log-probabilities of each compared.

    Args:
        served: The models.
        role: Which of them.
        batch: Rows at a time.
        seconds: Of a token by graphs, as measured.
    """
    asked, eager = prompts(batch, PROMPT), EAGER[role]
    written = together(asked, lambda ids: served.write(role, ids, TOKENS))
    plain = together(asked, lambda ids: served.write(eager, ids, TOKENS))
    read = together(
        zip(asked, written, strict=True),
        lambda pair: served.score([*pair[0], *pair[1].ids], eager, start=len(pair[0])),
    )
    same = [
        one == other
        for w, p in zip(written, plain, strict=True)
        for one, other in zip(w.ids, p.ids, strict=True)
    ]
    apart = [
        abs(one - other)
        for w, r in zip(written, read, strict=True)
        for one, other in zip(w.logprobs, r.logprobs, strict=True)
    ]
    slow = seconds_a_token(served, eager, batch)
    graphs = served.graphs(role)
    return {
        "ms by graphs": 1e3 * seconds,
        "ms eager": 1e3 * slow,
        "eager over graphs": slow / seconds,
        "same tokens": sum(same) / len(same),
        "log-probability apart, mean": sum(apart) / len(apart),
        "log-probability apart, most": max(apart),
        "captured": len(graphs.graphs) if graphs else 0,
        "replayed": graphs.replays if graphs else 0,
        "why not": (graphs.disabled or "") if graphs else "no graphs here",
    }
