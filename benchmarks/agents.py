"""Measure the success rate of agents with the draft only, the target only and the loop.

    python benchmarks/agents.py --tasks 60

Tasks are held out: their tools, arguments and words do not occur in the training text. A task
succeeds iff the agent makes exactly the expected tool calls and gives the right final answer. Every
third task requires a structured response, the others a text. Agents alternate between `invoke`,
`ainvoke` and `astream`. Results are written to benchmarks/results/agents.{json,md}.
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

from common import RESULTS
from langgraph_arbitrage import AlwaysDraft, AlwaysTarget, ChatArbitrage, Policy
from langgraph_arbitrage.embedded.make.chats import ChatGenerator

METHODS = ("invoke", "ainvoke", "astream")
MAX_TOKENS = 200
RECURSION_LIMIT = 12
"""Limit of graph steps. An agent that exceeds it has failed."""


@dataclass
class Task:
    """A request with its tools, the expected calls and results, and the right answer."""

    request: str
    tools: list[dict[str, Any]]
    calls: list[tuple[str, dict[str, Any]]]
    results: list[str]
    answer: str | dict[str, Any]
    schema: dict[str, Any] | None = None
    made: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Calls that the agent made."""

    def structured_tools(self) -> list[StructuredTool]:
        """Return the tools. A tool records its calls and returns the expected result."""
        return [self._tool(tool["function"]) for tool in self.tools]

    def _tool(self, function: dict[str, Any]) -> StructuredTool:
        name = function["name"]

        def run(**arguments: Any) -> str:
            self.made.append((name, arguments))
            matches = [i for i, call in enumerate(self.calls) if call == (name, arguments)]
            return self.results[matches[0]] if matches else "unknown"

        return StructuredTool(
            name=name,
            description=function["description"] or name,
            args_schema=function["parameters"],
            func=run,
        )

    def succeeded(self, state: dict[str, Any]) -> bool:
        """Return whether calls and final answer are right."""
        messages: Sequence[BaseMessage] = state["messages"]
        if self.schema is not None:
            right = state.get("structured_response") == self.answer
        else:
            right = isinstance(messages[-1], AIMessage) and messages[-1].text == self.answer
        return right and sorted(map(str, self.made)) == sorted(map(str, self.calls))


def generate_tasks(count: int, seed: int) -> list[Task]:
    """Generate held-out tasks. Every third requires a structured response."""
    writer = ChatGenerator(random.Random(f"agents {seed}"), held_out=True)
    generated: list[Task] = []
    while len(generated) < count:
        structured = len(generated) % 3 == 2
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
        generated.append(
            Task(
                request=users[0]["content"],
                tools=tools,
                calls=[(c["name"], c["arguments"]) for c in calls],
                results=[m["content"] for m in messages if m["role"] == "tool"],
                answer=json.loads(final) if structured else final,
                schema=schema,
            )
        )
    return generated


def run(task: Task, llm: ChatArbitrage, method: str) -> tuple[bool, str]:
    """Run an agent. Return whether it succeeded, and the name of the error if one occurred."""
    task.made.clear()
    inputs = {"messages": [("user", task.request)]}
    limit: Any = {"recursion_limit": RECURSION_LIMIT}
    try:
        agent = create_agent(llm, task.structured_tools(), response_format=task.schema)
        if method == "invoke":
            return task.succeeded(agent.invoke(inputs, limit)), ""
        if method == "ainvoke":
            return task.succeeded(asyncio.run(agent.ainvoke(inputs, limit))), ""
        return task.succeeded(asyncio.run(_stream(agent, inputs, limit))), ""
    except Exception as error:
        return False, type(error).__name__


async def _stream(agent: Any, inputs: Any, limit: Any) -> dict[str, Any]:
    states = [state async for state in agent.astream(inputs, limit, stream_mode="values")]
    return states[-1]


def measure(tasks: list[Task], policy: Policy | None) -> dict[str, Any]:
    """Measure success rate and time with one policy."""
    llm = ChatArbitrage(router=policy, max_tokens=MAX_TOKENS)
    llm.invoke("Hello")  # loads the models
    start = time.perf_counter()
    outcomes = [run(task, llm, METHODS[i % len(METHODS)]) for i, task in enumerate(tasks)]
    seconds = time.perf_counter() - start
    llm.close()
    kinds = {kind: [] for kind in ("plain", "structured", *METHODS)}
    for i, (task, (ok, _)) in enumerate(zip(tasks, outcomes, strict=True)):
        kinds["structured" if task.schema else "plain"].append(ok)
        kinds[METHODS[i % len(METHODS)]].append(ok)
    errors = [name for _, name in outcomes if name]
    return {
        "tasks": len(tasks),
        "done": sum(ok for ok, _ in outcomes),
        "by_kind": {kind: f"{sum(oks)}/{len(oks)}" for kind, oks in kinds.items()},
        "seconds_per_task": round(seconds / len(tasks), 3),
        "errors": {name: errors.count(name) for name in sorted(set(errors))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    held_out = generate_tasks(options.tasks, options.seed)
    policies: dict[str, Policy | None] = {
        "draft only": AlwaysDraft(),
        "target only": AlwaysTarget(),
        "arbitraged": None,
    }
    results = {}
    lines = [
        "| | succeeded | text | structured | s per task | errors |",
        "|---|---|---|---|---|---|",
    ]
    for name, policy in policies.items():
        r = results[name] = measure(held_out, policy)
        kinds, share = r["by_kind"], f"{r['done'] / r['tasks']:.0%} ({r['done']}/{r['tasks']})"
        errors = ", ".join(f"{k} {n}" for k, n in r["errors"].items()) or "–"
        cells = (name, share, kinds["plain"], kinds["structured"], r["seconds_per_task"], errors)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        print(lines[-1], flush=True)
    options.output.mkdir(exist_ok=True)
    (options.output / "agents.json").write_text(json.dumps(results, indent=2) + "\n")
    title = (
        f"# Agents\n\n{options.tasks} held-out tasks, seed {options.seed}, with `create_agent`.\n\n"
    )
    (options.output / "agents.md").write_text(title + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
