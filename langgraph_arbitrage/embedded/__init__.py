"""Embedded models for generated word problems, with a PRM, a router and an exact checker.

``DRAFT``, ``TARGET`` and ``READER`` are paths of checkpoints in the format of transformers. They
share one tokenizer. ``PRM`` and ``ROUTER`` score steps with ``READER`` as their base model. This
package does not import torch.

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

_FOLDER = Path(__file__).parent

DRAFT = str(_FOLDER / "draft")
"""Path of the draft: small and fast, solves about half of the problems."""

TARGET = str(_FOLDER / "target")
"""Path of the target: deep, at least five times slower per token than the draft."""

READER = str(_FOLDER / "reader")
"""Path of the reader, the base model of router and PRM: about as fast as the draft."""

PRM = str(_FOLDER / "prm")
"""Path of the process reward model, which estimates the probability that a step is right."""

ROUTER = str(_FOLDER / "router")
"""Path of the router for the pair of `DRAFT` and `TARGET`."""
