"""Engines work in a forked process, which does not inherit threads."""

import os
import signal
import threading
from collections.abc import Callable

import pytest

from langgraph_arbitrage import AlwaysTarget, ChatArbitrage
from langgraph_arbitrage.engine import Engine, GenerateRequest, acquire, release
from langgraph_arbitrage.models.spec import ModelSpec
from langgraph_arbitrage.utils.fork_lock import ForkLock
from tiny import generate, make, pair, random_ids

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
PATH = make("llama", endless=True)


def in_child(work: Callable[[], bool]) -> bool:
    """Whether `work` returns True in a forked process within 30 seconds."""
    child = os.fork()
    if not child:
        signal.alarm(30)
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def test_a_running_engine_starts_its_own_worker_in_the_child() -> None:
    engine, ids = Engine(ModelSpec(PATH)), random_ids(9)
    busy = threading.Event()
    handle = engine.submit(GenerateRequest(ids, 400), lambda _: busy.set())
    assert busy.wait(60)
    assert in_child(
        lambda: engine.submit(GenerateRequest(ids, 5)).result().ids == generate(PATH, ids, 5)
    )
    assert handle.result().ids == generate(PATH, ids, 400)  # the parent continues
    engine.close()


def test_a_used_chat_model_answers_in_the_child() -> None:
    llm = ChatArbitrage(**pair(endless=True), router=AlwaysTarget(), max_tokens=5)
    expected = llm.invoke("How many?").text
    assert in_child(lambda: llm.invoke("How many?").text == expected)
    assert llm.invoke("How many?").text == expected
    llm.close()


def test_engines_are_released_in_the_child_as_in_the_parent() -> None:
    engine, ids = acquire(ModelSpec(PATH)), random_ids(9)
    engine.submit(GenerateRequest(ids, 2)).result()

    def work() -> bool:
        same = acquire(ModelSpec(PATH)) is engine
        answered = engine.submit(GenerateRequest(ids, 2)).result().ids == generate(PATH, ids, 2)
        release(engine)
        release(engine)
        return same and answered

    assert in_child(work)
    assert engine.submit(GenerateRequest(ids, 2)).result().ids
    release(engine)


def test_a_lock_held_by_another_thread_is_free_in_the_child() -> None:
    lock, held, done = ForkLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def work() -> bool:
        with lock:
            return True

    try:
        assert in_child(work)
    finally:
        done.set()
        thread.join()
