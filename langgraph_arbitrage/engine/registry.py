"""One loaded model a process for the same checkpoint and settings."""

from __future__ import annotations

import atexit
import os
import threading

from langgraph_arbitrage.engine.address import address_of
from langgraph_arbitrage.engine.engine import Engine
from langgraph_arbitrage.engine.spec import ModelSpec

__all__ = ["acquire", "release"]

_lock = threading.RLock()
_engines: dict[ModelSpec, Engine] = {}
_users: dict[ModelSpec, int] = {}


def acquire(spec: ModelSpec) -> Engine:
    """The engine for a spec, made at its first user; give it back with `release`."""
    with _lock:
        engine = _engines.get(spec)
        if engine is None:
            engine = _engines[spec] = _made(spec)
        _users[spec] = _users.get(spec, 0) + 1
        return engine


def _made(spec: ModelSpec) -> Engine:
    """A local model's engine, or that of one on a server."""
    address = address_of(spec.path)
    if address is None:
        return Engine(spec)
    from langgraph_arbitrage.engine.remote_engine import RemoteEngine

    return RemoteEngine(spec, address)


def release(engine: Engine) -> None:
    """Give an engine back; the last user closes it."""
    with _lock:
        spec = engine.spec
        if _engines.get(spec) is not engine:
            return
        _users[spec] -= 1
        if _users[spec] > 0:
            return
        del _engines[spec], _users[spec]
    engine.close()


@atexit.register
def _close_all() -> None:
    """A worker that is in native code when the interpreter ends would abort the process."""
    with _lock:
        engines = list(_engines.values())
        _engines.clear()
        _users.clear()
    for engine in engines:
        engine.close()


if hasattr(os, "register_at_fork"):
    # Held over the fork, so that the child finds the tables whole. An engine in the child starts
    # a worker of its own at its first request.
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )
