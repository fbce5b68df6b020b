"""Compute threads: how many a forward gets, and what becomes of them while nobody asks."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from langgraph_arbitrage.engine import Engine, Write, cores
from langgraph_arbitrage.engine.cores import Cores
from spies import until
from tiny import make, random_ids

PATH = make("llama", endless=True)
TASKS = Path("/proc/self/task")


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(PATH)


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """Threads of this thread, as other tests expect them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def threads_now() -> set[str]:
    return {task.name for task in TASKS.iterdir()}


def on_a_thread(work: Callable[[], None]) -> None:
    """Run on a thread of its own, which has compute threads of its own."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in failed:
        raise error


@pytest.mark.skipif(not TASKS.is_dir(), reason="needs /proc")
@pytest.mark.skipif(sys.platform != "linux", reason="needs libgomp")
def test_threads_that_rest_are_gone_and_come_back(model: PreTrainedModel) -> None:
    numbers = torch.ones(1 << 20)

    def work() -> None:
        own = Cores(model, 2)
        for _ in range(3):
            own.use(1)
            before = threads_now()
            assert numbers.sum().item() == len(numbers)
            new = threads_now() - before
            assert new
            own.rest()
            until(lambda new=new: not new & threads_now())  # type: ignore[misc]

    on_a_thread(work)


def test_only_who_has_several_lets_them_rest(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[int] = []
    monkeypatch.setattr(cores, "_pause", paused.append)
    for threads, rests in ((1, 0), (2, 1)):
        own = Cores(model, threads)
        own.rest()  # whatever loading has used
        paused.clear()
        own.use(1)
        own.rest()
        own.rest()
        assert len(paused) == rests


def test_models_at_work_share_the_cores(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "ALL", 2)
    monkeypatch.setattr(cores, "WIDE", 4 * model.num_parameters())
    monkeypatch.setattr(cores, "_at_work", set())
    own = Cores(model, None)
    for others, rows, wanted in ((0, 1, 1), (0, 4, 2), (1, 4, 1), (0, 3, 1)):
        cores._at_work.update(range(others))
        with own:
            own.use(rows)
            assert torch.get_num_threads() == wanted
        cores._at_work.clear()
    assert cores.threads_alone(model.num_parameters()) == 1
    assert cores.threads_alone(4 * model.num_parameters()) == 2


def test_a_model_that_waits_rests(
    monkeypatch: pytest.MonkeyPatch, fresh: Callable[..., Engine]
) -> None:
    paused: list[str] = []
    monkeypatch.setattr(
        cores, "_pause", lambda kind: paused.append(threading.current_thread().name)
    )
    engine = fresh(PATH, threads=2)
    for n in range(1, 4):
        engine.submit(Write(random_ids(9), 5)).result()
        until(lambda n=n: len(paused) >= n)  # type: ignore[misc]
    assert set(paused) == {f"arbitrage-{Path(PATH).name}"}
    assert len(paused) == 3  # once a request, whatever it took
