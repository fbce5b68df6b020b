"""Batch jobs: answer a file of requests into another file. An interrupted job resumes."""

from langgraph_arbitrage.batch.job import BatchJob, arun_batch, run_batch
from langgraph_arbitrage.batch.ray_actor import Answers
from langgraph_arbitrage.batch.ray_settings import RaySettings
from langgraph_arbitrage.batch.settings import BatchSettings
from langgraph_arbitrage.batch.summary import BatchSummary

__all__ = [
    "Answers",
    "BatchJob",
    "BatchSettings",
    "BatchSummary",
    "RaySettings",
    "arun_batch",
    "run_batch",
]
