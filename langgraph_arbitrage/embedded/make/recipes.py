"""The models: shape, and how long each is trained."""

from dataclasses import dataclass

VOCABULARY = 1024


@dataclass(frozen=True)
class Recipe:
    """How one model is made."""

    role: str
    width: int
    layers: int
    heads: int
    steps: int
    """Optimizer steps, of about 3,100 tokens each."""
    lr: float
    seed: int
    copying: int
    """So many of the steps, the first ones, practise copying."""
    grow_from: int
    """Layers at the start; below ``layers``, idle ones are added at ``grow_at``."""
    grow_at: int = 0
    note: str = ""
    """What else there is to say of the run."""
    warmup: int = 60
    decay: float = 0.5
    """Share of the steps, at the end, over which lr falls in a line to 3 %."""

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        start = self.steps * (1 - self.decay)
        falling = max(0.0, (step - start) / (self.steps - start))
        return self.lr * min(1.0, (step + 1) / self.warmup) * (1 - 0.97 * falling)

    def layers_at(self, step: int) -> int:
        """Return how many layers there are at a step."""
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
            note=" The run of the weights in use was planned for 5,200 steps and lengthened at "
            "step 3,000, where its learning rate had begun to fall (training_log.jsonl).",
        ),
    )
}
