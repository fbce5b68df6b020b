"""Exceptions of the package.

Each message states the invalid value, the allowed values and a way to correct the error.
"""

__all__ = [
    "AnswerTimeoutError",
    "ApprovalError",
    "ArbitrageError",
    "ChatTemplateError",
    "CheckpointError",
    "ContextLengthError",
    "DataError",
    "EngineBusyError",
    "EngineClosedError",
    "EngineError",
    "GrammarError",
    "MessageError",
    "MissingExtraError",
    "NotEnoughMemoryError",
    "OtherModelsError",
    "RequestCancelledError",
    "SettingsError",
    "ThreadError",
]


class ArbitrageError(Exception):
    """Base class of all errors that this package raises deliberately."""


class SettingsError(ArbitrageError, ValueError):
    """A setting is outside its range or incompatible with another setting."""


class MessageError(ArbitrageError, ValueError):
    """The conversation is empty, or has content that the models cannot process."""


class GrammarError(ArbitrageError, ValueError):
    """A schema or grammar cannot be compiled, is too large, or does not match the output."""


class MissingExtraError(ArbitrageError, ImportError):
    """A required optional package is not installed. The message contains the install command."""


class CheckpointError(ArbitrageError, ValueError):
    """A path or hub id is not a usable checkpoint, or its weights are not safetensors."""


class ChatTemplateError(ArbitrageError, ValueError):
    """A model has no chat template, or its template cannot render the conversation."""


class ContextLengthError(ArbitrageError, ValueError):
    """A prompt is longer than a model's context length."""


class DataError(ArbitrageError, ValueError):
    """A data file, dataset or request is missing, malformed or unsupported."""


class ThreadError(ArbitrageError, ValueError):
    """A thread, or a step of a thread, does not exist."""


class OtherModelsError(ArbitrageError, ValueError):
    """A thread's unfinished answer was written by other models than those that resume it."""


class ApprovalError(ArbitrageError, ValueError):
    """The decision that resumes a run waiting for approval is invalid."""


class NotEnoughMemoryError(ArbitrageError, MemoryError):
    """A model does not fit into the free memory of its device."""


class AnswerTimeoutError(ArbitrageError, TimeoutError):
    """An answer exceeded its `timeout` setting. Its model requests were cancelled."""


class EngineError(ArbitrageError, RuntimeError):
    """A model failed while running. The message names the model and the cause."""


class EngineBusyError(EngineError):
    """A model's queue has reached `max_queue`. The request was not started."""


class EngineClosedError(EngineError):
    """The engine was closed before the request was submitted or before it was complete."""


class RequestCancelledError(EngineError):
    """The request was cancelled by its caller."""
