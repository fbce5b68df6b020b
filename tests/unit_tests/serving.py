"""A real server on loopback, in a thread of the test's process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from langgraph_arbitrage.serve import ServeSettings
from langgraph_arbitrage.serve.app import create_app

__all__ = ["Served", "served"]


class Served:
    """A server that runs, and how to stop it."""

    def __init__(self, app: Any, port: int = 0, grace: int = 10) -> None:
        door = socket.create_server(("127.0.0.1", port))
        self.port = door.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=grace)
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [door]})
        self._thread.start()
        while not self.server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)

    def stop(self, *, wait: bool = True, at_once: bool = False) -> None:
        """As SIGTERM does; or at once, in the middle of what it says."""
        if at_once:
            self.server.config.timeout_graceful_shutdown = 0
        self.server.should_exit = True
        if wait:
            self._thread.join()


@contextmanager
def served(llm: Any, *, port: int = 0, **settings: Any) -> Iterator[Served]:
    """Serve a chat model for as long as the block lasts."""
    found = Served(create_app(llm, ServeSettings(**settings)), port)
    try:
        yield found
    finally:
        found.stop()
