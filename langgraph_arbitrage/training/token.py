"""Fine-tune a token classifier with the paper's recipe and the Trainer of transformers."""

from __future__ import annotations

import bisect
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from langgraph_arbitrage.engine import ModelSpec, ScoreOutput, Tokenizer, load_tokenizer
from langgraph_arbitrage.errors import CheckpointError, DataError
from langgraph_arbitrage.loop.models import piece_ids
from langgraph_arbitrage.models.identifiers import local_path
from langgraph_arbitrage.scorers import TokenScorer
from langgraph_arbitrage.training.configs import TokenConfig
from langgraph_arbitrage.training.examples import Example, balanced_indices, class_bounds
from langgraph_arbitrage.training.job import Job, Progress

__all__ = ["TokenTrainer"]

CHECKPOINTS = "checkpoints"
IGNORED = -100  # label of tokens that do not contribute to the loss


class TokenTrainer:
    """Trains a token-classification head with cross-entropy on the last token of each step.

    Checkpoints are kept in the output folder until the result is saved, so an interrupted training
    resumes from the last checkpoint.

    Args:
        job: The training job. Its base is a PRM, a classifier or a causal LM.
        config: Training options.
    """

    def __init__(self, job: Job, config: TokenConfig) -> None:
        self.job = job
        self.config = config
        self.scorer = TokenScorer(
            model=str(job.output),
            role=job.role,
            tagged=config.tags and job.role == "router",
            draft=job.data.draft,
            target=job.data.target,
        )
        self.tokenizer = load_tokenizer(ModelSpec(local_path(job.base)))

    def train(
        self, training: Sequence[Example], held_out: Sequence[Example], progress: Progress
    ) -> list[float]:
        """Train and save the classifier; returns its scores of the held-out examples."""
        with _quiet_transformers():
            return self._train(training, held_out, progress)

    def _train(
        self, training: Sequence[Example], held_out: Sequence[Example], progress: Progress
    ) -> list[float]:
        config = self.config
        set_seed(config.seed)
        labels = self._labels(training)
        indices: Sequence[int] = range(len(labels))
        if config.balance:
            indices = balanced_indices(labels, config.seed)
        rows = [self._row(training[i], labels[i]) for i in indices]
        model, dtype = _load_model(local_path(self.job.base), config)
        self.job.claim()
        trainer = self._trainer(model, rows, progress)
        trainer.train(resume_from_checkpoint=_last_checkpoint(self.job.output / CHECKPOINTS))
        unlabelled: Any = [self._row(e, 0) for e in held_out]
        logits = trainer.predict(unlabelled).predictions
        if trainer.is_world_process_zero():
            self._save(trainer, dtype)
        outputs = (
            ScoreOutput(row.tolist(), [], [], computed_tokens=0, cached_tokens=0, seconds=0.0)
            for row in logits
        )
        return [self.scorer.read((), output).value for output in outputs]

    def _labels(self, examples: Sequence[Example]) -> list[int]:
        """Return the class of each example: its label, or with more than 2 classes by its Δ."""
        if self.config.classes == 2:
            return [e.label for e in examples]
        if self.job.role == "prm":
            raise DataError(
                f"--classes {self.config.classes}: a PRM has two classes, right and wrong steps. "
                "Use --classes 2"
            )
        advantages = [e.advantage for e in examples]
        bounds = class_bounds(advantages, self.config.classes, self.job.data.margin)
        return [bisect.bisect_left(bounds, advantage) for advantage in advantages]

    def _row(self, example: Example, label: int) -> dict[str, list[int]]:
        """Return the token ids that the loop would score, with the label at the last token."""
        request = self.scorer.request(example.question, example.past_steps, example.step)
        ids = [token for piece in piece_ids(self.tokenizer, request.pieces) for token in piece]
        return {"input_ids": ids, "labels": [*[IGNORED] * (len(ids) - 1), label]}

    def _trainer(
        self, model: PreTrainedModel, rows: list[dict[str, list[int]]], progress: Progress
    ) -> Trainer:
        config = self.config
        args = TrainingArguments(
            output_dir=str(self.job.output / CHECKPOINTS),
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.device_batch,
            per_device_eval_batch_size=config.device_batch,
            learning_rate=config.lr,
            lr_scheduler_type="linear",
            warmup_steps=config.warmup,
            weight_decay=config.weight_decay,
            optim="adamw_torch",
            seed=config.seed,
            bf16=torch.cuda.is_available() and self.job.device != "cpu",
            use_cpu=self.job.device == "cpu",
            dataloader_pin_memory=False,
            ddp_find_unused_parameters=False,
            remove_unused_columns=False,
            save_strategy="steps",
            save_steps=config.checkpoint_every,
            save_total_limit=2,
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        devices = args.world_size * max(1, args.n_gpu)
        args.gradient_accumulation_steps = max(1, config.batch // (config.device_batch * devices))
        trainer = Trainer(
            model=model,
            args=args,
            train_dataset=rows,
            data_collator=_Collator(self.tokenizer),
            compute_loss_func=_ordinal_loss if config.ordinal else _loss,
            preprocess_logits_for_metrics=_labelled_logits,
            callbacks=[_ProgressCallback(progress)],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _save(self, trainer: Trainer, dtype: torch.dtype) -> None:
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
        if self.config.lora_rank is not None:
            model = model.merge_and_unload()
        model.to(dtype).save_pretrained(self.job.output)
        self.tokenizer.hf.save_pretrained(self.job.output)
        self.scorer.save(self.job.output)
        shutil.rmtree(self.job.output / CHECKPOINTS, ignore_errors=True)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Hide the progress bars of transformers and its warning about a newly initialized head."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _load_model(base: str, config: TokenConfig) -> tuple[PreTrainedModel, torch.dtype]:
    """Load the base in float32 with a classification head.

    An existing head of the same size, such as a PRM's, is kept.

    Returns:
        The model, and the dtype of the base checkpoint.
    """
    try:
        model_config = AutoConfig.from_pretrained(base, num_labels=config.classes)
        if config.layers is not None:
            if config.layers > model_config.num_hidden_layers:
                raise DataError(
                    f"--layers {config.layers}: {base} has {model_config.num_hidden_layers} layers"
                )
            model_config.num_hidden_layers = config.layers
            if getattr(model_config, "layer_types", None):
                model_config.layer_types = model_config.layer_types[: config.layers]
        model: Any = AutoModelForTokenClassification.from_pretrained(
            base,
            config=model_config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, DataError):
            raise
        raise CheckpointError(
            f"{base} cannot be loaded with a token-classification head: {error}"
        ) from error
    if config.lora_rank is not None:
        model = _with_lora(model, config.lora_rank)
    return model, model_config.dtype or torch.float32


def _with_lora(model: PreTrainedModel, rank: int) -> Any:
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError:
        raise DataError(
            "--lora-rank needs peft: pip install 'langgraph-arbitrage[train]'"
        ) from None
    lora = LoraConfig(
        task_type=TaskType.TOKEN_CLS,
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        exclude_modules=["score", "classifier"],  # the new head is trained in full
    )
    return get_peft_model(model, lora)


def _last_checkpoint(folder: Path) -> str | None:
    """Return the last complete checkpoint, or None."""
    # The Trainer writes its state last, so a checkpoint with this file is complete.
    complete = [p.parent for p in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=lambda p: int(p.name.rpartition("-")[2]))) if complete else None


class _Collator:
    """Pads rows on the right to the same length. Causal attention ignores padding on the right."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._pad = tokenizer.hf.pad_token_id or 0

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
        width = max(len(row["input_ids"]) for row in rows)

        def padded(name: str, value: int) -> Tensor:  # [B, L]
            return torch.tensor([r[name] + [value] * (width - len(r[name])) for r in rows])

        lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
        return {
            "input_ids": padded("input_ids", self._pad),
            "labels": padded("labels", IGNORED),
            "attention_mask": (torch.arange(width)[None] < lengths).long(),
        }


def _labelled_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Select the logits [B, K] at each row's labelled token from logits [B, L, K]."""
    return logits[labels != IGNORED]


def _loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Compute the mean cross-entropy over all rows of an update."""
    logits = _labelled_logits(outputs["logits"], labels).float()  # [B, K]
    loss = torch.nn.functional.cross_entropy(logits, labels[labels != IGNORED], reduction="sum")
    return loss / _row_count(labels, num_items_in_batch)


def _ordinal_loss(
    outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """Compute the ordinal loss: the sum over k of the binary cross-entropy of "y > k".

    The loss grows with the distance between the predicted and the correct class. P(y > k) is the
    sum of the softmax probabilities of the classes above k, so a scorer computes scores from the
    logits in the same way as after training with `_loss`.
    """
    logits = _labelled_logits(outputs["logits"], labels).float().log_softmax(-1)  # [B, K]
    label = labels[labels != IGNORED]
    loss = logits.new_zeros(())
    for k in range(logits.shape[-1] - 1):
        below, above = logits[:, : k + 1].logsumexp(-1), logits[:, k + 1 :].logsumexp(-1)
        loss = loss - torch.where(label > k, above, below).sum()
    return loss / _row_count(labels, num_items_in_batch)


def _row_count(labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor | int:
    return len(labels) if num_items_in_batch is None else num_items_in_batch


class _ProgressCallback(TrainerCallback):
    """Reports the number of finished updates."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._progress(state.global_step, state.max_steps)
