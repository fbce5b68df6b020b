"""`arbitrage bench` on tiny models: what it measures, what it makes of it, what it refuses."""

import contextlib
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from langgraph_arbitrage.cli import main
from tiny import make

Run = Callable[..., tuple[int, str, str]]
SHALLOW = make("llama", endless=True, num_hidden_layers=1)
DEEP = make("llama", seed=1, endless=True, num_hidden_layers=12)
SHORT = ("--questions", "1", "--rounds", "3", "--max-tokens", "16")
NEVER = ("--policy", "confidence", "--threshold", "0")


@pytest.fixture
def arbitrage(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command; its status, stdout and stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        status = main(argv)
        return status, *capsys.readouterr()

    return run


def bench(arbitrage: Run, *argv: str) -> dict[str, Any]:
    status, out, err = arbitrage("bench", *SHORT, "--json", *argv)
    assert (status, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture(scope="module")
def pays() -> dict[str, Any]:
    """What is measured of a pair for which the loop pays."""
    argv = (*SHORT, "--json", *NEVER, "--check", "1", "--batch", "4")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(("bench", *argv, "--draft", SHALLOW, "--target", DEEP)) == 0
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def test_a_shallow_draft_pays_and_a_deep_one_does_not(pays: dict[str, Any], arbitrage: Run) -> None:
    assert pays["speed_up"]["0.0"]["verified"] > 1.5
    assert pays["acceptance_to_break_even"]["paper"] < 0.7
    assert pays["verdict"].startswith("The loop pays for this pair: at the 0% of the steps")
    check = pays["check"]
    assert check["questions"] == 1
    assert min(check["alone"], check["loop"], check["alone_forecast"], check["loop_forecast"]) > 0
    not_so = bench(arbitrage, "--draft", DEEP, "--target", SHALLOW, "--check", "0")
    assert not_so["speed_up"]["0.0"]["verified"] < 0.8
    assert not_so["acceptance_to_break_even"]["verified"] is None
    assert not_so["verdict"].startswith("The loop does not pay for this pair: even with no step")
    assert not_so["check"] is None


def test_no_model_is_measured_to_beat_its_floor(pays: dict[str, Any]) -> None:
    for role in pays["roles"].values():
        assert 0 < role["token_floor"] < role["token"]
        assert 0 < role["step_floor"] < role["step"]
        assert role["engine"] == "slot"
        assert role["batches"]["4"] > 1 / role["token"]  # together they write more a second
    assert pays["step_ratio"]["draft"] == pytest.approx(
        pays["roles"]["draft"]["step"] / pays["roles"]["target"]["step"]
    )


def test_a_router_is_measured_too(arbitrage: Run) -> None:
    status, out, _ = arbitrage(
        *("bench", "--questions", "1", "--check", "0", "--rounds", "1", "--json")
    )
    found = json.loads(out)
    router = found["roles"]["router"]
    assert status == 0
    assert found["policy"].startswith("LearnedRouter")
    assert router["token"] is None
    assert 0 < router["step_floor"] < router["step"] == found["forecast"]["router"]
    assert found["measured_steps"] >= 2


def test_it_is_told_in_tables_and_one_sentence(arbitrage: Run) -> None:
    argv = ("--draft", SHALLOW, "--target", DEEP, "--check", "1", "How many?")
    status, out, err = arbitrage("bench", *SHORT, *argv)
    assert (status, err) == (0, "")
    for told in ("a token, floor", "of the target's step", "target alone", "Acceptance to break"):
        assert told in out
    assert "Forecast against 1 whole answers" in out
    assert out.splitlines()[-1].startswith("The loop ")
    assert out.splitlines()[-1].endswith(".")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--policy", "draft"], "AlwaysDraft does not choose between accepting"),
        (["--policy", "oracle"], "Oracle does not choose between accepting"),
        (["--questions", "0"], "--questions must be 1 or more, not 0"),
        (["--check", "-1"], "--check must be 0 or more, not -1"),
        (["--batch", "0"], "--batch must be 1 or more, not 0"),
        ([" "], "the question is empty"),
        (["--device", "cuda:7"], "'cuda:7' is not on this machine"),
    ],
)
def test_bad_input_is_one_line_that_says_what_is_wrong(
    argv: list[str], told: str, arbitrage: Run
) -> None:
    status, out, err = arbitrage("bench", *argv)
    assert (status, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
