"""The grading process: reads a JSON request per line and writes a JSON response per line.

The parent process kills this process if a response is late.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys

from langgraph_arbitrage.evaluation.equality import equal, kind_of

__all__ = ["main"]

MEMORY = 4 << 30
"""Maximum address space of the process in bytes. Without a limit, some expressions would use all
memory of the machine."""


def main() -> None:
    """Serve requests until the input ends."""
    logging.disable(logging.CRITICAL)
    # Not every platform supports `resource` or this limit.
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    sys.stdout = sys.stderr  # libraries that print must not corrupt the responses
    out.write("ready\n")
    out.flush()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "answer" in request:
                response: object = equal(request["answer"], request["reference"])
            else:
                response = kind_of(request["reference"])
        except (Exception, RecursionError, MemoryError):  # sympy raises errors of any kind
            response = False if "answer" in request else "unreadable"
        out.write(json.dumps(response) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
