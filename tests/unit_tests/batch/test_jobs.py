"""A job answers every request once, despite invalid lines, failures and restarts."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM

from batch_lines import SETTINGS, read, request_line, write
from langgraph_arbitrage import AlwaysTarget, ChatArbitrage
from langgraph_arbitrage.batch import BatchJob, BatchSettings, arun_batch, executor, run_batch
from langgraph_arbitrage.errors import CheckpointError, DataError, EngineError, SettingsError

Run = Callable[..., Any]
LINES = [request_line(n) for n in range(12)]


def by_id(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    assert len({row["custom_id"] for row in rows}) == len(rows)
    return {row["custom_id"]: row for row in rows}


def text(row: dict[str, Any]) -> str:
    return row["response"]["body"]["choices"][0]["message"]["content"]


# --- one run -----------------------------------------------------------------------------


def test_every_request_gets_the_answer_of_the_chat_model(run: Run, llm: ChatArbitrage) -> None:
    summary, rows = run(*LINES, concurrency=5)
    assert set(by_id(rows)) == {f"q{n}" for n in range(12)}
    for n in range(12):
        row, message = by_id(rows)[f"q{n}"], llm.invoke(LINES[n]["body"]["messages"])
        statistics = message.response_metadata["arbitrage"]
        assert set(row) == {"id", "custom_id", "response", "error"}
        assert row["error"] is None
        assert row["response"]["status_code"] == 200
        body = row["response"]["body"]
        assert body["object"] == "chat.completion"
        assert body["model"] == Path(llm.target).name
        (choice,) = body["choices"]
        assert choice["message"] == {"role": "assistant", "content": message.text}
        assert choice["finish_reason"] == "length"  # endless models
        assert body["usage"]["completion_tokens"] == message.usage_metadata["output_tokens"]
        assert body["usage"]["prompt_tokens"] == message.usage_metadata["input_tokens"]
        assert body["arbitrage"]["escalation_rate"] == statistics["escalation_rate"]
    assert (summary.total, summary.done, summary.failed, summary.remaining) == (12, 12, 0, 0)
    assert summary.succeeded
    tokens = [row["response"]["body"]["usage"]["completion_tokens"] for row in rows]
    assert summary.answer_tokens == sum(tokens)
    assert 0 < summary.escalation_rate < 1
    assert summary.requests_per_second == pytest.approx(12 / summary.seconds)


def test_options_of_a_request_apply_to_it_alone(run: Run, llm: ChatArbitrage) -> None:
    _, rows = run(
        request_line(0, max_tokens=3),
        request_line(1, temperature=1.5, seed=7),
        request_line(2, threshold=1.0),
        request_line(3),
    )
    records = by_id(rows)
    assert records["q0"]["response"]["body"]["usage"]["completion_tokens"] == 3
    sampled = llm.invoke(LINES[1]["body"]["messages"], temperature=1.5, seed=7)
    assert text(records["q1"]) == sampled.text != llm.invoke(LINES[1]["body"]["messages"]).text
    assert records["q2"]["response"]["body"]["arbitrage"]["escalation_rate"] == 1
    assert records["q3"]["response"]["body"]["usage"]["completion_tokens"] == 8


def test_up_to_concurrency_requests_run_at_once(llm: ChatArbitrage, tmp_path: Path) -> None:
    active, counts = [], []

    class Watched(ChatArbitrage):
        async def ainvoke(self, *args: Any, **kwargs: Any) -> Any:
            active.append(1)
            counts.append(len(active))
            try:
                return await super().ainvoke(*args, **kwargs)
            finally:
                active.pop()

    watched = Watched(**SETTINGS)
    run_batch(watched, LINES, tmp_path / "out.jsonl", concurrency=4)
    watched.close()
    assert max(counts) == 4


def test_an_invalid_line_gets_an_error_record_and_the_job_continues(run: Run) -> None:
    summary, rows = run(
        request_line(0),
        b"not json",
        {"prompt": "How many?"},
        b"",
        request_line(0),
        request_line(4, messages=[{"role": "user", "content": "word " * 2000}]),
        request_line(5, messages=[{"role": "oracle", "content": "?"}]),
        request_line(6, messages=[{"content": [{"type": "image_url"}], "role": "user"}]),
        request_line(7, temperature=-1),
        request_line(8, timeout=1e-9),
        request_line(9),
    )
    errors = {row["error"]["line"]: row for row in rows if row["error"]}
    assert set(errors) == {2, 5, 6, 7, 8, 9, 10}
    assert "not valid JSON" in errors[2]["error"]["message"]
    assert "line 1 has the same custom_id 'q0'" in errors[5]["error"]["message"]
    assert "tokens" in errors[6]["error"]["message"]
    assert "context" in errors[6]["error"]["message"]
    assert "oracle" in errors[7]["error"]["message"]
    assert "image_url" in errors[8]["error"]["message"]
    assert "temperature must be 0 or more" in errors[9]["error"]["message"]
    assert "timeout" in errors[10]["error"]["message"]
    statuses = {n: row["response"]["status_code"] for n, row in errors.items()}
    assert statuses == {2: 400, 5: 400, 6: 400, 7: 400, 8: 400, 9: 400, 10: 408}
    assert all(f"line {n}: " in row["error"]["message"] for n, row in errors.items())
    assert (summary.done, summary.failed, summary.succeeded) == (3, 7, False)
    assert len(by_id(rows)) == 10


def test_the_source_can_be_an_iterable_of_records(llm: ChatArbitrage, tmp_path: Path) -> None:
    summary = run_batch(llm, ({"prompt": p} for p in ("How?", "Why?")), tmp_path / "out.jsonl")
    assert (summary.done, summary.succeeded) == (2, True)


# --- several runs ------------------------------------------------------------------------


def test_a_restarted_job_answers_only_the_remaining_requests(
    run: Run, llm: ChatArbitrage, tmp_path: Path
) -> None:
    _, first = run(*LINES)
    head = (tmp_path / "out.jsonl").read_bytes().split(b"\n")[:5]
    (tmp_path / "out.jsonl").write_bytes(b"\n".join(head) + b'\n{"id": "arbitrage-0123", "cus')
    summary, again = run()
    assert (summary.skipped, summary.done, summary.succeeded) == (5, 7, True)
    assert again[:5] == first[:5]
    assert {k: text(r) for k, r in by_id(again).items()} == {
        k: text(r) for k, r in by_id(first).items()
    }
    summary, third = run()
    assert (summary.skipped, summary.done, third) == (12, 0, again)


def test_error_records_remain_until_they_are_retried(run: Run) -> None:
    bad = request_line(1, temperature=-1)
    _, first = run(LINES[0], bad, b"not json")
    summary, again = run()
    assert again == first
    assert (summary.skipped, summary.failed_before, summary.succeeded) == (1, 2, False)
    summary, retried = run(LINES[0], LINES[1], LINES[2], retry_failed=True)
    assert (summary.skipped, summary.done, summary.succeeded) == (1, 2, True)
    assert [row["error"] for row in retried] == [None] * 3
    assert by_id(retried)["q0"] == by_id(first)["q0"]


def test_a_corrected_request_needs_retry_failed(run: Run) -> None:
    run(request_line(1, temperature=-1))
    with pytest.raises(DataError, match="If you corrected the request, add --retry-failed"):
        run(LINES[1])
    assert run(LINES[1], retry_failed=True)[0].succeeded


def test_shards_divide_the_input(run: Run, tmp_path: Path) -> None:
    counts = []
    for i in (1, 2, 3):
        summary, rows = run(*LINES[:10], shard=f"{i}/3")
        assert summary.succeeded
        counts.append(len(rows))
    assert counts == [4, 7, 10]  # one after another into one file
    by_id(rows)


def test_a_job_stops_at_max_time_and_the_next_run_resumes(
    run: Run, llm: ChatArbitrage, tmp_path: Path
) -> None:
    slow = [request_line(n, max_tokens=200) for n in range(8)]
    start = time.perf_counter()
    summary, rows = run(*slow, request_line(8, max_tokens=1), max_time=0.15, concurrency=3)
    assert time.perf_counter() - start < 3
    assert summary.stopped == "max_time"
    assert summary.remaining == 9 - len(rows) > 0
    assert not summary.succeeded
    summary, rows = run(*slow, request_line(8, max_tokens=1))
    assert summary.succeeded
    assert len(by_id(rows)) == 9


def test_an_output_written_by_vllm_is_continued(run: Run, tmp_path: Path) -> None:
    done = {
        "id": "vllm-1f",
        "custom_id": "q0",
        "response": {"status_code": 200, "request_id": "vllm-batch-2e", "body": {}},
        "error": None,
    }
    wrong = {"id": "vllm-2f", "custom_id": "q1", "response": None, "error": {"message": "no"}}
    write(tmp_path / "out.jsonl", done, wrong)
    summary, rows = run(*LINES[:3], retry_failed=True)
    assert (summary.skipped, summary.done) == (1, 2)
    assert by_id(rows)["q0"] == done


# --- models that fail --------------------------------------------------------------------


def test_a_request_that_crashes_the_model_fails_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other requests that failed with it are repeated."""
    forward = LlamaForCausalLM.forward

    def failing(self: Any, input_ids: Any = None, *args: Any, **kwargs: Any) -> Any:
        if input_ids.shape[-1] > 150:
            raise RuntimeError("a kernel failed")
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", failing)
    poison = request_line(99, messages=[{"role": "user", "content": "buys " * 300}])
    summary, rows = run(*LINES[:4], poison, *LINES[4:8], concurrency=9)
    assert [r["custom_id"] for r in rows if r["error"]] == ["q99"]
    assert "a kernel failed" in by_id(rows)["q99"]["error"]["message"]
    assert by_id(rows)["q99"]["response"]["status_code"] == 500
    assert (summary.done, summary.failed) == (8, 1)


def test_models_that_always_fail_end_the_job_without_error_records(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forward = LlamaForCausalLM.forward

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(executor, "MAX_FAILURES", 1)  # each failure reloads a model
    monkeypatch.setattr(LlamaForCausalLM, "forward", failing)
    with pytest.raises(EngineError, match=r"without one answer. .*the device is gone"):
        run(*(request_line(n) for n in range(40)), concurrency=2)
    assert read(tmp_path / "out.jsonl") == []
    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    assert run()[0].succeeded


def test_a_full_queue_delays_requests(tmp_path: Path) -> None:
    llm = ChatArbitrage(**SETTINGS | {"max_slots": 1, "max_queue": 0, "router": AlwaysTarget()})
    summary = run_batch(llm, LINES[:5], tmp_path / "out.jsonl", concurrency=5)
    assert summary.succeeded
    llm.close()


def test_a_missing_model_ends_the_job_at_once(tmp_path: Path) -> None:
    llm = ChatArbitrage(**SETTINGS | {"target": "./no-such-folder", "router": AlwaysTarget()})
    with pytest.raises(CheckpointError, match="no-such-folder"):
        run_batch(llm, LINES, tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == []


# --- refused before anything is loaded ---------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"concurrency": 0}, "concurrency must be at least 1, not 0"),
        ({"concurrency": "many"}, "concurrency"),
        ({"max_time": 0}, "max_time must be above 0 seconds, not 0"),
        ({"max_time": float("nan")}, "max_time must be above 0 seconds, not nan"),
        ({"shard": "2"}, "shard must be I/N with I from 1 to N, such as 1/4, not '2'"),
        ({"shard": "0/2"}, "not '0/2'"),
        ({"shard": "3/2"}, "not '3/2'"),
        ({"speed": 3}, r"Unknown setting 'speed'"),
    ],
)
def test_an_invalid_job_setting_is_refused(
    settings: dict[str, Any], message: str, llm: ChatArbitrage, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        run_batch(llm, LINES, tmp_path / "out.jsonl", **settings)
    assert not (tmp_path / "out.jsonl").exists()


def test_an_output_of_another_job_is_refused_and_not_changed(
    loads: list[str], tmp_path: Path
) -> None:
    llm = ChatArbitrage(**SETTINGS | {"max_slots": 58})
    source, output = write(tmp_path / "in.jsonl", *LINES[:3]), tmp_path / "out.jsonl"
    ours = {"id": "arbitrage-00", "custom_id": "q1", "response": None, "error": None}
    cases: list[tuple[list[Any], str]] = [
        ([LINES[7], {"custom_id": "z"}], "line 1: not an output line of a batch job"),
        (
            [ours | {"id": "x", "custom_id": "other"}],
            "does not contain 1 of its custom_ids, such as 'other'",
        ),
        ([ours | {"error": {}}], "custom_id 'q1' answers a different request than line 2"),
        ([b"Dear diary"], "line 1 is not valid JSON"),
        ([b'{"id": "x"}', b"}"], "line 1: not an output line of a batch job"),
    ]
    for lines, message in cases:
        before = write(output, *lines).read_bytes()
        with pytest.raises(DataError, match=message):
            run_batch(llm, source, output)
        assert output.read_bytes() == before
    assert not loads


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("nowhere.jsonl", "out.jsonl", "nowhere.jsonl cannot be read: No such file"),
        (".", "out.jsonl", "cannot be read: Is a directory"),
        ("in.jsonl", "no/folder/out.jsonl", "cannot be written: No such file"),
        ("in.jsonl", ".", "cannot be written: Is a directory"),
        ("in.jsonl", "in.jsonl", "is both input and output"),
        ("in.jsonl", "../{}/in.jsonl", "is both input and output"),
    ],
)
def test_unusable_files_are_refused(
    source: str, output: str, message: str, tmp_path: Path, loads: list[str]
) -> None:
    write(tmp_path / "in.jsonl", *LINES)
    llm = ChatArbitrage(**SETTINGS | {"max_slots": 58})
    with pytest.raises(DataError, match=message):
        run_batch(llm, tmp_path / source, tmp_path / output.format(tmp_path.name))
    assert not loads


def test_a_second_job_on_the_same_output_is_refused(llm: ChatArbitrage, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with (
        BatchJob(LINES, output, BatchSettings()),
        pytest.raises(DataError, match="being written by another job"),
    ):
        run_batch(llm, LINES, output)


# --- sync, async, inside a loop ----------------------------------------------------------


async def test_sync_async_and_running_loop_give_the_same_output(
    llm: ChatArbitrage, tmp_path: Path
) -> None:
    counts: list[int] = []
    await arun_batch(llm, LINES[:4], tmp_path / "a.jsonl", lambda s: counts.append(s.done))
    run_batch(llm, LINES[:4], tmp_path / "b.jsonl", lambda s: counts.append(s.done))
    assert counts == [1, 2, 3, 4] * 2
    a, b = (by_id(read(tmp_path / f"{name}.jsonl")) for name in "ab")
    assert {k: text(row) for k, row in a.items()} == {k: text(row) for k, row in b.items()}


async def test_a_cancelled_job_keeps_its_records(llm: ChatArbitrage, tmp_path: Path) -> None:
    output, three_done = tmp_path / "out.jsonl", asyncio.Event()
    lines = [request_line(n, max_tokens=60) for n in range(12)]
    work = asyncio.create_task(
        arun_batch(llm, lines, output, lambda s: s.done == 3 and three_done.set(), concurrency=3)
    )
    await three_done.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert 3 <= len(read(output)) < 12
    assert (await arun_batch(llm, lines, output)).succeeded
    assert len(by_id(read(output))) == 12


def test_the_number_of_tasks_does_not_grow_with_the_number_of_requests(
    llm: ChatArbitrage, tmp_path: Path
) -> None:
    """Neither tasks nor requests nor answers are held in a list."""
    tasks: list[int] = []

    def count_tasks(_: Any) -> None:
        tasks.append(len(asyncio.all_tasks()))

    run_batch(
        llm,
        (request_line(n, max_tokens=1) for n in range(60)),
        tmp_path / "o",
        count_tasks,
        concurrency=3,
    )
    assert max(tasks) < 3 * 4 + 6  # per answer: its task, stream, graph and node
    assert threading.active_count() < 40
