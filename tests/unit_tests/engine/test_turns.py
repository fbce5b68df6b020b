"""Turns: one after the other, in order, and nobody is held up for long."""

import os
import threading
import time

import pytest

from langgraph_arbitrage.engine import turns as turns_module
from langgraph_arbitrage.engine.turns import Turns


def test_one_at_a_time_in_order_of_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "PATIENCE", 10)
    turns, order = Turns(), []

    def work(name: int) -> None:
        with turns:
            assert turns._inside == 1
            order.append(name)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    with turns:
        for n, thread in enumerate(threads, start=1):
            thread.start()
            while len(turns._waiting) < n:
                time.sleep(0.0001)
        assert not order
    for thread in threads:
        thread.join(10)
    assert order == list(range(6))


def test_who_comes_back_at_once_does_not_overtake() -> None:
    turns, order, stop = Turns(), [], threading.Event()

    def busy() -> None:
        while not stop.is_set():
            with turns:
                order.append("busy")
                time.sleep(0.001)

    thread = threading.Thread(target=busy)
    thread.start()
    while not order:
        time.sleep(0.001)
    for _ in range(5):
        before = len(order)
        with turns:
            assert len(order) - before <= 2
    stop.set()
    thread.join(10)


def test_a_long_forward_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "PATIENCE", 0.01)
    turns, inside, goes_on = Turns(), threading.Event(), threading.Event()

    def slow() -> None:
        with turns:
            inside.set()
            assert goes_on.wait(10)

    thread = threading.Thread(target=slow)
    thread.start()
    assert inside.wait(10)
    with turns:
        assert not goes_on.is_set()
    goes_on.set()
    thread.join(10)
    with turns:  # and afterwards it is one at a time again
        assert turns._inside == 1
    assert turns._inside == 0


def test_an_error_ends_a_turn() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns:
        raise KeyError
    with turns:
        assert turns._inside == 1


def test_a_forked_child_finds_it_free() -> None:
    turns = Turns()
    with turns:
        pid = os.fork()
        if not pid:
            began = time.monotonic()
            with turns:
                os._exit(0 if time.monotonic() - began < turns_module.PATIENCE / 2 else 1)
        _, status = os.waitpid(pid, 0)
    assert status == 0
