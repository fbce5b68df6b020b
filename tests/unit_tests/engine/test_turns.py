"""Turns: one after the other, in order, and nobody is held up for long."""

import os
import threading
import time

import pytest

from langgraph_arbitrage.engine import turns as turns_module
from langgraph_arbitrage.engine.turns import Turns


def queue_up(turns: Turns, threads: list[threading.Thread]) -> None:
    """Start threads that want a turn, each once the one before it waits."""
    for n, thread in enumerate(threads, start=1):
        thread.start()
        while len(turns._waiting) < n:
            time.sleep(0.0001)


def test_one_at_a_time_in_order_of_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "PATIENCE", 10)
    turns, order = Turns(), []

    def work(name: int) -> None:
        with turns.turn(1):
            assert turns._inside == 1
            order.append(name)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    with turns.turn(1):
        queue_up(turns, threads)
        assert not order
    for thread in threads:
        thread.join(10)
    assert order == list(range(6))


def test_who_comes_back_at_once_does_not_overtake() -> None:
    turns, order, stop = Turns(), [], threading.Event()

    def busy() -> None:
        while not stop.is_set():
            with turns.turn(1):
                order.append("busy")
                time.sleep(0.001)

    thread = threading.Thread(target=busy)
    thread.start()
    while not order:
        time.sleep(0.001)
    for _ in range(5):
        before = len(order)
        with turns.turn(1):
            assert len(order) - before <= 2
    stop.set()
    thread.join(10)


def test_a_long_forward_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "PATIENCE", 0.01)
    turns, inside, goes_on = Turns(), threading.Event(), threading.Event()

    def slow() -> None:
        with turns.turn(1):
            inside.set()
            assert goes_on.wait(10)

    thread = threading.Thread(target=slow)
    thread.start()
    assert inside.wait(10)
    with turns.turn(1):
        assert not goes_on.is_set()
    goes_on.set()
    thread.join(10)
    with turns.turn(1):  # and afterwards it is one at a time again
        assert turns._inside == 1
    assert turns._inside == 0


def test_few_rows_give_way_to_many_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "PATIENCE", 10)
    few, many = 3, 7

    class Crowded(Turns):
        """Whoever has few rows finds that many wait, however slow their thread was."""

        def _enter(self, rows: int) -> None:
            super()._enter(rows)
            while rows == few and not self._waiting:
                time.sleep(0.0001)

    turns, used, few_is_done = Crowded(), [], threading.Event()

    def work(name: str, rows: int) -> None:
        while not few_is_done.is_set():
            with turns.turn(rows) as mine:
                if mine:
                    used.append(name)
                    if name == "few":
                        few_is_done.set()
                        return

    threads = [threading.Thread(target=work, args=a) for a in (("few", few), ("many", many))]
    with turns.turn(1) as mine:
        assert mine  # nobody waits
        queue_up(turns, threads)
    for thread in threads:
        thread.join(10)
    assert used[: used.index("few")] == ["many"] * turns_module.PASSES


def test_nobody_gives_way_to_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "PATIENCE", 10)
    turns, used = Turns(), []

    def work(name: int) -> None:
        with turns.turn(3 + name) as mine:
            used.append((name, mine))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    with turns.turn(1):
        queue_up(turns, threads)
    for thread in threads:
        thread.join(10)
    assert used == [(0, True), (1, True), (2, True)]


def test_an_error_ends_a_turn() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns.turn(1):
        raise KeyError
    with turns.turn(1):
        assert turns._inside == 1


def test_a_forked_child_finds_it_free() -> None:
    turns = Turns()
    with turns.turn(1):
        pid = os.fork()
        if not pid:
            began = time.monotonic()
            with turns.turn(1):
                os._exit(0 if time.monotonic() - began < turns_module.PATIENCE / 2 else 1)
        _, status = os.waitpid(pid, 0)
    assert status == 0
