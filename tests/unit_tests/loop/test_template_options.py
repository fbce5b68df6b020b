"""Chat templates: named ones, replacements, variables; and values that break tokenizers.

Each case stands for a public report; the sources are named beside it.
"""

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langgraph_arbitrage import AlwaysTarget, ChatArbitrage, DraftConfidence
from langgraph_arbitrage.errors import ChatTemplateError, MessageError, SettingsError
from tiny import CHAT_TEMPLATE, QUESTIONS, make, pair

THINKING = CHAT_TEMPLATE + (
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
)
Checkpoint = Callable[[Any], str]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """Copy a tiny model and give it other chat templates."""

    def copied(template: Any) -> str:
        folder = tmp_path / "model"
        shutil.copytree(make("llama", endless=True), folder, dirs_exist_ok=True)
        for name in ("chat_template.jinja", "chat_template.json"):
            (folder / name).unlink(missing_ok=True)
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))
        return str(folder)

    return copied


def prompt(llm: ChatArbitrage, role: str = "target", **options: Any) -> str:
    """The text that a model reads for a question."""
    from langchain_core.messages import HumanMessage

    from langgraph_arbitrage.config.context import Context

    models = llm._models
    settings = models.run_settings.overridden(Context(**options))
    ids = models.render_prompts([HumanMessage("Hi")], settings, also=["draft"])[role]
    return str(models.tokenizer(role).hf.decode(ids))  # type: ignore[arg-type]


def alone(path: str, **settings: Any) -> ChatArbitrage:
    return ChatArbitrage(draft=path, target=path, router=AlwaysTarget(), max_tokens=5, **settings)


def test_the_default_of_named_templates_is_used(checkpoint: Checkpoint) -> None:
    """ollama/ollama#6522 (Hermes 3), EleutherAI/lm-evaluation-harness#1578 (Command R+)."""
    named = [
        {"name": "default", "template": CHAT_TEMPLATE},
        {"name": "tool_use", "template": "{{ tools | tojson }}" + CHAT_TEMPLATE},
    ]
    llm = alone(checkpoint(named))
    assert "[{" not in prompt(llm)
    assert llm.invoke("Hi").text
    llm.close()


def test_conversations_with_tools_use_the_template_for_tools(checkpoint: Checkpoint) -> None:
    """huggingface/transformers#31429."""
    from langgraph_arbitrage.engine import ModelSpec
    from langgraph_arbitrage.models.tokenizer import load_tokenizer

    named = [
        {"name": "default", "template": CHAT_TEMPLATE},
        {"name": "tool_use", "template": "TOOLS" + CHAT_TEMPLATE},
    ]
    tokenizer = load_tokenizer(ModelSpec(checkpoint(named)))
    message = [{"role": "user", "content": "Hi"}]
    assert tokenizer.render_text(message, tools=[{"name": "f"}]).startswith("TOOLS")
    assert not tokenizer.render_text(message).startswith("TOOLS")


def test_named_templates_without_a_default_are_refused_by_name(checkpoint: Checkpoint) -> None:
    path = checkpoint([{"name": "rag", "template": CHAT_TEMPLATE}])
    with pytest.raises(ChatTemplateError, match=r"'rag', but none is named 'default'"):
        alone(path).invoke("Hi")


def test_the_setting_replaces_a_checkpoints_own_template() -> None:
    llm = alone(make("llama"), chat_template="OWN" + CHAT_TEMPLATE)
    assert prompt(llm).startswith("OWN")
    llm.close()


def test_template_variables_are_a_setting_and_an_option_of_a_call(checkpoint: Checkpoint) -> None:
    """gpustack/gpustack#1952, abetlen/llama-cpp-python#2063: enable_thinking=False of Qwen 3."""
    path = checkpoint(THINKING)
    off = {"enable_thinking": False}
    assert prompt(alone(path, chat_template_kwargs=off)).endswith("</think>")
    llm = alone(path)
    assert not prompt(llm).endswith("</think>")
    assert prompt(llm, chat_template_kwargs=off).endswith("</think>")
    assert llm.invoke("Hi", chat_template_kwargs=off).text
    llm.close()


def test_draft_and_target_may_have_variables_of_their_own(checkpoint: Checkpoint) -> None:
    path = checkpoint(THINKING)
    llm = ChatArbitrage(
        draft=path,
        target=path,
        router=DraftConfidence(0.5),
        draft_chat_template_kwargs={"enable_thinking": False},
    )
    assert prompt(llm, "draft").endswith("</think>")
    assert not prompt(llm, "target").endswith("</think>")
    llm.close()


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt"])
def test_variables_of_the_conversation_itself_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"must not set {name}"):
        ChatArbitrage(chat_template_kwargs={name: True})


@pytest.mark.parametrize("text", ["\ud83d", "Ann \udcff has 3"])
def test_half_a_surrogate_pair_is_refused_wherever_it_comes(text: str) -> None:
    """openai/tiktoken#82, danilop/multimodal-chat#19."""
    llm = ChatArbitrage(**pair(), max_tokens=5)
    for use in (llm.invoke, llm.get_num_tokens, lambda t: list(llm.stream(t))):
        with pytest.raises(MessageError, match="half of a surrogate pair"):
            use(text)
    with pytest.raises(SettingsError, match="must be valid UTF-8 text"):
        llm.invoke("Hi", stop=[text])
    llm.close()


@pytest.mark.parametrize("temperature", [1e-45, 1e-30, 1e-6])
def test_tiny_temperatures_are_greedy(temperature: float) -> None:
    llm = ChatArbitrage(**pair(endless=True), router=AlwaysTarget(), max_tokens=20)
    greedy = llm.invoke(QUESTIONS[0], temperature=0).text
    assert llm.invoke(QUESTIONS[0], temperature=temperature, seed=3).text == greedy
    llm.close()


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_chat_model_is_copied_and_pickled_after_use(duplicate: Any) -> None:
    llm = ChatArbitrage(**pair(endless=True), max_tokens=10)
    text = llm.invoke(QUESTIONS[0]).text
    other = duplicate(llm)
    assert other.invoke(QUESTIONS[0]).text == text
    other.close()
    assert llm.invoke(QUESTIONS[0]).text == text
    llm.close()


@pytest.mark.parametrize("how", ["string", "ids"])
def test_an_added_token_ends_an_answer(how: str) -> None:
    """thinking-machines-lab/tinker-feedback#90, LostRuins/koboldcpp#791."""
    path = make("llama", endless=True)
    llm = alone(path, temperature=0)
    tokenizer = llm._models.tokenizer("target")
    end = tokenizer.added_token_id("<user>") or tokenizer.hf.eos_token_id
    name = tokenizer.raw_token(end)
    request = {"stop": [name]} if how == "string" else {"stop_token_ids": (end,)}
    from langgraph_arbitrage.config.context import Context
    from langgraph_arbitrage.loop.generation import Generation

    models = llm._models
    generation = Generation(models, models.run_settings.overridden(Context(**request)))
    assert generation._stop_token_ids("target") == (end,)
    llm.close()


# --- continue_final_message --------------------------------------------------------------


def test_a_continued_message_goes_on_where_it_stopped() -> None:
    """vllm-project/vllm#6959, huggingface/transformers#33096: answers begun for the model."""
    llm = ChatArbitrage(
        **pair(words=True, endless=True), router=AlwaysTarget(), max_tokens=30, temperature=0.0
    )
    whole = llm.invoke(QUESTIONS[0]).text
    words = whole.split(" ")
    begun, rest = " ".join(words[:8]), " " + " ".join(words[8:])
    said = [("user", QUESTIONS[0]), ("assistant", begun)]
    continued = llm.invoke(said, continue_final_message=True).text
    assert rest.startswith(continued[: len(rest)])
    assert len(continued) >= len(rest)
    assert llm.invoke(said).text != continued
    llm.close()


@pytest.mark.parametrize(
    ("last", "named"), [(("user", "Go on."), "role 'user'"), (("assistant", ""), "empty")]
)
def test_a_message_that_cannot_be_continued_is_refused(last: tuple[str, str], named: str) -> None:
    llm = ChatArbitrage(**pair(), router=AlwaysTarget(), max_tokens=5)
    with pytest.raises(MessageError, match=named):
        llm.invoke([("user", "Hi"), ("assistant", "Hello"), last], continue_final_message=True)
    llm.close()


def test_the_prompt_ends_within_the_message(checkpoint: Checkpoint) -> None:
    """The template's generation prompt and end of turn are left out, thinking marks as well."""
    from langchain_core.messages import AIMessage, HumanMessage

    from langgraph_arbitrage.config.context import Context

    llm = alone(checkpoint(CHAT_TEMPLATE + "{% if add_generation_prompt %}<think>{% endif %}"))
    models = llm._models
    settings = models.run_settings.overridden(Context(continue_final_message=True))
    said = [HumanMessage("Hi"), AIMessage("So 3 +")]
    ids = models.render_prompts(said, settings)["target"]
    assert models.tokenizer("target").hf.decode(ids).endswith("<assistant>So 3 +")  # type: ignore[union-attr]
    assert models.template("target", settings).opening_mark is None
    llm.close()
