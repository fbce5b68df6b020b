"""Muon for the stacked matrices, AdamW for all other weights, both on fp32 weights."""

import torch
from torch import Tensor

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
WEIGHT_DECAY = 0.02
MOMENTUM = 0.95
BETAS = (0.9, 0.97)


def orthogonalise(g: Tensor) -> Tensor:
    """Approximate the nearest orthogonal matrices of ``[L, out, in]``.

    Runs a quintic Newton–Schulz iteration in bf16. Higher precision is not needed, because the
    error of the iteration is larger than the rounding error.
    """
    x: Tensor = (g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if tall else x).to(g.dtype)


class Optimizer:
    """Holds the moments of all weights and updates the weights."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights
        self.steps = 0
        self.first = {k: torch.zeros_like(v) for k, v in weights.items()}
        self.second = {k: torch.zeros_like(v) for k, v in weights.items() if k not in MATRICES}

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], lr: float) -> None:
        """Clip the gradients to norm 1 and update every weight in place."""
        norm = torch.stack([g.norm() for g in gradients.values()]).norm()
        scale = (1 / (norm + 1e-6)).clamp(max=1.0)
        self.steps += 1
        for name, weight in self.weights.items():
            g, first = gradients[name] * scale, self.first[name]
            if name in MATRICES:
                first.lerp_(g, 1 - MOMENTUM)
                update = orthogonalise(g.lerp(first, MOMENTUM))
                # Scale to the RMS of an AdamW update, so that both methods share a learning rate.
                update = update * (0.2 * max(weight.shape[-2:]) ** 0.5)
                weight.mul_(1 - lr * WEIGHT_DECAY)
            else:
                second = self.second[name]
                first.lerp_(g, 1 - BETAS[0])
                second.lerp_(g.square(), 1 - BETAS[1])
                mean = first / (1 - BETAS[0] ** self.steps)
                update = mean / ((second / (1 - BETAS[1] ** self.steps)).sqrt() + 1e-8)
            weight.sub_(lr * update)

    def state_dict(self) -> dict[str, object]:
        """Return the state to checkpoint."""
        return {"steps": self.steps, "first": self.first, "second": self.second}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore the state of a checkpoint."""
        self.steps = state["steps"]  # type: ignore[assignment]
        self.first, self.second = state["first"], state["second"]  # type: ignore[assignment]
