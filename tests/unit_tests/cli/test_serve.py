"""`arbitrage serve`: options, errors, graceful shutdown."""

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


def test_every_server_setting_is_an_option_with_its_description(arbitrage: Any) -> None:
    help_text = " ".join(arbitrage("serve", "--help")[1].split())
    for name, field in ServeSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in help_text
        assert " ".join((field.description or "").split()) in help_text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--port", "70000"], "port must be a number from 0 to 65535, not 70000"),
        (["--port", "http"], "invalid int value: 'http'"),
        (["--concurrency", "0"], "concurrency must be at least 1, not 0"),
        (["--max-waiting", "-1"], "max_waiting must be at least 0"),
        (["--max-body", "0"], "max_body must be at least 1"),
        (["--grace", "nan"], "grace must be at least 0, not nan"),
        (["--host", ""], "host must not be empty"),
        (["--name", "target"], "name must not be 'target'"),
        (["--host", "203.0.113.9", "--port", "0"], "cannot listen on 203.0.113.9:0"),
        (["--draft", "./no-such-folder"], "./no-such-folder"),
        (["--threshold", "2"], "must be a number from 0 to 1"),
    ],
)
def test_invalid_options_are_refused_in_one_line(
    argv: list[str], message: str, arbitrage: Any
) -> None:
    pytest.importorskip("fastapi")
    status, out, err = arbitrage("serve", *argv)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_port_in_use_is_an_error(arbitrage: Any, models: list[str]) -> None:
    pytest.importorskip("fastapi")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, _, err = arbitrage("serve", *models, "--port", str(port))
    assert status == 2
    assert f"127.0.0.1:{port} is in use by another program. Choose another --port" in err


def test_a_missing_extra_is_named_with_its_install_command(
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
def test_the_server_reads_its_key_from_the_environment_and_shuts_down_gracefully(
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
