"""The `arbitrage` command: help, version, errors, exit statuses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from langgraph_arbitrage.cli.options import settings_of
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.policies.named import POLICIES


def test_help_imports_no_heavy_package():
    code = (
        "import sys; from langgraph_arbitrage.cli import main; main(['ask', '--help']);"
        "heavy = {'torch', 'transformers', 'rich', 'langgraph'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    run = subprocess.run(  # noqa: PLW1510 - the status is checked below
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_the_help_of_an_option_is_the_description_of_its_setting(arbitrage):
    status, out, _ = arbitrage("ask", "--help")
    help_text = " ".join(out.split())
    assert status == 0
    for name in ("draft", "target", "threshold", "temperature", "top_p", "seed", "max_tokens"):
        assert f"--{name.replace('_', '-')} " in out
        assert (
            " ".join((ArbitrageSettings.model_fields[name].description or "").split()) in help_text
        )


def test_the_help_lists_every_policy(arbitrage):
    _, out, _ = arbitrage("ask", "--help")
    assert all(f" {name}: " in " ".join(out.split()) for name in POLICIES)


def test_version_is_printed(arbitrage):
    status, out, _ = arbitrage("--version")
    assert status == 0
    assert out.startswith("arbitrage ")


def test_a_command_line_without_options_means_the_default_settings():
    from langgraph_arbitrage.cli.program import _parser

    args = _parser().parse_args(["ask", "How many?"])
    assert settings_of(args) == ArbitrageSettings()


def test_model_kwargs_are_json_options_and_cuda_graphs_is_a_switch():
    from langgraph_arbitrage.cli.program import _parser

    bits = '{"quantization_config": {"load_in_4bit": true}}'
    argv = ["ask", "--draft-kwargs", bits, "--target-kwargs", '{"device_map": "auto"}', "Hi"]
    settings = settings_of(_parser().parse_args(argv))
    assert settings.draft_kwargs == {"quantization_config": {"load_in_4bit": True}}
    assert settings.target_kwargs == {"device_map": "auto"}
    assert settings.cuda_graphs is False
    for flag, value in (("--cuda-graphs", True), ("--no-cuda-graphs", False)):
        assert settings_of(_parser().parse_args(["ask", flag, "Hi"])).cuda_graphs is value


def test_a_missing_device_package_or_memory_is_reported_before_loading(arbitrage, monkeypatch):
    from langgraph_arbitrage.models import memory

    monkeypatch.setitem(sys.modules, "torchao", None)  # simulates a missing package
    int8 = '{"quantization_config": {"quant_method": "torchao", "quant_type": "int8"}}'
    for options, message in (
        (("--device", "cuda:77"), "device 'cuda:77' is not on this machine (CUDA devices: "),
        (("--draft-kwargs", '{"device_map": "cuda:77"}'), "device 'cuda:77' is not on this"),
        (("--target-kwargs", int8), "needs the package torchao, which is not installed: pip "),
    ):
        status, _, err = arbitrage("ask", *options, "Hi")
        assert (status, message in " ".join(err.split())) == (2, True), err
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**20)
    status, _, err = arbitrage(
        "ask", "--dtype", "bfloat16", "Hi"
    )  # a spec that no other test has loaded
    assert status == 2
    assert "GiB on cpu in torch.bfloat16, and 0.00 GiB are free. Options: " in " ".join(err.split())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND"),
        (["ask", "--draft-kwargs", "4bit", "Hi"], "'4bit': it is not valid JSON"),
        (["ask", "--target-kwargs", "[1]", "Hi"], "'[1]': it must be a JSON object"),
        (["answer"], "invalid choice: 'answer' (choose from"),
        (["ask", "--policy", "oracel", "Hi"], "'judge', 'likelihood', 'confidence', 'random'"),
        (["ask", "--threshold", "much", "Hi"], "invalid threshold 'much': set a number"),
        (
            ["ask", "--policy", "confidence", "--threshold", "rate:0.3", "Hi"],
            "DraftConfidence does not use one. Set a number",
        ),
        (
            ["ask", "--draft", "x", "--policy", "router", "Hi"],
            "--policy router needs --router CHECKPOINT, such as",
        ),
        (
            ["ask", "--target", "x", "--policy", "rsd", "Hi"],
            "--policy rsd needs --prm CHECKPOINT, such as",
        ),
        (
            ["ask", "--policy", "judge", "--prm", "x", "Hi"],
            "judge does not use --prm; --policy rsd",
        ),
        (
            ["ask", "--prm", "x", "Hi"],
            "the default policy does not use --prm; --policy rsd and or",
        ),
        (["ask", "--router", "no/router", "Hi"], "no/router is not a local folder"),
        (["ask", "--policy", "judge", "--threshold", "10", "Hi"], "from 0 to 9, not 10"),
        (["ask", "--first-steps", "-1", "Hi"], "first_steps must be 0 or more, not -1"),
        (["ask", "--max-target-share", "3", "Hi"], "max_target_share must be a number from 0 to 1"),
        (["ask", "--threshold", "2", "Hi"], "must be a number from 0 to 1, not 2.0"),
        (["ask", "--threshold", "nan", "Hi"], "must be a number from 0 to 1, not nan"),
        (["ask", "--policy", "draft", "--threshold", "0.5", "Hi"], "AlwaysDraft has no threshold"),
        (["ask", "--max-tokens", "0", "Hi"], "max_tokens must be at least 1, not 0"),
        (["ask", "--temperature", "-1", "Hi"], "temperature must be 0 or more"),
        (["ask", "--top-p", "0", "Hi"], "top_p must be above 0"),
        (["ask", "--separator", "", "Hi"], "separator must be"),
        (
            ["ask", "--chat-template", "no-such-file", "Hi"],
            "No such file or directory: 'no-such-file'",
        ),
        (["ask", "  "], "the question is empty"),
        (["ask", "caf\udce9"], "not valid UTF-8 text"),
        (["ask", "--draft", "./no-such-folder", "Hi"], "./no-such-folder"),
        (["demo", "--questions", "-1"], "must be 0 or more"),
        (["demo", "--level", "7"], "invalid choice: 7"),
    ],
)
def test_invalid_input_ends_with_status_2_and_a_one_line_error(argv, message, arbitrage):
    status, out, err = arbitrage(*argv)
    assert (status, out) == (2, "")
    assert err.startswith("arbitrage: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_an_error_is_red_only_if_colours_are_enabled(arbitrage, monkeypatch):
    assert "\x1b" not in arbitrage("ask", " ")[2]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert arbitrage("ask", " ")[2].startswith("\x1b[31m")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in arbitrage("ask", " ")[2]


def test_an_unexpected_error_keeps_its_traceback(monkeypatch, arbitrage):
    def fails(*_args, **_others):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("langgraph_arbitrage.cli.ask.settings_of", fails)
    with pytest.raises(ZeroDivisionError):
        arbitrage("ask", "Hi")


def test_a_closed_stdout_pipe_prints_no_error():
    code = (
        "import sys, time; time.sleep(0.5); from langgraph_arbitrage.cli import main;"
        "sys.exit(main(['--help']))"
    )
    command = f'{sys.executable} -c "{code}" | true; echo ${{PIPESTATUS[0]}}'
    run = _run("bash", "-c", command)
    assert (run.stdout, run.stderr) == ("141\n", "")


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
