"""The server process: listens, answers, and finishes running answers when it is stopped."""

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

__all__ = ["bind_socket", "serve"]

KEEP_ALIVE_SECONDS = 75
"""Time for which idle connections are kept open. It must exceed the 5 seconds of httpx, and so of
the OpenAI client: a request that arrives while the server closes the connection is lost."""


def bind_socket(settings: ServeSettings) -> socket.socket:
    """Open a socket on the host and port.

    Raises:
        SettingsError: The port is in use, or the host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        address = f"{settings.host}:{settings.port}"
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"{address} is in use by another program. Choose another --port, or 0 for a free "
                "one"
            ) from None
        raise SettingsError(f"cannot listen on {address}: {error.strerror or error}") from None


def serve(
    llm: ChatArbitrage,
    settings: ServeSettings,
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until the process receives SIGINT or SIGTERM.

    The server then accepts no further connections and waits up to `grace` seconds for the answers
    in progress.

    Args:
        llm: Chat model that answers. It is closed at the end.
        settings: Address, API key and limits.
        on_ready: Called with the base URL once the port is open.

    Raises:
        SettingsError: The address cannot be listened on.
    """
    listener = bind_socket(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    config = uvicorn.Config(
        create_app(llm, settings),
        log_level="warning",
        timeout_graceful_shutdown=math.ceil(settings.grace),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    on_ready(f"http://{host}:{listener.getsockname()[1]}/v1")
    uvicorn.Server(config).run(sockets=[listener])
