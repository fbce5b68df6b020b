"""Several greedy tokens without the interpreter: a loop around the trace of a forward.

Between two tokens Python lays out the row, chooses, and looks who comes and goes, which takes a
third as long as a small model's forward. Where nothing depends on it, the loop does the same from
C++: it ends at a token that may end the step, and when somebody asks for a halt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from langgraph_arbitrage.engine.open_sizes import VIEW

__all__ = ["Loop", "loop_of"]

Loop = Callable[..., tuple[Tensor, Tensor]]
"""What `SOURCE` says."""

SOURCE = """
def decode(
    tokens: Tensor, bounds: Tensor, wanted: Tensor, live: Tensor, stops: Tensor, halt: Tensor,
    most: int, there: List[Tensor]
) -> Tuple[Tensor, Tensor]:
    ids: List[Tensor] = []
    logprobs: List[Tensor] = []
    going = True
    while going:
        logits = forward(tokens, bounds, wanted, {there})
        last = logits[:, -1].float()
        best = last.max(-1)[1]
        lane = best.unsqueeze(1)
        ids.append(best)
        logprobs.append(last.log_softmax(-1).gather(1, lane).squeeze(1))
        if tokens.size(2) > 1:
            tokens = tokens[:, :, -1:].clone()
            wanted = torch.zeros_like(wanted)
        tokens[0].copy_(lane)
        tokens[1:3].add_(live)
        bounds[:, {view}].add_(1)
        going = len(ids) < most and not bool(halt) and not bool(stops[best].any())
    return torch.stack(ids), torch.stack(logprobs)
"""
"""Tokens [4, B, Q] and bounds [arenas, 5] as a trace takes them, and changed; the last place of Q;
lanes that go on [B, 1] (1, or 0 where padding stays); tokens to stop at [V]; a flag that asks for a
halt; most tokens; keys and values → ids and log-probabilities [tokens, B]."""


def loop_of(traced: Any, arenas: int) -> Loop:
    """The loop around a trace; gone with its last user, and what it holds of the trace with it.

    Args:
        traced: Tokens, bounds, wanted places, keys and values → logits.
        arenas: Tensors of keys and values.
    """
    unit = torch._C.CompilationUnit()
    # A function of another unit would be called without being kept.
    forward = unit.create_function("forward", traced.graph.copy())
    there = ", ".join(f"there[{i}]" for i in range(arenas))
    names: dict[str, Any] = {"forward": forward, "Tensor": Tensor, "torch": torch}
    unit.define(SOURCE.format(there=there, view=VIEW), names.get)  # type: ignore[arg-type]
    loop: Loop = unit.find_function("decode")
    return loop
