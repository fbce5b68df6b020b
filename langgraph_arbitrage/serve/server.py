"""The server: listens, answers, and when it is told to stop lets running answers finish."""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn

from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.serve.app import create_app
from langgraph_arbitrage.serve.settings import ServeSettings

if TYPE_CHECKING:
    from langgraph_arbitrage.chat_model import ChatArbitrage

__all__ = ["listening", "serve"]

# Seconds that an idle connection is kept. Clients keep theirs for 5 (httpx, and so openai): who
# closes at the same time as a client asks breaks the request.
KEEP_ALIVE = 75


def listening(settings: ServeSettings) -> socket.socket:
    """A socket on the host and port.

    Raises:
        SettingsError: The port is in use, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"{where} is in use by another program: choose another --port, or 0 for any"
            ) from None
        raise SettingsError(f"{where} cannot be listened on: {error.strerror or error}") from None


def serve(
    llm: ChatArbitrage,
    settings: ServeSettings,
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until the process is told to stop (SIGINT or SIGTERM).

    Then no more connections are taken, and running answers have `grace` seconds to finish.

    Args:
        llm: Who answers; its models are given back at the end.
        settings: Where, and how much.
        on_ready: Called with the base URL once the port is open.

    Raises:
        SettingsError: The address cannot be listened on.
    """
    door = listening(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    config = uvicorn.Config(
        create_app(llm, settings),
        log_level="warning",
        timeout_graceful_shutdown=math.ceil(settings.grace),
        timeout_keep_alive=KEEP_ALIVE,
    )
    on_ready(f"http://{host}:{door.getsockname()[1]}/v1")
    uvicorn.Server(config).run(sockets=[door])
