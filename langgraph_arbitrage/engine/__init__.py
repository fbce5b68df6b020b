"""The engine: generates and scores steps with local Hugging Face models, in batches.

This package imports neither LangChain nor LangGraph. `Engine` accepts the requests of one model.
`Scheduler` decides which sequences run. Only `ModelRunner` calls the model. `KVCache` allocates the
tensors of keys and values.
"""

from langgraph_arbitrage.engine.engine import Engine, acquire, release
from langgraph_arbitrage.engine.footprint import Footprint
from langgraph_arbitrage.engine.requests import (
    FinishReason,
    GenerateOutput,
    GenerateRequest,
    Grammar,
    RequestHandle,
    SamplingParams,
    ScoreOutput,
    ScoreRequest,
    TokenListener,
)
from langgraph_arbitrage.models.spec import ModelSpec
from langgraph_arbitrage.models.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "Engine",
    "FinishReason",
    "Footprint",
    "GenerateOutput",
    "GenerateRequest",
    "Grammar",
    "ModelSpec",
    "RequestHandle",
    "SamplingParams",
    "ScoreOutput",
    "ScoreRequest",
    "TokenListener",
    "Tokenizer",
    "acquire",
    "load_tokenizer",
    "release",
]
