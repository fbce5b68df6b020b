"""Locks that outlive a fork: a forked child has one thread, and nobody to free what others held."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from weakref import WeakSet

__all__ = ["ForkLock"]

_locks: WeakSet[ForkLock] = WeakSet()
_making = threading.Lock()


class ForkLock:
    """A re-entrant lock that a forked child finds free."""

    def __init__(self) -> None:
        self.renew()
        with _making:
            _locks.add(self)

    def renew(self) -> None:
        """Free it, whoever holds it."""
        self._lock = threading.RLock()

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take it; False where it does not wait and another thread has it."""
        return self._lock.acquire(blocking)

    def release(self) -> None:
        """Give it back."""
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


def _renew_all() -> None:
    _making.release()
    for lock in _locks:
        lock.renew()


if hasattr(os, "register_at_fork"):
    # Held over the fork, so that the child finds the set whole.
    os.register_at_fork(
        before=_making.acquire, after_in_parent=_making.release, after_in_child=_renew_all
    )
