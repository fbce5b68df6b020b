"""Trains a router or a PRM from rows: split, fit, measure, write it down."""

from __future__ import annotations

import os
from collections.abc import Sequence

from langgraph_arbitrage.engine import ModelSpec, load_tokenizer
from langgraph_arbitrage.errors import ArbitrageError, DataError
from langgraph_arbitrage.loop.models import piece_ids
from langgraph_arbitrage.models.checkpoint import context_length, load_config
from langgraph_arbitrage.models.identifiers import local_path, public_name
from langgraph_arbitrage.scorers import StepScorer
from langgraph_arbitrage.training.card import TrainingRecord, write_card
from langgraph_arbitrage.training.configs import SurpriseConfig
from langgraph_arbitrage.training.examples import Example, split
from langgraph_arbitrage.training.job import Job, Progress
from langgraph_arbitrage.training.metrics import report
from langgraph_arbitrage.training.questions import question_id

__all__ = ["first_process", "push", "train"]


def train(job: Job, progress: Progress = lambda done, of: None) -> TrainingRecord:
    """Train on most questions, measure on those held out, write the checkpoint and its card.

    Args:
        job: What, from which steps, on which base, into which folder, how.
        progress: Told of questions read, or of updates done.

    Raises:
        DataError: There is nothing to learn, or the folder holds something else.
        CheckpointError: The base cannot be used.
    """
    from langgraph_arbitrage.training.surprise import SurpriseTrainer
    from langgraph_arbitrage.training.token import TokenTrainer

    data, config = job.data, job.config
    trainer: SurpriseTrainer | TokenTrainer
    if isinstance(config, SurpriseConfig):
        trainer = SurpriseTrainer(job, config)
    else:
        trainer = TokenTrainer(job, config)
    fitting = _fitting(data.examples, trainer.scorer, job.base)
    training, held_out = split(fitting, config.held_out, config.seed)
    scores = trainer.train(training, held_out, progress)
    gains = [e.gain for e in held_out] if job.role == "router" else None
    record = TrainingRecord(
        role=job.role,
        head=job.head,
        base=public_name(local_path(job.base)),
        draft=data.draft,
        target=data.target,
        prm=data.prm,
        rows=len(training),
        too_long=len(data.examples) - len(fitting),
        config=config.model_dump(),
        metrics=report(scores, [e.label for e in held_out], gains),
        questions=sorted({question_id(e.question) for e in data.examples}),
    )
    if first_process():
        record.save(job.output)
        write_card(job.output, record)
        job.finished()
    return record


def first_process() -> bool:
    """Whether this is the one of several processes that writes and tells."""
    return os.environ.get("RANK", "0") == "0"  # as torchrun and accelerate launch set it


def _fitting(examples: Sequence[Example], scorer: StepScorer, base: str) -> list[Example]:
    """The examples that the base can read."""
    spec = ModelSpec(local_path(base))
    tokenizer, context = load_tokenizer(spec), context_length(load_config(spec))

    def length(example: Example) -> int:
        request = scorer.request(example.question, example.past, example.step)
        return sum(len(piece) for piece in piece_ids(tokenizer, request.pieces))

    found = [e for e in examples if context is None or length(e) <= context]
    if not found:
        raise DataError(f"none of the {len(examples)} rows fits the {context} tokens of {base}")
    return found


def push(job: Job, repo: str) -> str:
    """Put the finished folder on the hub; the address.

    Raises:
        ArbitrageError: The hub cannot be reached, or does not let us; the folder is kept.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        api = HfApi()
        api.create_repo(repo, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=job.output))
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise ArbitrageError(
            f"the {job.role} is finished in {job.output}, but {repo} on the hub did not take it: "
            f"{error}. Log in with `hf auth login`, then `hf upload {repo} {job.output}`"
        ) from error
