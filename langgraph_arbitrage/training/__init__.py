"""Rows, routers, PRMs and thresholds for one's own pair of models.

Collect rows, train a router on them, calibrate its threshold: a config and what works by it, as a
pair. README.md beside this file has the commands that made the embedded router.
"""

from langgraph_arbitrage.training.collect import CollectConfig, Collected, Collector
from langgraph_arbitrage.training.questions import Question, load_questions, question_id
from langgraph_arbitrage.training.rows import Row, RowFile, read_rows
from langgraph_arbitrage.training.summary import histogram, summary

__all__ = [
    "CollectConfig",
    "Collected",
    "Collector",
    "Question",
    "Row",
    "RowFile",
    "histogram",
    "load_questions",
    "question_id",
    "read_rows",
    "summary",
]
