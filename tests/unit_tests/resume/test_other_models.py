"""A checkpoint is gone on with by the models that wrote it, or by others when told to."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from langgraph_arbitrage import ArbitrageSettings, Context, Models
from langgraph_arbitrage.errors import OtherModelsError
from langgraph_arbitrage.persistence.time_travel import fork, rewind
from runs import ASK, SETTINGS, same_answer, thread
from tiny import make

OTHER = {"target": make("llama", 5, endless=True, words=True)}
FOREIGN = {  # another vocabulary, so that no id means the same
    "draft": make("llama", 6, vocabulary=330, num_hidden_layers=2, endless=True, words=True),
    "target": make("llama", 7, vocabulary=330, endless=True, words=True),
}


def broken(graph: Any, node: str) -> None:
    """Stop a run before the node that follows its fourth step."""
    graph.invoke(ASK, thread(), interrupt_before=[node])
    while len(graph.get_state(thread()).values.get("steps", [])) < 4:
        graph.invoke(None, thread(), interrupt_before=[node])


@pytest.mark.parametrize("node", ["draft", "route", "commit"])
def test_other_models_refuse_to_go_on(node: str, saver: Any, compiled: Any) -> None:
    broken(compiled(saver), node)
    other = compiled(saver, **OTHER)
    with pytest.raises(OtherModelsError) as refusal:
        other.invoke(None, thread())
    for part in (SETTINGS["target"], OTHER["target"], "Context(other_models=True)"):
        assert part in str(refusal.value)
    assert len(other.get_state(thread()).values["steps"]) == 4  # nothing was changed


async def test_nor_async(compiled: Any) -> None:
    graph = compiled()
    broken(graph, "draft")
    with pytest.raises(OtherModelsError):
        await compiled(graph.checkpointer, **OTHER).ainvoke(None, thread())


@pytest.mark.parametrize("node", ["draft", "route", "commit"])
@pytest.mark.parametrize("models", [OTHER, FOREIGN], ids=["same vocabulary", "another vocabulary"])
def test_told_to_they_go_on_with_the_text(
    models: dict[str, str], node: str, saver: Any, compiled: Any, unbroken: Any
) -> None:
    broken(compiled(saver), node)
    other = compiled(saver, **models)
    state = other.invoke(None, thread(), context=Context(other_models=True))
    assert [s["text"] for s in state["steps"][:4]] == [s["text"] for s in unbroken["steps"][:4]]
    assert state["finish_reason"] == "length"
    assert state["models"]["target"]["path"] == models["target"]
    stored = other.get_state(thread()).values
    assert stored["steps"] == state["steps"]
    # From now on it is theirs: they go on without being told, and what they give is what they
    # would have given from the same text.
    again = other.invoke(None, fork(other, thread(), 6, thread="2"))
    assert same_answer(again, state)
    vocabularies = Models(ArbitrageSettings(**SETTINGS | models))
    for step in state["steps"]:
        tokenizer = vocabularies.tokenizer(step["writer"])
        assert tokenizer.decode(step["ids"]) == step["text"]
    vocabularies.close()


def test_the_same_models_elsewhere_go_on(compiled: Any, unbroken: Any, tmp_path: Path) -> None:
    graph = compiled()
    broken(graph, "draft")
    moved = {role: tmp_path / role for role in ("draft", "target")}
    for role, path in moved.items():
        shutil.copytree(SETTINGS[role], path)
    assert same_answer(compiled(graph.checkpointer, **moved).invoke(None, thread()), unbroken)


def test_another_model_of_the_same_name_is_told_apart(compiled: Any, tmp_path: Path) -> None:
    path = tmp_path / "target"
    shutil.copytree(SETTINGS["target"], path)
    graph = compiled(target=path)
    broken(graph, "draft")
    shutil.rmtree(path)
    shutil.copytree(OTHER["target"], path)
    with pytest.raises(OtherModelsError, match="another target"):
        compiled(graph.checkpointer, target=path).invoke(None, thread())


def test_a_new_question_on_the_thread_may_go_to_any_models(saver: Any, compiled: Any) -> None:
    compiled(saver).invoke(ASK, thread())
    state = compiled(saver, **FOREIGN).invoke(ASK, thread())
    assert [m.type for m in state["messages"]] == ["human", "ai", "human", "ai"]
    assert rewind(compiled(saver, **FOREIGN), thread(), 0)
