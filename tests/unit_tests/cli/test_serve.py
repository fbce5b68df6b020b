"""The command `serve`: its options, its errors, and what it does when it is told to stop."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from langgraph_arbitrage.serve import ServeSettings

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def test_every_setting_is_an_option_with_its_own_text(arbitrage: Any) -> None:
    told = " ".join(arbitrage("serve", "--help")[1].split())
    for name, field in ServeSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in told
        assert " ".join((field.description or "").split()) in told


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--port", "70000"], "port must be a number from 0 to 65535, not 70000"),
        (["--port", "http"], "invalid int value: 'http'"),
        (["--concurrency", "0"], "concurrency must be at least 1, not 0"),
        (["--max-waiting", "-1"], "max_waiting must be at least 0"),
        (["--max-body", "0"], "max_body must be at least 1"),
        (["--grace", "nan"], "grace must be at least 0, not nan"),
        (["--host", ""], "host must not be empty"),
        (["--name", "target"], "name must not be 'target'"),
        (["--host", "203.0.113.9", "--port", "0"], "203.0.113.9:0 cannot be listened on"),
        (["--draft", "./no-such-folder"], "./no-such-folder"),
        (["--threshold", "2"], "must be a number from 0 to 1"),
    ],
)
def test_bad_options_are_refused_in_one_line(argv: list[str], told: str, arbitrage: Any) -> None:
    pytest.importorskip("fastapi")
    status, out, err = arbitrage("serve", *argv)
    assert (status, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


def test_a_port_in_use_is_named(arbitrage: Any, models: list[str]) -> None:
    pytest.importorskip("fastapi")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, _, err = arbitrage("serve", *models, "--port", str(port))
    assert status == 2
    assert f"127.0.0.1:{port} is in use by another program: choose another --port" in err


def test_without_its_extra_it_says_what_to_install(
    arbitrage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = util.find_spec
    monkeypatch.setattr(
        "langgraph_arbitrage.cli.serve.find_spec",
        lambda name: None if name == "uvicorn" else find(name),
    )
    status, _, err = arbitrage("serve")
    assert status == 2
    assert "needs uvicorn, which is not installed: pip install 'langgraph-arbitrage[serve]'" in err


@pytest.mark.slow
def test_the_process_takes_its_key_from_the_environment_and_finishes_when_stopped(
    models: list[str], tmp_path: Path
) -> None:
    httpx = pytest.importorskip("httpx")
    command = [sys.executable, "-m", "langgraph_arbitrage.cli", "serve", "--port", "0", *models]
    environment = {"ARBITRAGE_API_KEY": "k", **__import__("os").environ}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    url = process.stderr.readline().rsplit(" ", 1)[1].strip()
    assert httpx.get(f"{url}/models").status_code == 401
    body = {"messages": [{"role": "user", "content": "How many?"}], "stream": True}
    headers = {"Authorization": "Bearer k"}
    with httpx.stream("POST", f"{url}/chat/completions", json=body, headers=headers) as running:
        lines = running.iter_lines()
        json.loads(next(lines).removeprefix("data: "))
        process.send_signal(signal.SIGTERM)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert process.wait(20) == -signal.SIGTERM
    assert process.stderr.read() == ""
