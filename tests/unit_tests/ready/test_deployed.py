"""`langgraph.json`: what it names can be imported, and LangGraph's own server runs it."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph.state import CompiledStateGraph

from langgraph_arbitrage import embedded
from langgraph_arbitrage.errors import SettingsError
from langgraph_arbitrage.graphs import deployed

ROOT = Path(__file__).parents[3]
CONFIG = json.loads((ROOT / "langgraph.json").read_text())
QUIET = {"LANGGRAPH_CLI_NO_ANALYTICS": "1", "LANGGRAPH_NO_VERSION_CHECK": "1"}  # see README.md


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(deployed.VARIABLE, raising=False)
    for factory in (deployed.arbitrage, deployed.best_of_n):
        factory.cache_clear()


def test_each_named_graph_is_a_factory_by_its_long_name() -> None:
    for name, path in CONFIG["graphs"].items():
        module, _, factory = path.partition(":")
        assert module.startswith("langgraph_arbitrage.")
        graph = getattr(importlib.import_module(module), factory)()
        assert isinstance(graph, CompiledStateGraph), name


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(deployed.VARIABLE, '{"max_tokens": 2, "max_steps": 9}')
    graph = deployed.arbitrage()
    state = graph.invoke({"messages": [("user", "What is 2 + 3?")]})
    assert state["finish_reason"] == "length"
    assert graph.config["recursion_limit"] == 47
    assert deployed.arbitrage() is graph


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "must be a JSON object"),
        ('{"drafd": "x"}', "Unknown setting 'drafd'. Did you mean 'draft'"),
        ('{"max_tokens": 0}', "max_tokens must be at least 1"),
    ],
)
def test_bad_settings_are_refused(text: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(deployed.VARIABLE, text)
    with pytest.raises(SettingsError, match=told):
        deployed.arbitrage()


@pytest.mark.slow
@pytest.mark.allow_hosts(["127.0.0.1"])
def test_langgraphs_server_runs_streams_and_resumes_and_asks_nobody_else(tmp_path: Path) -> None:
    """In an environment of its own (`LANGGRAPH_CLI` names its program): it wants other versions."""
    program = os.environ.get("LANGGRAPH_CLI") or shutil.which("langgraph")
    if program is None:
        pytest.skip("no langgraph here: pip install 'langgraph-cli[inmem]', see CONTRIBUTING.md")
    get_client = pytest.importorskip("langgraph_sdk").get_client
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = {**CONFIG, "dependencies": [str(ROOT)]}
    (tmp_path / "langgraph.json").write_text(json.dumps(config))
    command = [program, "dev", "--no-browser", "--no-reload", "--port", str(port)]
    asked = tmp_path / "asked"
    path = os.pathsep.join([str(Path(__file__).with_name("loopback_only")), str(ROOT)])
    environment = {n: v for n, v in os.environ.items() if not n.endswith("_OFFLINE")}
    environment |= QUIET | {"PYTHONPATH": path, "LOOPBACK_ONLY": str(asked)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 90
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.2)
        asyncio.run(_use(get_client(url=f"http://127.0.0.1:{port}")))
    finally:
        process.terminate()
        process.wait()
    assert set(asked.read_text().split("\n")) == {"guarded", ""}


async def _use(client: Any) -> None:
    first, second = (p.question for p in embedded.problems(2, seed=7))
    asked = {"messages": [{"role": "user", "content": first}]}
    here = deployed.arbitrage().invoke(asked)["messages"][-1].text
    thread = (await client.threads.create())["thread_id"]
    state = await client.runs.wait(thread, "arbitrage", input=asked)
    assert state["messages"][-1]["content"] == here
    again = {"messages": [{"role": "user", "content": second}]}
    state = await client.runs.wait(thread, "arbitrage", input=again)
    assert len(state["messages"]) == 4
    assert len(await client.threads.get_history(thread)) > 4
    modes = ["custom", "messages"]
    parts = [p async for p in client.runs.stream(None, "arbitrage", input=asked, stream_mode=modes)]
    assert parts[-1].event != "error"
    events = [part.data["type"] for part in parts if part.event == "custom"]
    assert events[-1] == "finished"
    assert events.count("committed") > 1

    asks = {"context": {"approve": "escalations", "threshold": 0.0}}
    thread = (await client.threads.create())["thread_id"]
    state = await client.runs.wait(thread, "arbitrage", input=asked, **asks)
    resumed = 0
    while "__interrupt__" in state:
        assert state["__interrupt__"][0]["value"]["escalate"]
        resumed += 1
        state = await client.runs.wait(thread, "arbitrage", command={"resume": "accept"}, **asks)
    assert resumed == len(state["steps"]) > 1

    state = await client.runs.wait(None, "best_of_n", input=asked, context={"max_tokens": 100})
    assert state["messages"][-1]["response_metadata"]["best_of_n"]["n"] == 8
