"""How often agents come to the right end: draft only, target only, arbitraged.

    python benchmarks/agents.py --tasks 60

Tasks are held out: tools, arguments and words have names that occur nowhere in the training text.
A task is done iff the agent made exactly the calls that were asked for and gave the right final
answer: as text, or, in every third task, as a structured response. Agents are run by turns with
`invoke`, `ainvoke` and `astream`. Results go to benchmarks/results/agents.{json,md}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import StructuredTool

from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage, Policy
from langgraph_arbitrage.embedded.make.chats import ChatGenerator

RESULTS = Path(__file__).parent / "results"
WAYS = ("invoke", "ainvoke", "astream")
MAX_TOKENS = 200
RECURSION_LIMIT = 12  # an agent that goes on calling is stopped, and has failed


@dataclass
class Task:
    """A request, the tools for it, the calls that it asks for, and the right end."""

    request: str
    tools: list[dict[str, Any]]
    calls: list[tuple[str, dict[str, Any]]]
    results: list[str]
    answer: str | dict[str, Any]
    schema: dict[str, Any] | None = None
    made: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def offered(self) -> list[StructuredTool]:
        """The tools; each notes its calls and gives the result that belongs to them."""
        return [self._tool(tool["function"]) for tool in self.tools]

    def _tool(self, function: dict[str, Any]) -> StructuredTool:
        name = function["name"]

        def run(**arguments: Any) -> str:
            self.made.append((name, arguments))
            wanted = dict(enumerate(self.calls))
            found = [i for i, call in wanted.items() if call == (name, arguments)]
            return self.results[found[0]] if found else "unknown"

        return StructuredTool(
            name=name,
            description=function["description"] or name,
            args_schema=function["parameters"],
            func=run,
        )

    def done(self, state: dict[str, Any]) -> bool:
        """Whether the calls and the end are right."""
        messages: Sequence[BaseMessage] = state["messages"]
        if self.schema is not None:
            right = state.get("structured_response") == self.answer
        else:
            right = isinstance(messages[-1], AIMessage) and messages[-1].text == self.answer
        return right and sorted(map(str, self.made)) == sorted(map(str, self.calls))


def tasks(count: int, seed: int) -> list[Task]:
    """Held-out tasks; every third wants a structured response."""
    writer = ChatGenerator(random.Random(f"agents {seed}"), held_out=True)
    found: list[Task] = []
    while len(found) < count:
        structured = len(found) % 3 == 2
        messages, tools = writer.report() if structured else writer.tool_use()
        users = [m for m in messages if m["role"] == "user"]
        calls = [c["function"] for m in messages for c in m.get("tool_calls", ())]
        final = messages[-1]["content"]
        if len(users) != 1 or not calls or not final:
            continue
        schema = None
        if structured:
            _, brace, rest = messages[0]["content"].partition("{")
            schema = json.loads(brace + rest)
            schema |= {"title": "Report", "required": list(schema["properties"])}
        found.append(
            Task(
                request=users[0]["content"],
                tools=tools,
                calls=[(c["name"], c["arguments"]) for c in calls],
                results=[m["content"] for m in messages if m["role"] == "tool"],
                answer=json.loads(final) if structured else final,
                schema=schema,
            )
        )
    return found


def run(task: Task, llm: ChatArbitrage, way: str) -> tuple[bool, str]:
    """Whether an agent does the task, and what stopped it, if anything did."""
    task.made.clear()
    asked = {"messages": [("user", task.request)]}
    limit: Any = {"recursion_limit": RECURSION_LIMIT}
    try:
        agent = create_agent(llm, task.offered(), response_format=task.schema)
        if way == "invoke":
            return task.done(agent.invoke(asked, limit)), ""
        if way == "ainvoke":
            return task.done(asyncio.run(agent.ainvoke(asked, limit))), ""
        return task.done(asyncio.run(_streamed(agent, asked, limit))), ""
    except Exception as error:
        return False, type(error).__name__


async def _streamed(agent: Any, asked: Any, limit: Any) -> dict[str, Any]:
    states = [state async for state in agent.astream(asked, limit, stream_mode="values")]
    return states[-1]


def measure(found: list[Task], policy: Policy | None) -> dict[str, Any]:
    """Success rate and figures of one policy."""
    llm = ChatArbitrage(router=policy, max_tokens=MAX_TOKENS)
    llm.invoke("Hello")  # loads the models
    start = time.perf_counter()
    outcomes = [run(task, llm, WAYS[i % len(WAYS)]) for i, task in enumerate(found)]
    seconds = time.perf_counter() - start
    llm.close()
    kinds = {kind: [] for kind in ("plain", "structured", *WAYS)}
    for i, (task, (ok, _)) in enumerate(zip(found, outcomes, strict=True)):
        kinds["structured" if task.schema else "plain"].append(ok)
        kinds[WAYS[i % len(WAYS)]].append(ok)
    stopped = [name for _, name in outcomes if name]
    return {
        "tasks": len(found),
        "done": sum(ok for ok, _ in outcomes),
        "by_kind": {kind: f"{sum(oks)}/{len(oks)}" for kind, oks in kinds.items()},
        "seconds_per_task": round(seconds / len(found), 3),
        "errors": {name: stopped.count(name) for name in sorted(set(stopped))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    found = tasks(given.tasks, given.seed)
    policies: dict[str, Policy | None] = {
        "draft only": AlwaysDraft(),
        "target only": AlwaysTarget(),
        "arbitraged": None,
    }
    results = {}
    lines = ["| | done | plain | structured | s a task | stopped by |", "|---|---|---|---|---|---|"]
    for name, policy in policies.items():
        r = results[name] = measure(found, policy)
        kinds, share = r["by_kind"], f"{r['done'] / r['tasks']:.0%} ({r['done']}/{r['tasks']})"
        stopped = ", ".join(f"{k} {n}" for k, n in r["errors"].items()) or "–"
        figures = (name, share, kinds["plain"], kinds["structured"], r["seconds_per_task"], stopped)
        lines.append("| " + " | ".join(map(str, figures)) + " |")
        print(lines[-1], flush=True)
    given.output.mkdir(exist_ok=True)
    (given.output / "agents.json").write_text(json.dumps(results, indent=2) + "\n")
    title = f"# Agents\n\n{given.tasks} held-out tasks, seed {given.seed}, with `create_agent`.\n\n"
    (given.output / "agents.md").write_text(title + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
