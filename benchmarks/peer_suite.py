"""LangChain's standard tests of ChatHuggingFace with a local pipeline, run by `conformance.py`."""

from __future__ import annotations

from typing import Any

from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langgraph_arbitrage import embedded


class Peer:
    """The embedded target with the same test flags as ChatArbitrage."""

    chat_model_class = ChatHuggingFace
    supports_json_mode = True
    supports_anthropic_inputs = True
    model_override_value = embedded.TARGET

    @property
    def chat_model_params(self) -> dict[str, Any]:
        llm = HuggingFacePipeline.from_model_id(
            model_id=embedded.TARGET,
            task="text-generation",
            pipeline_kwargs={"max_new_tokens": 120, "do_sample": False, "return_full_text": False},
        )
        return {"llm": llm}


class TestUnit(Peer, ChatModelUnitTests):
    """Tests that do not generate."""


class TestIntegration(Peer, ChatModelIntegrationTests):
    """Tests that generate."""
