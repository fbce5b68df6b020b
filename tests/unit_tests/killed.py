"""Runs of the graph that kill themselves with SIGKILL, until one reaches the end.

`killed` starts this file as a program. Each run is a process of its own, forked from that program,
which has loaded the libraries and nothing else. It prints what happened as JSON.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from typing import Any

from langgraph_arbitrage import Random, create_arbitrage_graph

# Loaded before the forks, and not by each of them.
for part in ("models.llama.modeling_llama", "models.auto.modeling_auto", "generation"):
    importlib.import_module(f"transformers.{part}")

QUESTION = {"messages": [("user", "Ann has 3 apples and buys 4. How many has she?")]}


def killed(address: str, *, kills: int, tokens: int, temperature: float) -> dict[str, Any]:
    """What the program told: kills, answer and steps, and those of a whole run."""
    from tiny import pair

    options = {"--kills": kills, "--tokens": tokens, "--temperature": temperature}
    command = [sys.executable, __file__, address, *pair(endless=True, words=True).values()]
    done = subprocess.run(
        [*command, *(str(part) for option in options.items() for part in option)],
        env=os.environ | {"LANGGRAPH_STRICT_MSGPACK": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "msgpack" not in done.stderr.lower()
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def check(told: dict[str, Any], *, kills: int, steps: int) -> None:
    """The killed run's answer is the whole run's, which has at least so many steps."""
    whole = told["whole"]
    assert told["kills"] == kills
    assert len(whole["steps"]) >= steps
    assert {writer for writer, _ in whole["steps"]} == {"draft", "target"}
    assert told["answer"] == whole["answer"]
    assert told["steps"] == whole["steps"]
    assert told["begun"] > 0  # the last process found what those before it had stored


# --- the program -------------------------------------------------------------------------


def checkpointer(address: str) -> AbstractContextManager[Any]:
    """The saver of a Postgres address, or of an SQLite file."""
    if address.startswith("postgresql:"):
        from langgraph.checkpoint.postgres import PostgresSaver

        return PostgresSaver.from_conn_string(address)
    from langgraph.checkpoint.sqlite import SqliteSaver

    return SqliteSaver.from_conn_string(address)


def run(options: argparse.Namespace, thread: str, commits: int | None) -> dict[str, Any]:
    """Go on with the thread; die after this many committed steps."""
    config: Any = {"configurable": {"thread_id": thread}, "recursion_limit": 10_000}
    with checkpointer(options.checkpointer) as saver:
        saver.setup()
        graph = create_arbitrage_graph(
            draft=options.draft,
            target=options.target,
            router=Random(0.5, seed=7),
            separator=(".", "\n"),
            min_step_tokens=1,
            max_step_tokens=6,
            max_tokens=options.tokens,
            temperature=options.temperature,
            seed=3,
        ).compile(checkpointer=saver)
        snapshot = graph.get_state(config)
        begun = len(snapshot.values.get("steps", []))
        if snapshot.values.get("finish_reason") is None:
            start = None if snapshot.values else QUESTION
            for update in graph.stream(start, config, stream_mode="updates"):
                if commits is not None and "commit" in update:
                    commits -= 1
                    if commits == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
        values = graph.get_state(config).values
    steps = [(s["writer"], s["ids"]) for s in values["steps"]]
    return {"answer": values["messages"][-1].text, "steps": steps, "begun": begun}


def forked(options: argparse.Namespace, thread: str, commits: int | None) -> dict[str, Any] | None:
    """What the run of another process gives; None where it was killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            done = run(options, thread, commits)
            os.write(write, json.dumps(done).encode())
            os._exit(0)
        finally:  # an error is printed, and nothing of the parent runs here
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGKILL:
        return None
    if status:
        sys.exit(status)
    found: dict[str, Any] = json.loads(told)
    return found


def main() -> None:
    """Kill and resume one thread, and run another one undisturbed."""
    parser = argparse.ArgumentParser()
    for name in ("checkpointer", "draft", "target"):
        parser.add_argument(name)
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--temperature", type=float, default=0.0)
    options = parser.parse_args()
    drawn = random.Random(0)
    times, answer = 0, None
    while answer is None:
        dies = times < options.kills
        answer = forked(options, "killed", drawn.randint(1, 4) if dies else None)
        times += answer is None
    told = {"kills": times, **answer, "whole": forked(options, "whole", None)}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
