r"""Grade answers against references with math-verify, with a time limit per comparison.

The time limit of math-verify itself uses an alarm signal, which works on the main thread only and
does not interrupt long computations with Python integers. Comparisons therefore run in a separate
process that any thread can kill.
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
"""Result of grading an answer. `late` means that the comparison exceeded the time limit; a late
answer does not count as right."""

TIME_LIMIT = 5.0
"""Time limit of a comparison in seconds. The value is math-verify's default."""

_ROOT = Path(langgraph_arbitrage.__file__).parent.parent
START_TIMEOUT = 60.0  # seconds; importing sympy is slow on a busy machine


class Grader:
    """Compares answers in a separate process, which starts at the first comparison.

    Results are cached. Several threads may share a grader, which runs their comparisons one after
    another. After a fork, the child process starts its own grading process.

    Args:
        time_limit: Time limit of a comparison in seconds.

    Raises:
        MissingExtraError: math-verify is not installed.
        SettingsError: The limit is not positive.
    """

    def __init__(self, time_limit: float = TIME_LIMIT) -> None:
        if find_spec("math_verify") is None:
            raise MissingExtraError(
                "grading needs math-verify: pip install 'langgraph-arbitrage[eval]'"
            )
        if not time_limit > 0:
            raise SettingsError(f"time_limit must be greater than 0 seconds, not {time_limit}")
        self.time_limit = time_limit
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._cache: dict[tuple[str, str], Grade] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def grade(self, answer_text: str, reference: str) -> Grade:
        """Grade the final answer of a text."""
        answer, expected = final_text(answer_text), final_reference(reference)
        a, r = normal(answer), normal(expected)
        x, y = number_of(a), number_of(r)
        if a and a == r:
            return "right"
        if x is not None and y is not None and x == y:
            return "right"
        if not a or not r:
            return "wrong"
        key = answer, expected
        if key not in self._cache:
            equal = self._request({"answer": answer, "reference": expected})
            self._cache[key] = "late" if equal is None else "right" if equal else "wrong"
        return self._cache[key]

    def kind(self, reference: str) -> Kind:
        """Return how a reference is graded; `unreadable` if it cannot be graded."""
        kind: Kind | None = self._request({"reference": final_reference(reference)})
        return kind or "unreadable"

    def close(self) -> None:
        """Kill the grading process."""
        with self._lock:
            if self._worker is not None:
                self._worker.kill()
                self._worker = None

    def _request(self, request: dict[str, str]) -> Any:
        """Send a request to the grading process and return its response.

        If no response arrives within the time limit, kill the process and return None.
        """
        with self._lock:
            if self._worker is None or not self._worker.usable:
                self._worker = _Worker()
            response = self._worker.request(request, self.time_limit)
            if response is None:
                self._worker.kill()
                self._worker = None
            return response


class _Worker:
    """The grading process, and the thread that reads its output."""

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
        if self._line(START_TIMEOUT) != "ready\n":
            self.kill()
            raise EngineError(
                f"the grading process did not start within {START_TIMEOUT:g} seconds. Run "
                f"`{' '.join(command)}` to see its error, and check that math-verify can be "
                "imported"
            )

    @property
    def usable(self) -> bool:
        """Whether the process is alive and was started by the current process."""
        return self._owner == os.getpid() and self._process.poll() is None

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")  # end of output

    def _line(self, seconds: float) -> str:
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            return ""

    def request(self, request: dict[str, str], seconds: float) -> Any:
        """Send a request and return the response.

        Returns None if no response arrives within `seconds` or if the process has died.
        """
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            return None
        line = self._line(seconds)
        return json.loads(line) if line else None

    def kill(self) -> None:
        """Kill the process and wait until it has ended."""
        self._process.kill()
        self._process.wait()


def final_reference(reference: str) -> str:
    r"""Extract the final answer from a reference.

    It is the last `\boxed{}`, or else the text after `####`, or else the whole reference.
    """
    if "####" in reference or r"\boxed{" in reference:
        return final_text(reference)
    return reference.strip()


@cache
def _shared(time_limit: float) -> Grader:
    return Grader(time_limit)


def grade(answer_text: str, reference: str, *, time_limit: float = TIME_LIMIT) -> bool:
    r"""Return whether the final answer of a text equals a reference.

    math-verify compares the answers as mathematics. An answer is also right if it has another form
    of the same value, lists a set in another order, or lacks the unit. A comparison that exceeds
    the time limit counts as wrong; `Grader.grade` reports it as `late`.

    Args:
        answer_text: Full text of an answer. The final answer is the last `\boxed{}`, or else the
            text after `####` or "the answer is", or else the last formula or number.
        reference: Reference answer in LaTeX or plain text, optionally in a `\boxed{}` or after
            `####`.
        time_limit: Time limit of the comparison in seconds.

    Example:
        >>> from langgraph_arbitrage.evaluation import grade
        >>> grade(r"So half of it: \boxed{\frac{1}{2}}.", "0.5"), grade("That makes 12.", "21")
        (True, False)

    Raises:
        MissingExtraError: math-verify is not installed.
    """
    return _shared(time_limit).grade(answer_text, reference) == "right"
