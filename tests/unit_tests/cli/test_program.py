"""The command as a whole: help, version, errors, exit statuses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from langgraph_arbitrage.cli.options import settings_of
from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.policies.named import POLICIES


def test_help_needs_no_torch_and_comes_at_once():
    code = (
        "import sys; from langgraph_arbitrage.cli import main; main(['ask', '--help']);"
        "heavy = {'torch', 'transformers', 'rich', 'langgraph'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    run = subprocess.run(  # noqa: PLW1510 - the status is looked at
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_every_option_is_explained_by_the_setting_that_it_sets(arbitrage):
    status, out, _ = arbitrage("ask", "--help")
    told = " ".join(out.split())
    assert status == 0
    for name in ("draft", "target", "threshold", "temperature", "top_p", "seed", "max_tokens"):
        assert f"--{name.replace('_', '-')} " in out
        assert " ".join((ArbitrageSettings.model_fields[name].description or "").split()) in told


def test_every_policy_is_named_in_the_help(arbitrage):
    _, out, _ = arbitrage("ask", "--help")
    assert all(f" {name}: " in " ".join(out.split()) for name in POLICIES)


def test_the_version_is_told(arbitrage):
    status, out, _ = arbitrage("--version")
    assert status == 0
    assert out.startswith("arbitrage ")


def test_a_command_line_without_options_means_the_default_settings():
    from langgraph_arbitrage.cli.program import _parser

    args = _parser().parse_args(["ask", "How many?"])
    assert settings_of(args) == ArbitrageSettings()


def test_how_a_model_is_loaded_is_given_as_json_and_graphs_as_a_switch():
    from langgraph_arbitrage.cli.program import _parser

    bits = '{"quantization_config": {"load_in_4bit": true}}'
    argv = ["ask", "--draft-kwargs", bits, "--target-kwargs", '{"device_map": "auto"}', "Hi"]
    found = settings_of(_parser().parse_args(argv))
    assert found.draft_kwargs == {"quantization_config": {"load_in_4bit": True}}
    assert found.target_kwargs == {"device_map": "auto"}
    assert found.cuda_graphs is False
    for flag, value in (("--cuda-graphs", True), ("--no-cuda-graphs", False)):
        assert settings_of(_parser().parse_args(["ask", flag, "Hi"])).cuda_graphs is value


def test_what_is_not_here_is_told_in_one_line_before_anything_is_loaded(arbitrage, monkeypatch):
    from langgraph_arbitrage.models import memory

    monkeypatch.setitem(sys.modules, "torchao", None)  # as if it were not installed
    int8 = '{"quantization_config": {"quant_method": "torchao", "quant_type": "int8"}}'
    for options, told in (
        (("--device", "cuda:77"), "device 'cuda:77' is not on this machine (CUDA devices: "),
        (("--draft-kwargs", '{"device_map": "cuda:77"}'), "device 'cuda:77' is not on this"),
        (("--target-kwargs", int8), "needs the package torchao, which is not installed: pip "),
    ):
        status, _, err = arbitrage("ask", *options, "Hi")
        assert (status, told in " ".join(err.split())) == (2, True), err
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**20)
    status, _, err = arbitrage("ask", "--dtype", "bfloat16", "Hi")  # so that none is loaded yet
    assert status == 2
    assert "GiB on cpu in torch.bfloat16, and 0.00 GiB are free. Options: " in " ".join(err.split())


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "required: COMMAND"),
        (["ask", "--draft-kwargs", "4bit", "Hi"], "'4bit': it is not valid JSON"),
        (["ask", "--target-kwargs", "[1]", "Hi"], "'[1]': it must be a JSON object"),
        (["answer"], "invalid choice: 'answer' (choose from"),
        (["ask", "--policy", "oracel", "Hi"], "'oracle', 'judge', 'confidence', 'random', 'draft'"),
        (["ask", "--threshold", "much", "Hi"], "'much' is neither a number nor of the form rate:0"),
        (
            ["ask", "--policy", "confidence", "--threshold", "rate:0.3", "Hi"],
            "DraftConfidence has none: give a number",
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
        (["ask", "--router", "no/router", "Hi"], "no/router is no folder here"),
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
        (["ask", "caf\udce9"], "no valid UTF-8 text"),
        (["ask", "--draft", "./no-such-folder", "Hi"], "./no-such-folder"),
        (["demo", "--questions", "-1"], "must be 0 or more"),
        (["demo", "--level", "7"], "invalid choice: 7"),
    ],
)
def test_bad_input_ends_with_status_2_and_one_line_that_says_what_is_wrong(argv, told, arbitrage):
    status, out, err = arbitrage(*argv)
    assert (status, out) == (2, "")
    assert err.startswith("arbitrage: error: ")
    assert told in err
    assert err.count("\n") == 1


def test_an_error_is_red_only_where_colours_are_wanted(arbitrage, monkeypatch):
    assert "\x1b" not in arbitrage("ask", " ")[2]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert arbitrage("ask", " ")[2].startswith("\x1b[31m")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in arbitrage("ask", " ")[2]


def test_an_unexpected_error_keeps_its_traceback(monkeypatch, arbitrage):
    def fails(*_args, **_others):
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr("langgraph_arbitrage.cli.ask.settings_of", fails)
    with pytest.raises(ZeroDivisionError):
        arbitrage("ask", "Hi")


def test_a_reader_that_has_gone_is_no_error():
    code = (
        "import sys, time; time.sleep(0.5); from langgraph_arbitrage.cli import main;"
        "sys.exit(main(['ask', '--help']))"
    )
    command = f'{sys.executable} -c "{code}" | true; echo ${{PIPESTATUS[0]}}'
    run = _run("bash", "-c", command)
    assert (run.stdout, run.stderr) == ("141\n", "")


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
