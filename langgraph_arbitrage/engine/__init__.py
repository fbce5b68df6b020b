"""The engine: runs local Hugging Face models that generate and score steps in batches.

It imports neither LangChain nor LangGraph. Each resource has one owner: `Engine` owns a model,
`Scheduler` decides which sequences run, `ModelRunner` alone calls the model, and `KVCache` owns the
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
