"""A pair of tiny models and the command run in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tiny import make

from langgraph_arbitrage.cli import main


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine's environment says about colours and widths does not count."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="session")
def models() -> list[str]:
    """Options that name two tiny models, and a separator that gives them several steps."""
    draft, target = make("llama", 1), make("llama", 2)
    return ["--draft", draft, "--target", target]


@pytest.fixture(scope="session", autouse=True)
def loaded(models: list[str]) -> Iterator[None]:
    """Keep the models loaded over all tests: the command itself never unloads them."""
    yield
    from langgraph_arbitrage.engine import registry

    for engine in list(registry._engines.values()):
        registry.release(engine)


@pytest.fixture
def arbitrage(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command; its status, stdout and stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        status = main(argv)
        out, err = capsys.readouterr()
        return status, out, err

    return run
