"""`arbitrage bench` on tiny models: measurements, output and errors."""

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
    """Run the command and return its status, stdout and stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        status = main(argv)
        return status, *capsys.readouterr()

    return run


def bench(arbitrage: Run, *argv: str) -> dict[str, Any]:
    status, out, err = arbitrage("bench", *SHORT, "--json", *argv)
    assert (status, err) == (0, "")
    record: dict[str, Any] = json.loads(out)
    return record


@pytest.fixture(scope="module")
def shallow_draft() -> dict[str, Any]:
    """Results of a pair for which the loop pays: a shallow draft and a deep target."""
    argv = (*SHORT, "--json", *NEVER, "--check", "1", "--batch", "4")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(("bench", *argv, "--draft", SHALLOW, "--target", DEEP)) == 0
    record: dict[str, Any] = json.loads(out.getvalue())
    return record


def test_the_loop_pays_with_a_shallow_draft_and_not_with_a_deep_one(
    shallow_draft: dict[str, Any], arbitrage: Run
) -> None:
    assert shallow_draft["speed_up"]["0.0"]["verified"] > 1.5
    assert shallow_draft["acceptance_to_break_even"]["paper"] < 0.7
    verdict = "The loop pays for this pair: DraftConfidence escalates 0% of the steps"
    assert shallow_draft["verdict"].startswith(verdict)
    check = shallow_draft["check"]
    assert check["questions"] == 1
    assert min(check["alone"], check["loop"], check["alone_forecast"], check["loop_forecast"]) > 0
    deep_draft = bench(arbitrage, "--draft", DEEP, "--target", SHALLOW, "--check", "0")
    assert deep_draft["speed_up"]["0.0"]["verified"] < 0.8
    assert deep_draft["acceptance_to_break_even"]["verified"] is None
    assert deep_draft["verdict"].startswith("The loop does not pay for this pair: even without")
    assert deep_draft["check"] is None


def test_measured_times_are_above_their_lower_bounds(shallow_draft: dict[str, Any]) -> None:
    for role in shallow_draft["roles"].values():
        assert 0 < role["token_floor"] < role["token"]
        assert 0 < role["step_floor"] < role["step"]
        assert role["engine"] == "slot"
        assert role["batches"]["4"] > 1 / role["token"]  # a batch has a higher throughput
    roles = shallow_draft["roles"]
    assert shallow_draft["step_ratio"]["draft"] == pytest.approx(
        roles["draft"]["step"] / roles["target"]["step"]
    )


def test_a_router_is_measured_too(arbitrage: Run) -> None:
    status, out, _ = arbitrage(
        *("bench", "--questions", "1", "--check", "0", "--rounds", "1", "--json")
    )
    record = json.loads(out)
    router = record["roles"]["router"]
    assert status == 0
    assert record["policy"].startswith("LearnedRouter")
    assert router["token"] is None
    assert 0 < router["step_floor"] < router["step"] == record["forecast"]["router"]
    assert record["measured_steps"] >= 2


@pytest.mark.parametrize(("policy", "verifies"), [("likelihood", True), ("judge", False)])
def test_the_targets_reading_is_part_of_each_decision(
    policy: str, verifies: bool, arbitrage: Run
) -> None:
    argv = ("--policy", policy, "--threshold", "0", "--check", "0", "--questions", "1")
    forecast = bench(arbitrage, "--draft", SHALLOW, "--target", DEEP, *argv)["forecast"]
    assert (forecast["target_scores"], forecast["target_verifies"]) == (True, verifies)
    assert forecast["router"] > 0


def test_results_are_printed_as_tables_and_one_sentence(arbitrage: Run) -> None:
    argv = ("--draft", SHALLOW, "--target", DEEP, "--check", "1", "How many?")
    status, out, err = arbitrage("bench", *SHORT, *argv)
    assert (status, err) == (0, "")
    for text in (
        "token, lower bound",
        "step / target's step",
        "target alone",
        "Acceptance rate at break",
    ):
        assert text in out
    assert "Check on 1 questions, in ms per question" in out
    assert out.splitlines()[-1].startswith("The loop ")
    assert out.splitlines()[-1].endswith(".")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--policy", "draft"], "AlwaysDraft cannot be benchmarked"),
        (["--policy", "oracle"], "Oracle cannot be benchmarked"),
        (["--questions", "0"], "--questions must be at least 1, not 0"),
        (["--check", "-1"], "--check must be at least 0, not -1"),
        (["--batch", "0"], "--batch must be at least 1, not 0"),
        ([" "], "the question is empty"),
        (["--device", "cuda:7"], "'cuda:7' is not on this machine"),
    ],
)
def test_bad_input_is_reported_in_one_line(argv: list[str], message: str, arbitrage: Run) -> None:
    status, out, err = arbitrage("bench", *argv)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
