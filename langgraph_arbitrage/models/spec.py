"""Which model, how it is loaded, and how much it may hold at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from langgraph_arbitrage.errors import SettingsError

__all__ = ["EngineName", "Kind", "ModelSpec"]

Kind = Literal[
    "causal-lm",
    "sequence-classification",
    "token-classification",
    "value-head",
    "process-reward",
]

EngineName = Literal["auto", "eager", "plain"]
ENGINES = get_args(EngineName)
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelSpec:
    """Everything that makes two loaded models the same one."""

    path: str
    """Local folder or hub id."""
    kind: Kind = "causal-lm"
    """What sits on the model: a language head, a classifier's, or one of `heads`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    device: str = "auto"
    """"auto" takes the GPU when there is one, else the CPU; or "cpu", "cuda", "cuda:1", "mps"."""
    dtype: str = "auto"
    """"auto" is float32 on the CPU and bfloat16 on a GPU; or float32, bfloat16, float16."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. Off: such code can do anything."""
    chat_template: str | None = None
    """Jinja chat template for a checkpoint that has none of its own."""
    max_slots: int = 64
    """Most sequences decoded at a time; slots are allocated as they are needed."""
    max_queue: int | None = None
    """Most requests that wait for a slot; one more is refused. None: all wait."""
    batch_invariant: bool = False
    """Feed one sequence at a time, each read from its start: exact, whatever else is asked."""
    threads: int | None = None
    """Compute threads of a forward on a CPU; None chooses by the model and the batch."""
    engine: EngineName = "auto"
    """"auto" runs sequences in batches where that agrees with a plain forward, and packs the
    weights on a CPU; "eager" does not pack; "plain" runs one sequence at a time."""
    cuda_graphs: bool = False
    """Decode by CUDA graphs on a GPU, with a warning where the model cannot be captured."""
    model_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further arguments of `from_pretrained`, such as a quantization config."""

    def __post_init__(self) -> None:
        if not self.path or not isinstance(self.path, str):
            raise SettingsError(f"a model is a local folder or a hub id, not {self.path!r}")
        if self.dtype not in DTYPES:
            raise SettingsError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if self.engine not in ENGINES:
            raise SettingsError(f"engine {self.engine!r} is not one of {', '.join(ENGINES)}")
        if self.max_slots < 1:
            raise SettingsError(f"max_slots must be at least 1, not {self.max_slots}")
        if self.max_queue is not None and self.max_queue < 0:
            raise SettingsError(f"max_queue must be at least 0, not {self.max_queue}")

    @property
    def name(self) -> str:
        """A short name for messages: the hub id, or the folder's last part."""
        return Path(self.path).name if Path(self.path).exists() else self.path
