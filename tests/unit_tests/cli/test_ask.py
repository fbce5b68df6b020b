"""`arbitrage ask`: step output, JSON, comparison, stdin, Ctrl-C, policies."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import sys

import pytest

import prms
from langgraph_arbitrage import (
    RSD,
    Budget,
    ChatArbitrage,
    EscalateRepeats,
    FirstSteps,
    Judge,
    LearnedRouter,
    Oracle,
    Random,
)

NAMES = ("arbitraged", "draft only", "target only")
STEPS = ["--separator", " ", "--policy", "random", "--threshold", "0.5", "--max-steps", "6"]
QUESTION = "Ann has 3 apples and buys 4. How many has she?"


@pytest.fixture
def reference(models):
    """The chat model with the same settings."""
    return ChatArbitrage(
        draft=models[1],
        target=models[3],
        router=Random(0.5),
        separator=" ",
        max_steps=6,
        max_slots=1,
    )


def test_each_step_is_printed_with_its_writer_score_and_time(arbitrage, models, reference):
    status, out, _ = arbitrage("ask", QUESTION, *models, *STEPS)
    *lines, summary = out.splitlines()
    statistics = reference.invoke(QUESTION).response_metadata["arbitrage"]
    heads = [
        m for m in (re.match(r"(draft|target) +(\d\.\d\d) +\d+\.\d\d s  ", x) for x in lines) if m
    ]
    assert status == 0
    assert [m[1] for m in heads] == [step["writer"] for step in statistics["steps"]]
    assert [m[2] for m in heads] == [f"{step['score']:.2f}" for step in statistics["steps"]]
    assert {m[1] for m in heads} == {"draft", "target"}
    assert summary.startswith(f"6 steps, {statistics['escalation_rate']:.0%} escalated · tokens: ")
    assert f"{statistics['discarded_tokens']} discarded" in summary
    accepted = f"({statistics['accepted_draft_tokens']} accepted from the draft)"
    assert (accepted in summary) == (statistics["accepted_draft_tokens"] > 0)
    assert summary.endswith("stopped by --max-steps")


def test_json_output_is_one_object_per_question(arbitrage, models, reference):
    status, out, _ = arbitrage("ask", QUESTION, "How many?", *models, *STEPS, "--json")
    records = [json.loads(line) for line in out.splitlines()]
    message = reference.invoke(QUESTION)
    assert status == 0
    assert [r["question"] for r in records] == [QUESTION, "How many?"]
    assert records[0]["answer"] == message.text
    assert records[0]["finish_reason"] == "max_steps"
    assert records[0]["usage"]["output_tokens"] == message.usage_metadata["output_tokens"]
    assert records[0]["seconds"] > 0
    assert "".join(s["text"] for s in records[0]["arbitrage"]["steps"]) == message.text


def test_without_a_question_argument_stdin_is_the_question(arbitrage, models, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Ann has 3 apples.\n\nHow many?\n"))
    _, out, _ = arbitrage("ask", *models, "--max-tokens", "4", "--json")
    assert json.loads(out)["question"] == "Ann has 3 apples.\n\nHow many?"


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (io.StringIO(" \n"), "the question is empty"),
        (io.TextIOWrapper(io.BytesIO(b"caf\xe9?"), "utf-8"), "not valid utf-8 text"),
    ],
)
def test_stdin_without_a_question_is_an_error(arbitrage, monkeypatch, stdin, message):
    monkeypatch.setattr(sys, "stdin", stdin)
    status, _, err = arbitrage("ask")
    assert status == 2
    assert message in err


def test_compare_also_answers_with_draft_and_target_alone(arbitrage, models):
    _, out, _ = arbitrage("ask", QUESTION, *models, *STEPS, "--compare")
    rows = {name: next(x for x in out.splitlines() if name in x) for name in NAMES}
    assert rows["draft only"].rstrip().endswith(" 0%")
    assert rows["target only"].rstrip().endswith(" 100%")


def test_compare_as_json_holds_all_three_answers(arbitrage, models):
    _, out, _ = arbitrage("ask", QUESTION, *models, *STEPS, "--compare", "--json")
    baselines = json.loads(out)["compare"]
    assert baselines["draft only"]["arbitrage"]["computed_tokens"]["target"] == 0
    assert baselines["target only"]["arbitrage"]["computed_tokens"]["draft"] == 0


def test_no_answer_uses_cached_tokens_of_another_answer(arbitrage, models):
    argv = ("ask", QUESTION, QUESTION, *models, *STEPS, "--compare", "--json")
    first, second = (json.loads(line) for line in arbitrage(*argv)[1].splitlines())
    for one, other in (
        (first, second),
        *zip(*(r["compare"].values() for r in (first, second)), strict=True),
    ):
        assert one["arbitrage"]["computed_tokens"] == other["arbitrage"]["computed_tokens"]


def test_a_terminal_shows_rejected_steps_struck_through_and_writers_in_colour(
    arbitrage, models, monkeypatch
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    _, out, _ = arbitrage("ask", QUESTION, *models, *STEPS)
    assert "\x1b[36mdraft" in out
    assert "\x1b[35mtarget" in out
    assert "\x1b[2;9m" in out  # dim and struck through


def test_no_color_leaves_the_labels_only(arbitrage, models, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    _, out, _ = arbitrage("ask", QUESTION, *models, *STEPS)
    assert not re.search(r"\x1b\[[\d;]*3[0-7]m", out)
    assert "draft" in out
    assert "target" in out


def test_a_too_long_prompt_is_refused_before_the_first_answer(arbitrage, models):
    status, out, err = arbitrage("ask", "How many?", "apples " * 2000, *models)
    assert (status, out) == (2, "")
    assert "which reads 1024" in err


def test_a_chat_template_can_be_set_for_models_without_one(arbitrage, models, tmp_path):
    bare, template = tmp_path / "bare", tmp_path / "template.jinja"
    shutil.copytree(models[1], bare)
    (bare / "chat_template.jinja").unlink()
    template.write_text("{{ messages[0]['content'] }} So")
    argv = ("ask", "Tell me.", "--draft", str(bare), "--target", str(bare), "--max-tokens", "3")
    status, _, err = arbitrage(*argv)
    assert status == 2
    assert "bare has no chat template" in err
    assert arbitrage(*argv, "--chat-template", str(template))[0] == 0


def test_ctrl_c_stops_the_models_and_prints_the_step_count(interrupted, models, capsys):
    before = signal.getsignal(signal.SIGINT)
    status, out = interrupted(
        "ask", QUESTION, *models, *STEPS[:-2], "--temperature", "2", "--seed", "1"
    )
    finished = int(re.search(r"interrupted; steps finished: (\d+)", out)[1])
    assert status == 130
    assert 2 <= finished < 20
    assert finished == len(re.findall(r"\d s  ", out))
    assert capsys.readouterr().err == ""
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_with_json_prints_no_incomplete_object(interrupted, models, monkeypatch):
    from langgraph_arbitrage.runner import Runner

    answer = Runner.answer

    def interrupted_answer(self, question, listener=None):
        return answer(self, question, lambda event: signal.raise_signal(signal.SIGINT))

    monkeypatch.setattr(Runner, "answer", interrupted_answer)
    assert interrupted("ask", QUESTION, *models, *STEPS, "--json") == (130, "")


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        (lambda: ["--router", prms.trl()], lambda: LearnedRouter(prms.trl())),
        (
            lambda: ["--policy", "router", "--router", prms.trl(), "--threshold", "0.4"],
            lambda: LearnedRouter(prms.trl(), 0.4),
        ),
        (
            lambda: ["--policy", "rsd", "--prm", f"rlhflow:{prms.rlhflow()}"],
            lambda: RSD(f"rlhflow:{prms.rlhflow()}"),
        ),
        (
            lambda: ["--policy", "oracle", "--prm", prms.trl(), "--threshold", "-0.1"],
            lambda: Oracle(prms.trl(), -0.1),
        ),
        (lambda: ["--policy", "judge", "--threshold", "4.5"], lambda: Judge(4.5)),
        (
            lambda: [
                *("--policy", "random", "--threshold", "0.9", "--escalate-repeats"),
                *("--first-steps", "1", "--max-target-share", "0.5"),
            ],
            lambda: Budget(FirstSteps(EscalateRepeats(Random(0.9)), 1), 0.5),
        ),
    ],
)
def test_each_policy_option_selects_its_policy(options, policy, arbitrage, models):
    expected_policy = policy()
    argv = ["--separator", " ", "--max-steps", "5", "--json", *options()]
    status, out, err = arbitrage("ask", QUESTION, *models, *argv)
    assert (status, err) == (0, "")
    statistics = json.loads(out)["arbitrage"]
    reference = ChatArbitrage(
        draft=models[1], target=models[3], router=expected_policy, separator=" ", max_steps=5
    )
    expected = reference.invoke(QUESTION).response_metadata["arbitrage"]
    for step, other in zip(statistics["steps"], expected["steps"], strict=True):
        assert step["writer"] == other["writer"]
        assert step["score"] == (other["score"] and pytest.approx(other["score"], abs=1e-4))
    reference.close()


def test_policy_options_do_not_apply_to_the_baselines_of_compare(arbitrage, models):
    argv = ["--policy", "target", "--max-target-share", "0.5", "--compare", "--json"]
    _, out, _ = arbitrage("ask", QUESTION, *models, *argv, "--max-tokens", "9")
    record = json.loads(out)
    assert record["arbitrage"]["escalation_rate"] <= 0.5
    assert record["compare"]["target only"]["arbitrage"]["escalation_rate"] == 1
