"""Options for collecting rows, training routers and PRMs, and calibrating thresholds.

The docstrings under the fields are also the command line's help. This module does not import torch.
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
"""Value of `prm` that selects the exact checker of the embedded problems."""


class _Config(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")


class CollectConfig(_Config):
    """Options for collecting rows."""

    prm: str
    """PRM that scores the steps: a checkpoint, or `checker` for the exact checker of the embedded
    problems."""
    samples: int = Field(default=1, ge=1)
    """Number of target steps per prefix. Their scores are averaged. A single step is decoded
    greedily; several steps are sampled."""
    margin: float = Field(default=0.0, ge=0)
    """Advantage above which the target's step counts as better (y = 1). A margin above the PRM's
    noise level keeps that noise out of the labels."""
    follow: str = "better"
    """How a trajectory continues: `better` appends the better step (the paper's procedure); `draft`
    appends the draft's step, or sometimes the target's step if it is better; the checkpoint of a
    router lets that router choose, so that the rows have the prefixes that it produces in use."""
    replace: float = Field(default=0.5, ge=0, le=1)
    """With `--follow draft`: probability of appending the target's step if it is better."""
    sampled: float = Field(default=0.0, ge=0, le=1)
    """Share of the trajectories whose draft steps are sampled. In all other trajectories, draft
    steps are decoded greedily."""
    sampling_temperature: float = Field(default=0.7, gt=0)
    """Temperature of sampled draft steps, and of target steps if there are several per prefix."""
    give_up: int = Field(default=4, ge=1)
    """Number of kept draft steps worse than the target's step after which a trajectory ends,
    because its later steps teach little."""
    rollouts: int = Field(default=1, ge=1)
    """Number of trajectories per question. If the same draft step follows the same prefix in
    several trajectories, only the first one yields a row."""
    concurrency: int = Field(default=64, ge=1)
    """Maximum number of questions processed concurrently."""
    seed: int = 0
    """Seed of all random choices."""


class TrainConfig(_Config):
    """Training options that both heads share."""

    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of the questions that are held out of training, to measure the metrics on them."""
    seed: int = 0
    """Seed of the train/held-out split, the initial weights and the order of the rows."""


class SurpriseConfig(TrainConfig):
    """Options for training a surprise head: a small network on features of a frozen LM."""

    units: int = Field(default=64, ge=1)
    """Number of GELU units in the hidden layer."""
    epochs: int = Field(default=40, ge=1)
    """Number of passes over the rows."""
    lr: float = Field(default=2e-3, gt=0)
    """Initial learning rate of AdamW; it decays to 0 along a cosine."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of AdamW."""
    batch: int = Field(default=256, ge=1)
    """Number of rows per optimizer update."""
    balance: bool = False
    """Downsample the larger class to the size of the smaller one. Without balancing, all rows are
    used, but most scores are near the share of class 1."""


class TokenConfig(TrainConfig):
    """Options for fine-tuning a token classifier. The defaults are the paper's recipe."""

    epochs: int = Field(default=3, ge=1)
    """Number of passes over the rows."""
    lr: float = Field(default=1e-5, gt=0)
    """Peak learning rate of AdamW, between a linear warm-up and a linear decay."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the updates used for the learning-rate warm-up."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of AdamW."""
    batch: int = Field(default=1024, ge=1)
    """Number of rows per optimizer update, accumulated over forward passes and all GPUs."""
    device_batch: int = Field(default=8, ge=1)
    """Number of rows per forward pass on each device."""
    balance: bool = True
    """Downsample the larger classes to the size of the smallest one."""
    classes: Literal[2, 4, 10] = 2
    """Number of classes into which the advantages are divided. Half of the classes lie above the
    margin."""
    ordinal: bool = False
    """Use an ordinal loss, which grows with the distance from the correct class. It differs from
    the default loss only with more than two classes."""
    tags: bool = True
    """Prefix each step with its writer, as `Model 0: ` or `Model 1: `. PRMs are never tagged."""
    layers: int | None = Field(default=None, ge=1)
    """Number of layers of the base model to keep, starting with the first layer. Default: all."""
    lora_rank: int | None = Field(default=None, ge=1)
    """Train LoRA updates of this rank with peft instead of all weights. The updates are merged into
    the weights at the end."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Number of updates between checkpoints. An interrupted training resumes from the last
    checkpoint."""


class CalibrateConfig(_Config):
    """Options for calibrating a router."""

    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Confidence level of each bound on the loss."""
    pilot: float = Field(default=0.2, gt=0, lt=1)
    """Share of the questions, taken from the start, that are used only to choose the table's
    thresholds. The statistics are measured on the other questions, because the bounds hold only for
    thresholds that do not depend on the measured questions."""
    concurrency: int = Field(default=64, ge=1)
    """Maximum number of questions processed concurrently."""
