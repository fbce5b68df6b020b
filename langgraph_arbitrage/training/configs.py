"""What can be set when rows are collected, a router is trained, its thresholds are found.

The texts under the fields are the command line's help too. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "CHECKER",
    "CalibrateConfig",
    "CollectConfig",
    "SurpriseConfig",
    "TokenConfig",
    "TrainConfig",
]

CHECKER = "checker"
"""What `prm` says for the exact checker of the embedded problems."""


class _Config(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")


class CollectConfig(_Config):
    """How rows are collected."""

    prm: str
    """PRM that scores the steps, a checkpoint; or `checker`, the exact checker of the embedded
    problems."""
    samples: int = Field(default=1, ge=1)
    """Steps of the target a prefix, whose scores are averaged; 1 is one greedy step."""
    margin: float = Field(default=0.0, ge=0)
    """A step of the target counts as better (y = 1) iff its advantage is above this, so that the
    PRM's noise makes no labels."""
    follow: str = "better"
    """Whose step the trajectory goes on with: `better`, the better one's (the paper's way);
    `draft`, the draft's, now and then replaced by a better one; or a router's checkpoint, whose
    choice shows the prefixes that a router meets in use."""
    replace: float = Field(default=0.5, ge=0, le=1)
    """With `draft`: how often a step is replaced where the target's is better."""
    sampled: float = Field(default=0.0, ge=0, le=1)
    """Share of the trajectories whose draft steps are sampled; the others are greedy."""
    sampling_temperature: float = Field(default=0.7, gt=0)
    """Temperature of sampled draft steps, and of target steps where there are several."""
    give_up: int = Field(default=4, ge=1)
    """A trajectory ends after so many draft steps that were taken although the target's was
    better: what follows teaches little."""
    rollouts: int = Field(default=1, ge=1)
    """Trajectories a question; the same prefix with the same draft step makes one row."""
    concurrency: int = Field(default=64, ge=1)
    """Questions under way at a time."""
    seed: int = 0
    """Seed of all that is drawn."""


class TrainConfig(_Config):
    """What the training of either head can be told."""

    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of the questions that is kept out of training, for the figures."""
    seed: int = 0
    """Seed of the split, the first weights and the order of rows."""


class SurpriseConfig(TrainConfig):
    """How a surprise head is trained: a small network on features of a frozen LM."""

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


class TokenConfig(TrainConfig):
    """How a token classifier is fine-tuned; the defaults are the paper's recipe."""

    epochs: int = Field(default=3, ge=1)
    """Passes over the rows."""
    lr: float = Field(default=1e-5, gt=0)
    """Highest learning rate of AdamW, after a linear warm-up and before a linear decay."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the updates in which the learning rate rises."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of AdamW."""
    batch: int = Field(default=1024, ge=1)
    """Rows an update, gathered over several forward passes and over all GPUs."""
    device_batch: int = Field(default=8, ge=1)
    """Rows a forward pass on each device."""
    balance: bool = True
    """Draw the larger classes down to the smallest one."""
    classes: Literal[2, 4, 10] = 2
    """Classes of the advantage: half of them above the margin, half of them not."""
    ordinal: bool = False
    """With more than two classes: a loss that grows with the distance from the right one."""
    tags: bool = True
    """Put `Model 0: ` or `Model 1: ` before each step: who wrote it. A PRM never has tags."""
    layers: int | None = Field(default=None, ge=1)
    """Keep only so many of the base's layers, the first ones."""
    lora_rank: int | None = Field(default=None, ge=1)
    """Train low-rank updates of this rank with peft, which are merged at the end, in the place of
    all weights."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Updates between two checkpoints, from which a stopped training goes on."""


class CalibrateConfig(_Config):
    """How a router is calibrated."""

    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Confidence of each bound on the loss."""
    pilot: float = Field(default=0.2, gt=0, lt=1)
    """Share of the questions, the first ones, on which the thresholds of the table are laid out;
    the figures come from the others, or else the bounds would not hold."""
    concurrency: int = Field(default=64, ge=1)
    """Questions under way at a time."""
