"""The specification of a model: the checkpoint, how to load it, and how many requests it serves."""

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
    """Identifies a loaded model. Users with equal specs share one engine."""

    path: str
    """Local folder, hub id, or server address (`openai:http://host:port/v1#model`)."""
    kind: Kind = "causal-lm"
    """Head of the model: a language model head, a classification head, or one of `heads.HEADS`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    device: str = "auto"
    """"auto" uses a GPU if there is one, otherwise the CPU. Or "cpu", "cuda", "cuda:1", "mps"."""
    dtype: str = "auto"
    """"auto" is float32 on a CPU and bfloat16 on a GPU. Or "float32", "bfloat16", "float16"."""
    trust_remote_code: bool = False
    """Run Python code in the checkpoint. Only enable this for checkpoints that you trust."""
    chat_template: str | None = None
    """Jinja chat template, which replaces the checkpoint's own template."""
    max_slots: int = 64
    """Maximum number of sequences decoded concurrently. Slots are allocated when needed."""
    max_queue: int | None = None
    """Maximum number of requests that wait for a slot. Further requests are refused. None:
    unlimited."""
    batch_invariant: bool = False
    """Run one sequence at a time, without reusing cached prefixes. Results are then bit-identical,
    regardless of other requests."""
    threads: int | None = None
    """Number of threads for a forward on a CPU. None: chosen by the size of model and batch."""
    engine: EngineName = "auto"
    """"auto" runs batches if their results agree with a plain forward, and packs the weights on a
    CPU. "eager" does the same without packing. "plain" runs one sequence at a time."""
    cuda_graphs: bool = False
    """Decode with CUDA graphs on a GPU. If the model cannot be captured, a warning says why."""
    model_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further arguments of `from_pretrained`, such as `quantization_config`."""

    def __post_init__(self) -> None:
        if not self.path or not isinstance(self.path, str):
            raise SettingsError(
                f"{self.path!r} is not a model. Give a local folder, a hub id or a server address."
            )
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
        """Short name for messages: the path, or only its last part for a local folder."""
        return Path(self.path).name if Path(self.path).exists() else self.path
