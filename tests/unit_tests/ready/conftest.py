"""A pair of tiny models, and what is asked of a chat model, heard by its callbacks."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler

from spies import loads

__all__ = ["loads"]


class Heard(BaseCallbackHandler):
    """Conversations that a chat model was asked, and how many it had under way at most."""

    run_inline = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answered = 0
        self.most = 0
        self._lock = threading.Lock()

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        with self._lock:
            self.asked.append(messages[0][-1].text)
            self.most = max(self.most, len(self.asked) - self.answered)

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        with self._lock:
            self.answered += 1

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        with self._lock:
            self.answered += 1


@pytest.fixture
def heard() -> Heard:
    return Heard()
