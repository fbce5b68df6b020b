"""Train a surprise head: one hidden layer on features of a frozen small LM."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from langgraph_arbitrage.config.settings import ArbitrageSettings
from langgraph_arbitrage.engine import ModelSpec, load_tokenizer
from langgraph_arbitrage.loop.models import Models
from langgraph_arbitrage.models.identifiers import local_path, public_name
from langgraph_arbitrage.scorers import SurpriseHead, SurpriseScorer, surprise_features
from langgraph_arbitrage.training.configs import SurpriseConfig
from langgraph_arbitrage.training.examples import Example, balanced_indices
from langgraph_arbitrage.training.job import Job, Progress
from langgraph_arbitrage.training.questions import question_id
from langgraph_arbitrage.training.step_grader import score_examples

__all__ = ["SurpriseTrainer", "fit_head"]

QUESTION_PLACEHOLDER = "\N{BULLET}question\N{BULLET}"
FEATURES_FILE = "features.jsonl"
CHUNK = 64  # number of questions between two writes to the features file


class SurpriseTrainer:
    """Computes features with a frozen LM, then fits the head.

    Features are kept in the output folder until the head is saved, so an interrupted training
    resumes where it stopped.

    Args:
        job: The training job. Its base is a causal LM. A small LM other than the draft works best,
            because the draft's own steps hardly surprise it.
        config: Training options.
    """

    def __init__(self, job: Job, config: SurpriseConfig) -> None:
        self.job = job
        self.config = config
        before, after = chat_frame(job.base)
        # An embedded base is stored by its public name, which is valid on every machine.
        name = public_name(local_path(job.base))
        self.scorer = SurpriseScorer(
            model=job.base,
            base=name if name.startswith("embedded:") else job.base,
            before=before,
            after=after,
            role=job.role,
            draft=job.data.draft,
            target=job.data.target,
        )

    def train(
        self, training: Sequence[Example], held_out: Sequence[Example], progress: Progress
    ) -> list[float]:
        """Train and save the scorer; returns its scores of the held-out examples."""
        self.job.claim()
        features = asyncio.run(self._features([*training, *held_out], progress))
        labels = [e.label for e in training]
        indices: Sequence[int] = range(len(labels))
        if self.config.balance:
            indices = balanced_indices(labels, self.config.seed)
        head = fit_head([features[i] for i in indices], [labels[i] for i in indices], self.config)
        replace(self.scorer, head=head).save(self.job.output)
        (self.job.output / FEATURES_FILE).unlink()
        return [head(f) for f in features[len(training) :]]

    async def _features(self, examples: Sequence[Example], progress: Progress) -> list[list[float]]:
        """Compute the features [N, F] of the examples, or read them from the features file."""
        path = self.job.output / FEATURES_FILE
        questions: dict[str, list[int]] = {}
        for i, example in enumerate(examples):
            questions.setdefault(question_id(example.question), []).append(i)
        features = _load_features(path)
        models = Models(ArbitrageSettings(device=self.job.device))
        todo = [q for q in questions if q not in features]
        try:
            with path.open("a", encoding="utf-8") as file:
                for start in range(0, len(todo), CHUNK):
                    chunk = todo[start : start + CHUNK]
                    steps = [examples[i] for q in chunk for i in questions[q]]
                    scored = iter(
                        await score_examples(models, self.scorer, steps, concurrency=CHUNK)
                    )
                    for q in chunk:
                        of_question = [next(scored) for _ in questions[q]]
                        features[q] = [surprise_features(s.history, s.output) for s in of_question]
                        file.write(json.dumps([q, features[q]]) + "\n")
                    file.flush()
                    progress(len(questions) - len(todo) + start + len(chunk), len(questions))
        finally:
            models.close()
        by_index = {
            i: f
            for q, indices in questions.items()
            for i, f in zip(indices, features[q], strict=True)
        }
        return [by_index[i] for i in range(len(examples))]


def _load_features(path: Path) -> dict[str, list[list[float]]]:
    """Load the features that an interrupted training saved, by question id.

    An incomplete last line is cut off the file, so that new lines can be appended.
    """
    features: dict[str, list[list[float]]] = {}
    if path.is_file():
        content = path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if complete != content:
            path.write_bytes(complete)
        features = dict(json.loads(line) for line in complete.splitlines())
    return features


def fit_head(
    features: Sequence[Sequence[float]], labels: Sequence[int], config: SurpriseConfig
) -> SurpriseHead:
    """Fit the network with binary cross-entropy.

    Args:
        features: [N, F].
        labels: [N], 0 or 1.
        config: Training options.
    """
    x = torch.tensor(features, dtype=torch.float32)  # [N, F]
    y = torch.tensor(labels, dtype=torch.float32)  # [N]
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
    x = (x - mean) / deviation
    rng = torch.Generator().manual_seed(config.seed)
    hidden, out = nn.Linear(x.shape[1], config.units), nn.Linear(config.units, 1)
    for layer in (hidden, out):
        bound = layer.in_features**-0.5
        for parameter in (layer.weight, layer.bias):
            nn.init.uniform_(parameter, -bound, bound, generator=rng)
    network = nn.Sequential(hidden, nn.GELU(), out)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    steps = config.epochs * -(-len(y) // config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(config.epochs):
        for rows in torch.randperm(len(y), generator=rng).split(config.batch):
            loss = nn.functional.binary_cross_entropy_with_logits(network(x[rows])[:, 0], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return SurpriseHead(
        {
            "mean": _array(mean),
            "deviation": _array(deviation),
            "w1": _array(hidden.weight),  # [H, F]
            "b1": _array(hidden.bias),  # [H]
            "w2": _array(out.weight[0]),  # [H]
            "b2": _array(out.bias),  # [1]
        }
    )


def _array(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return tensor.detach().numpy().copy()


def chat_frame(base: str) -> tuple[str, str]:
    """Return the text that the LM's chat template puts before and after a question.

    Without a template, nothing precedes the question, and a blank line follows it.
    """
    tokenizer = load_tokenizer(ModelSpec(local_path(base)))
    if not tokenizer.chat_template:
        return "", "\n\n"
    text = str(
        tokenizer.hf.apply_chat_template(
            [{"role": "user", "content": QUESTION_PLACEHOLDER}],
            chat_template=tokenizer.chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )
    )
    before, _, after = text.partition(QUESTION_PLACEHOLDER)
    # Remove the template's start tokens, because the tokenizer adds its own.
    start = str(tokenizer.hf.decode(tokenizer.start_ids))
    return before.removeprefix(start), after
