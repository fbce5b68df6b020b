"""Train a router or a PRM: split the data, fit the model, measure it, save the results."""

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
from langgraph_arbitrage.training.metrics import scorer_metrics
from langgraph_arbitrage.training.questions import question_id

__all__ = ["is_main_process", "push_to_hub", "train"]


def train(job: Job, progress: Progress = lambda done, of: None) -> TrainingRecord:
    """Train a router or a PRM, measure it on held-out questions, and save it with its model card.

    Args:
        job: The data, the base model, the output folder and the options.
        progress: Called with the number of finished units and the total number. Units are questions
            for a surprise head, and optimizer updates for a token head.

    Raises:
        DataError: The data is not sufficient for training, or the output folder is not usable.
        CheckpointError: The base model is not usable.
    """
    from langgraph_arbitrage.training.surprise import SurpriseTrainer
    from langgraph_arbitrage.training.token import TokenTrainer

    data, config = job.data, job.config
    trainer: SurpriseTrainer | TokenTrainer
    if isinstance(config, SurpriseConfig):
        trainer = SurpriseTrainer(job, config)
    else:
        trainer = TokenTrainer(job, config)
    examples = _within_context(data.examples, trainer.scorer, job.base)
    training, held_out = split(examples, config.held_out, config.seed)
    scores = trainer.train(training, held_out, progress)
    advantages = [e.advantage for e in held_out] if job.role == "router" else None
    record = TrainingRecord(
        role=job.role,
        head=job.head,
        base=public_name(local_path(job.base)),
        draft=data.draft,
        target=data.target,
        prm=data.prm,
        rows=len(training),
        too_long=len(data.examples) - len(examples),
        config=config.model_dump(),
        metrics=scorer_metrics(scores, [e.label for e in held_out], advantages),
        questions=sorted({question_id(e.question) for e in data.examples}),
    )
    if is_main_process():
        record.save(job.output)
        write_card(job.output, record)
        job.mark_finished()
    return record


def is_main_process() -> bool:
    """Return whether this process writes files and prints.

    In distributed training, only the process of rank 0 does so.
    """
    return os.environ.get("RANK", "0") == "0"  # set by torchrun and accelerate launch


def _within_context(examples: Sequence[Example], scorer: StepScorer, base: str) -> list[Example]:
    """Return the examples that fit into the base model's context length.

    Raises:
        DataError: No example is left.
    """
    spec = ModelSpec(local_path(base))
    tokenizer, context = load_tokenizer(spec), context_length(load_config(spec))

    def length(example: Example) -> int:
        request = scorer.request(example.question, example.past_steps, example.step)
        return sum(len(piece) for piece in piece_ids(tokenizer, request.pieces))

    fitting = [e for e in examples if context is None or length(e) <= context]
    if not fitting:
        raise DataError(
            f"all {len(examples)} rows are longer than the context length of {base}, {context} "
            "tokens: choose a base with a longer context"
        )
    return fitting


def push_to_hub(job: Job, repo: str) -> str:
    """Upload the finished output folder to the hub; returns its URL.

    Raises:
        ArbitrageError: The upload failed. The folder is kept.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        api = HfApi()
        api.create_repo(repo, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=job.output))
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise ArbitrageError(
            f"the {job.role} is finished in {job.output}, but the upload to {repo} on the hub "
            f"failed: {error}. Log in with `hf auth login`, then run "
            f"`hf upload {repo} {job.output}`"
        ) from error
