"""The engine: local Hugging Face models that generate and score steps, many requests at a time.

It imports neither LangChain nor LangGraph. One owner per resource: `Engine` is one loaded model,
`Scheduler` decides which sequences run, `ModelRunner` is the only caller of the model, `KVCache`
holds the tensors.
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
