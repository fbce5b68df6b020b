"""Trains the surprise head: features of a frozen small LM, one hidden layer, seconds on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from langgraph_arbitrage.engine import ModelSpec, load_tokenizer
from langgraph_arbitrage.models import Models
from langgraph_arbitrage.names import local_path, public_name
from langgraph_arbitrage.scorers import SurpriseHead, SurpriseScorer, surprise_features
from langgraph_arbitrage.training.examples import Example, balanced
from langgraph_arbitrage.training.replay import Replayed, replay

__all__ = ["SurpriseConfig", "SurpriseTrainer", "fit_head"]

MARK = "\N{BULLET}question\N{BULLET}"


class SurpriseConfig(BaseModel):
    """How a surprise head is trained."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True)

    units: int = Field(default=64, ge=1)
    """GELU units of the hidden layer."""
    epochs: int = Field(default=40, ge=1)
    """Passes over the rows."""
    lr: float = Field(default=2e-3, gt=0)
    """Learning rate of AdamW, falling to nothing along a cosine."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Of AdamW."""
    batch: int = Field(default=256, ge=1)
    """Rows a step."""
    balance: bool = False
    """Draw the larger class down to the smaller one. Without it ŷ stays near the share of steps
    that are better, and no row is lost."""
    seed: int = 0
    """Seed of the split, the initial weights and the order of rows."""


class SurpriseTrainer:
    """Reads features with a frozen LM, then fits the head.

    Args:
        base: The causal LM: a folder, a hub id, or `embedded:ROLE`. The draft itself will do;
            another small one sees what the draft does not.
        role: What the label is.
        config: How.
        pair: Names of draft and target, for a router.
    """

    def __init__(
        self,
        base: str,
        role: Literal["router", "prm"],
        config: SurpriseConfig,
        pair: tuple[str | None, str | None] = (None, None),
    ) -> None:
        self.config = config
        before, after = chat_frame(base)
        # A folder of one's own stays a path; an embedded one gets the name it has everywhere.
        name = public_name(local_path(base))
        self.scorer = SurpriseScorer(
            model=base,
            base=name if name.startswith("embedded:") else base,
            before=before,
            after=after,
            role=role,
            draft=pair[0],
            target=pair[1],
        )

    async def read(
        self,
        models: Models,
        examples: Sequence[Example],
        progress: Callable[[], None] = lambda: None,
    ) -> list[list[float]]:
        """Features of each example; each step is read once."""
        found: list[Replayed] = await replay(models, self.scorer, examples, progress=progress)
        return [surprise_features(r.history, r.reading) for r in found]

    def fit(self, features: Sequence[Sequence[float]], examples: Sequence[Example]) -> SurpriseScorer:
        """The scorer with a head that was trained on these."""
        labels = [e.label for e in examples]
        chosen = range(len(labels))
        if self.config.balance:
            chosen = balanced(labels, self.config.seed)  # type: ignore[assignment]
        head = fit_head([features[i] for i in chosen], [labels[i] for i in chosen], self.config)
        return replace(self.scorer, head=head)


def fit_head(
    features: Sequence[Sequence[float]], labels: Sequence[int], config: SurpriseConfig
) -> SurpriseHead:
    """Fit the network by binary cross-entropy.

    Args:
        features: [N, F].
        labels: [N], 0 or 1.
        config: How.
    """
    x = torch.tensor(features, dtype=torch.float32)  # [N, F]
    y = torch.tensor(labels, dtype=torch.float32)  # [N]
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
    x = (x - mean) / deviation
    draw = torch.Generator().manual_seed(config.seed)
    hidden, out = nn.Linear(x.shape[1], config.units), nn.Linear(config.units, 1)
    for layer in (hidden, out):
        bound = layer.in_features**-0.5
        for parameter in (layer.weight, layer.bias):
            nn.init.uniform_(parameter, -bound, bound, generator=draw)
    network = nn.Sequential(hidden, nn.GELU(), out)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    steps = config.epochs * -(-len(y) // config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(config.epochs):
        for rows in torch.randperm(len(y), generator=draw).split(config.batch):
            loss = nn.functional.binary_cross_entropy_with_logits(network(x[rows])[:, 0], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return SurpriseHead(
        {
            "mean": _array(mean),
            "deviation": _array(deviation),
            "w1": _array(hidden.weight),  # [H, F]
            "b1": _array(hidden.bias),  # [H]
            "w2": _array(out.weight[0]),  # [H]
            "b2": _array(out.bias),  # [1]
        }
    )


def _array(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return tensor.detach().numpy().copy()


def chat_frame(base: str) -> tuple[str, str]:
    """What the LM's chat template puts before and after a question.

    An LM without a template reads the question, a blank line, the steps.
    """
    tokenizer = load_tokenizer(ModelSpec(local_path(base)))
    if not tokenizer.chat_template:
        return "", "\n\n"
    text = str(
        tokenizer.hf.apply_chat_template(
            [{"role": "user", "content": MARK}],
            chat_template=tokenizer.chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )
    )
    before, _, after = text.partition(MARK)
    # What the tokenizer puts before every text by itself must not stand there twice.
    start = str(tokenizer.hf.decode(tokenizer.start_ids))
    return before.removeprefix(start), after
