"""Trains the surprise head: features of a frozen small LM, one hidden layer, seconds on a CPU."""

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
from langgraph_arbitrage.training.examples import Example, balanced
from langgraph_arbitrage.training.job import Job, Progress
from langgraph_arbitrage.training.questions import question_id
from langgraph_arbitrage.training.verdict import replay

__all__ = ["SurpriseTrainer", "fit_head"]

MARK = "\N{BULLET}question\N{BULLET}"
JOURNAL = "features.jsonl"
PART = 64  # questions read between two lines of the journal


class SurpriseTrainer:
    """Reads features with a frozen LM, then fits the head.

    What was read is kept in the output folder until the head is there: a stopped training reads
    on where it was.

    Args:
        job: What is to be made. Its base is a causal LM: the draft itself will do; another small
            one sees what the draft does not.
        config: How.
    """

    def __init__(self, job: Job, config: SurpriseConfig) -> None:
        self.job = job
        self.config = config
        before, after = chat_frame(job.base)
        # A folder of one's own stays a path; an embedded one gets the name it has everywhere.
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
        """Write the scorer to the job's folder; what it says of the examples held out."""
        self.job.claim()
        features = asyncio.run(self._features([*training, *held_out], progress))
        labels = [e.label for e in training]
        chosen: Sequence[int] = range(len(labels))
        if self.config.balance:
            chosen = balanced(labels, self.config.seed)
        head = fit_head([features[i] for i in chosen], [labels[i] for i in chosen], self.config)
        replace(self.scorer, head=head).save(self.job.output)
        (self.job.output / JOURNAL).unlink()
        return [head(found) for found in features[len(training) :]]

    async def _features(self, examples: Sequence[Example], progress: Progress) -> list[list[float]]:
        """Features of each example, from the journal where they are there already."""
        path = self.job.output / JOURNAL
        questions: dict[str, list[int]] = {}
        for i, example in enumerate(examples):
            questions.setdefault(question_id(example.question), []).append(i)
        found = _journal(path)
        models = Models(ArbitrageSettings(device=self.job.device))
        todo = [q for q in questions if q not in found]
        try:
            with path.open("a", encoding="utf-8") as journal:
                for at in range(0, len(todo), PART):
                    part = todo[at : at + PART]
                    steps = [examples[i] for q in part for i in questions[q]]
                    judged = iter(await replay(models, self.scorer, steps, concurrency=PART))
                    for q in part:
                        read = [next(judged) for _ in questions[q]]
                        found[q] = [surprise_features(j.history, j.output) for j in read]
                        journal.write(json.dumps([q, found[q]]) + "\n")
                    journal.flush()
                    progress(len(questions) - len(todo) + at + len(part), len(questions))
        finally:
            models.close()
        ordered = {i: f for q, at in questions.items() for i, f in zip(at, found[q], strict=True)}
        return [ordered[i] for i in range(len(examples))]


def _journal(path: Path) -> dict[str, list[list[float]]]:
    """What a training before has read; a torn last line is cut off."""
    found: dict[str, list[list[float]]] = {}
    if path.is_file():
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            path.write_bytes(whole)
        found = dict(json.loads(line) for line in whole.splitlines())
    return found


def fit_head(
    features: Sequence[Sequence[float]], labels: Sequence[int], config: SurpriseConfig
) -> SurpriseHead:
    """Fit the network by binary cross-entropy.

    Args:
        features: [N, F].
        labels: [N], 0 or 1.
        config: How.
    """
    x = torch.tensor(features, dtype=torch.float32)  # [N, F]
    y = torch.tensor(labels, dtype=torch.float32)  # [N]
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
    x = (x - mean) / deviation
    draw = torch.Generator().manual_seed(config.seed)
    hidden, out = nn.Linear(x.shape[1], config.units), nn.Linear(config.units, 1)
    for layer in (hidden, out):
        bound = layer.in_features**-0.5
        for parameter in (layer.weight, layer.bias):
            nn.init.uniform_(parameter, -bound, bound, generator=draw)
    network = nn.Sequential(hidden, nn.GELU(), out)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    steps = config.epochs * -(-len(y) // config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(config.epochs):
        for rows in torch.randperm(len(y), generator=draw).split(config.batch):
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
    """What the LM's chat template puts before and after a question.

    An LM without a template reads the question, a blank line, the steps.
    """
    tokenizer = load_tokenizer(ModelSpec(local_path(base)))
    if not tokenizer.chat_template:
        return "", "\n\n"
    text = str(
        tokenizer.hf.apply_chat_template(
            [{"role": "user", "content": MARK}],
            chat_template=tokenizer.chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )
    )
    before, _, after = text.partition(MARK)
    # What the tokenizer puts before every text by itself must not stand there twice.
    start = str(tokenizer.hf.decode(tokenizer.start_ids))
    return before.removeprefix(start), after
