"""The specification of a model: its checkpoint, its loading options and its request limits."""

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
    """The specification of a model. Equal specs share one engine, and so one loaded model."""

    path: str
    """Local folder, hub id, or server address (`openai:http://host:port/v1#model`)."""
    kind: Kind = "causal-lm"
    """Type of the model's head: a language model, a classifier, or a PRM head of `heads.HEADS`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    device: str = "auto"
    """Device: "cpu", "cuda", "cuda:1", "mps", or "auto" for a GPU if there is one, otherwise the
    CPU."""
    dtype: str = "auto"
    """Dtype of the weights: "float32", "bfloat16", "float16", or "auto" for float32 on a CPU and
    bfloat16 elsewhere."""
    trust_remote_code: bool = False
    """Whether to run Python code from the checkpoint. Use it only for trusted checkpoints."""
    chat_template: str | None = None
    """Jinja chat template that replaces the checkpoint's template. None: use the checkpoint's."""
    max_slots: int = 64
    """Maximum number of sequences decoded concurrently. Slots are allocated when needed."""
    max_queue: int | None = None
    """Maximum number of requests that wait for a slot. A further request that begins an answer
    raises `EngineBusyError`. None: unlimited."""
    batch_invariant: bool = False
    """Whether to run one sequence at a time, without reusing cached prefixes. The results of a
    request are then bit-identical, whatever other requests the engine receives."""
    threads: int | None = None
    """Number of threads for a forward on a CPU. None: chosen by the number of parameters and
    tokens."""
    engine: EngineName = "auto"
    """"auto" runs sequences in batches if the results agree with a plain forward, and packs the
    weights on a CPU. "eager" runs batches without packing. "plain" runs one sequence at a time."""
    cuda_graphs: bool = False
    """Whether to decode with CUDA graphs on a GPU. If a model cannot be captured, a warning is
    logged, and the model decodes eagerly."""
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
        """Name for messages: the last part of a local path, otherwise the whole `path`."""
        return Path(self.path).name if Path(self.path).exists() else self.path
