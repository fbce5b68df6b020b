"""Shape and training schedule of each model."""

from dataclasses import dataclass

VOCABULARY = 1024


@dataclass(frozen=True)
class Recipe:
    """Shape and training schedule of a model."""

    role: str
    width: int
    layers: int
    heads: int
    steps: int
    """Number of optimizer steps of about 3,100 tokens each."""
    lr: float
    seed: int
    copying: int
    """Number of steps at the beginning that train copying only."""
    grow_from: int
    """Number of layers at the beginning. Step ``grow_at`` adds layers up to ``layers``."""
    grow_at: int = 0
    note: str = ""
    """Remark on the training run, for the model card."""
    warmup: int = 60
    decay: float = 0.5
    """Share of the steps, at the end, over which the learning rate falls linearly to 3 %."""

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        start = self.steps * (1 - self.decay)
        decayed = max(0.0, (step - start) / (self.steps - start))
        return self.lr * min(1.0, (step + 1) / self.warmup) * (1 - 0.97 * decayed)

    def layers_at(self, step: int) -> int:
        """The number of layers at a step."""
        return self.layers if step >= self.grow_at else self.grow_from


RECIPES = {
    r.role: r
    for r in (
        Recipe("draft", 48, 2, 4, 5300, lr=4e-3, seed=1, copying=900, grow_from=2),
        Recipe("reader", 64, 2, 4, 5200, lr=4e-3, seed=2, copying=800, grow_from=2),
        Recipe(
            "target",
            128,
            14,
            4,
            5800,
            lr=3e-3,
            seed=3,
            copying=700,
            grow_from=4,
            grow_at=1500,
            note="The run was planned for 5,200 steps and extended at step 3,000, after its\n"
            "  learning rate had begun to fall (see `training_log.jsonl`).",
        ),
    )
}
