"""Runs that kill themselves with SIGKILL and are resumed end in the unbroken run's answer."""

from pathlib import Path

import pytest

from killed import check, killed


def test_two_kills_on_sqlite(tmp_path: Path) -> None:
    told = killed(str(tmp_path / "c.sqlite"), kills=2, tokens=60, temperature=0.0)
    check(told, kills=2, steps=10)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "seeded"])
def test_twenty_kills_of_one_answer_on_sqlite(temperature: float, tmp_path: Path) -> None:
    told = killed(str(tmp_path / "c.sqlite"), kills=20, tokens=500, temperature=temperature)
    check(told, kills=20, steps=40)
