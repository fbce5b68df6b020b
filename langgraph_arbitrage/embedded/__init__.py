"""Embedded models that solve generated word problems, and all that judges them.

``DRAFT``, ``TARGET`` and ``READER`` are paths of checkpoints that plain transformers loads; they
share one tokenizer. ``PRM`` and ``ROUTER`` judge steps by what ``READER`` makes of them. Nothing
here imports torch.

Example:
    >>> from langgraph_arbitrage import embedded
    >>> problem = next(embedded.problems(1, seed=3))
    >>> embedded.check_step(problem, [], problem.steps[0])
    True
"""

from pathlib import Path

from langgraph_arbitrage.embedded.checker import check_answer, check_step
from langgraph_arbitrage.embedded.problems import Problem, problems

__all__ = [
    "DRAFT",
    "PRM",
    "READER",
    "ROUTER",
    "TARGET",
    "Problem",
    "check_answer",
    "check_step",
    "problems",
]

_HERE = Path(__file__).parent

DRAFT = str(_HERE / "draft")
"""Path of the draft: small and quick, right in about half of the problems."""

TARGET = str(_HERE / "target")
"""Path of the target: deep, at least five times the draft's time a token."""

READER = str(_HERE / "reader")
"""Path of the reader: as quick as the draft; router and PRM read steps with it."""

PRM = str(_HERE / "prm")
"""Path of the process reward model: how probably a step is right."""

ROUTER = str(_HERE / "router")
"""Path of the router, which knows the pair of `DRAFT` and `TARGET` and no other."""
