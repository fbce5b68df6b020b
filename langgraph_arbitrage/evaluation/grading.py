r"""Grades answers against references, by math-verify, each within a time limit.

math-verify's own limit is an alarm signal: it works on the main thread alone, and does not reach
into a long calculation of Python's integers. So the comparison runs in a process of its own, which
is ended when it is late, from any thread.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import langgraph_arbitrage
from langgraph_arbitrage.errors import EngineError, MissingExtraError, SettingsError
from langgraph_arbitrage.evaluation.final import final_text
from langgraph_arbitrage.evaluation.notation import normal, number_of

if TYPE_CHECKING:
    from langgraph_arbitrage.evaluation.equality import Kind

__all__ = ["TIME_LIMIT", "Grade", "Grader", "grade"]

Grade = Literal["right", "wrong", "late"]
"""`late`: the time limit passed before it was known; it does not count as right."""

TIME_LIMIT = 5.0
"""Seconds for one comparison; math-verify's own default."""

_ROOT = Path(langgraph_arbitrage.__file__).parent.parent
START = 60.0  # seconds for the process to import sympy on a busy machine


class Grader:
    """Compares answers in a process of its own, which starts at the first need.

    The same comparison is made once. Usable from several threads, one at a time; after a fork the
    child starts a process of its own.

    Args:
        time_limit: Seconds for one comparison.

    Raises:
        MissingExtraError: math-verify is not installed.
        SettingsError: The limit is not above 0.
    """

    def __init__(self, time_limit: float = TIME_LIMIT) -> None:
        if find_spec("math_verify") is None:
            raise MissingExtraError(
                "grading needs math-verify: pip install 'langgraph-arbitrage[eval]'"
            )
        if not time_limit > 0:
            raise SettingsError(f"time_limit must be above 0 seconds, not {time_limit}")
        self.time_limit = time_limit
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._known: dict[tuple[str, str], Grade] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def grade(self, answer_text: str, reference: str) -> Grade:
        """Whether the final answer in a text equals the reference."""
        answer, right = final_text(answer_text), final_reference(reference)
        a, r = normal(answer), normal(right)
        x, y = number_of(a), number_of(r)
        if a and a == r:
            return "right"
        if x is not None and y is not None and x == y:
            return "right"
        if not a or not r:
            return "wrong"
        key = answer, right
        if key not in self._known:
            found = self._ask({"answer": answer, "reference": right})
            self._known[key] = "late" if found is None else "right" if found else "wrong"
        return self._known[key]

    def kind(self, reference: str) -> Kind:
        """What a reference is graded as; `unreadable` where it cannot be."""
        found: Kind | None = self._ask({"reference": final_reference(reference)})
        return found or "unreadable"

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._worker is not None:
                self._worker.end()
                self._worker = None

    def _ask(self, asked: dict[str, str]) -> Any:
        """What the process says; None when it is late."""
        with self._lock:
            if self._worker is None or not self._worker.here:
                self._worker = _Worker()
            found = self._worker.ask(asked, self.time_limit)
            if found is None:
                self._worker.end()
                self._worker = None
            return found


class _Worker:
    """The process, and the thread that reads its lines."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        paths = (str(_ROOT), os.environ.get("PYTHONPATH"))
        command = [sys.executable, "-m", "langgraph_arbitrage.evaluation.worker"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="grading", daemon=True).start()
        if self._line(START) != "ready\n":
            self.end()
            raise EngineError(
                "the grading process did not start: see what "
                f"`{' '.join(command)}` says, and whether math-verify can be imported"
            )

    @property
    def here(self) -> bool:
        """Whether it is this process's own, and alive."""
        return self._owner == os.getpid() and self._process.poll() is None

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _line(self, seconds: float) -> str:
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            return ""

    def ask(self, asked: dict[str, str], seconds: float) -> Any:
        """The answer to a line; None when it is late or the process has died of it."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        except OSError:
            return None
        line = self._line(seconds)
        return json.loads(line) if line else None

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()


def final_reference(reference: str) -> str:
    r"""A reference as data sets give it: alone, in a `\boxed{}`, or after `####`."""
    if "####" in reference or r"\boxed{" in reference:
        return final_text(reference)
    return reference.strip()


@cache
def _shared(time_limit: float) -> Grader:
    return Grader(time_limit)


def grade(answer_text: str, reference: str, *, time_limit: float = TIME_LIMIT) -> bool:
    r"""Whether the final answer in a text is the right one.

    Compared as mathematics by math-verify: another form of the same value, a set in another order
    or a missing unit is right. What a comparison does not show in time counts as wrong. For
    many answers, `Grader` also tells which those are.

    Args:
        answer_text: An answer, whole: the last `\boxed{}`, what follows `####` or "the answer is",
            else the last formula or number counts.
        reference: The right answer, in LaTeX or plain, alone, in a `\boxed{}` or after `####`.
        time_limit: Seconds.

    Example:
        >>> from langgraph_arbitrage.evaluation import grade
        >>> grade(r"So half of it: \boxed{\frac{1}{2}}.", "0.5"), grade("That makes 12.", "21")
        (True, False)

    Raises:
        MissingExtraError: math-verify is not installed.
    """
    return _shared(time_limit).grade(answer_text, reference) == "right"
