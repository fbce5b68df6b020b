"""Errors that a caller can act on: what arrived, what is allowed, what to do next."""

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
    """Base of every error that this package raises on purpose."""


class SettingsError(ArbitrageError, ValueError):
    """A setting is outside its range or does not fit another one."""


class MessageError(ArbitrageError, ValueError):
    """The conversation cannot be answered: it is empty or holds what no model here can read."""


class GrammarError(ArbitrageError, ValueError):
    """A schema or grammar cannot be compiled, is too large, or does not fit what is written."""


class MissingExtraError(ArbitrageError, ImportError):
    """Something was asked for that needs an extra of this package; the message installs it."""


class CheckpointError(ArbitrageError, ValueError):
    """A path or hub id is no usable checkpoint, or its weights are not safetensors."""


class ChatTemplateError(ArbitrageError, ValueError):
    """A model has no chat template, or its template cannot render this conversation."""


class ContextLengthError(ArbitrageError, ValueError):
    """A prompt is longer than a model's context."""


class DataError(ArbitrageError, ValueError):
    """Questions or training rows are missing, or are not what they should be."""


class ThreadError(ArbitrageError, ValueError):
    """There is no such thread, or no such step in it."""


class OtherModelsError(ArbitrageError, ValueError):
    """A checkpoint was written by other models than those that are to go on with it."""


class ApprovalError(ArbitrageError, ValueError):
    """A run that waits for a human was resumed with an answer that is none."""


class NotEnoughMemoryError(ArbitrageError, MemoryError):
    """A model does not fit the free memory of its device."""


class AnswerTimeoutError(ArbitrageError, TimeoutError):
    """An answer was not there within its `timeout`; the models no longer work on it."""


class EngineError(ArbitrageError, RuntimeError):
    """A model failed while it ran; the message names the model and the cause."""


class EngineBusyError(EngineError):
    """More answers wait for a model than `max_queue` allows; nothing was begun."""


class EngineClosedError(EngineError):
    """The engine was closed while a request waited, or before it was made."""


class RequestCancelledError(EngineError):
    """The request was cancelled by its caller."""
