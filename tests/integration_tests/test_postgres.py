"""The same promises on a real Postgres, started for the test (run with: pytest -m postgres)."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from throwaway_postgres import binaries, cluster

from killed import check, killed

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    folder = binaries()
    if folder is None:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    if find_spec("psycopg") is None:
        pytest.skip("no client here: pip install 'langgraph-arbitrage[postgres]'")
    with cluster(folder) as found:
        yield found


def test_twenty_kills_of_one_answer_on_postgres(address: str) -> None:
    told = killed(address, kills=20, tokens=500, temperature=0.0)
    check(told, kills=20, steps=40)
