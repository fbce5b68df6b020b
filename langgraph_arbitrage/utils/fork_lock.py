"""A lock that is unlocked in forked child processes.

A forked child has only the thread that called fork. A plain lock that another thread held at that
moment would stay locked in the child forever.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from weakref import WeakSet

__all__ = ["ForkLock"]

_locks: WeakSet[ForkLock] = WeakSet()
_registry_lock = threading.Lock()


class ForkLock:
    """A re-entrant lock that is unlocked in every forked child process."""

    def __init__(self) -> None:
        self.reset()
        with _registry_lock:
            _locks.add(self)

    def reset(self) -> None:
        """Unlock the lock, even if another thread holds it."""
        self._lock = threading.RLock()

    def acquire(self, *, blocking: bool = True) -> bool:
        """Acquire the lock. With `blocking=False`, return False if another thread holds it."""
        return self._lock.acquire(blocking)

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()


def _reset_all() -> None:
    _registry_lock.release()
    for lock in _locks:
        lock.reset()


if hasattr(os, "register_at_fork"):
    # Hold the registry lock during the fork. Otherwise the child could inherit `_locks` while
    # another thread is modifying it.
    os.register_at_fork(
        before=_registry_lock.acquire,
        after_in_parent=_registry_lock.release,
        after_in_child=_reset_all,
    )
