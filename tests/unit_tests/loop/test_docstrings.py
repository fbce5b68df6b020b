"""Examples in docstrings run as they stand."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import langgraph_arbitrage
from langgraph_arbitrage import embedded

TRAINED = all(
    (Path(path) / "model.safetensors").is_file() for path in (embedded.DRAFT, embedded.TARGET)
)
NOT_RUN = ("langgraph_arbitrage.embedded.make",)  # programs that train


def names() -> list[str]:
    found = pkgutil.walk_packages(langgraph_arbitrage.__path__, "langgraph_arbitrage.")
    return [m.name for m in found if not m.name.startswith(NOT_RUN) and "__main__" not in m.name]


def examples(name: str) -> list[doctest.DocTest]:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("langgraph_arbitrage"):
            raise
        pytest.skip(f"needs {error.name}, which an extra brings")
    found = doctest.DocTestFinder(exclude_empty=True).find(module)
    return [test for test in found if test.examples]


def needs_models(test: doctest.DocTest) -> bool:
    source = "".join(e.source for e in test.examples)
    return any(n in source for n in ("ChatArbitrage(", "create_arbitrage_graph(", "embedded.DRAFT"))


@pytest.mark.parametrize("name", names())
def test_examples_give_what_they_say(name: str) -> None:
    for test in examples(name):
        if needs_models(test) and not TRAINED:
            continue
        told: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert runner.run(test, out=told.append).failed == 0, "".join(told)


@pytest.mark.parametrize(
    "name", ["chat_model.model", "graphs.arbitrage", "policies.base", "loop.answer_text"]
)
def test_what_a_newcomer_uses_has_an_example(name: str) -> None:
    assert examples(f"langgraph_arbitrage.{name}")
