"""What owns a model and its cache: the slot engine, or the plain one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from langgraph_arbitrage.engine.row import Batch, Row

__all__ = ["Backend"]


class Backend(Protocol):
    """Owns the model and its cache; turns batches into logits."""

    name: str
    goes_on: bool
    """Whether a step may go on in the slot of the one before it."""

    @property
    def max_rows(self) -> int:
        """Most rows that can run at a time."""

    def home(self, ids: Sequence[int]) -> int | None:
        """The hand that holds clearly most of the beginning of `ids`, if one does."""

    def admit(self, row: Row, others: Sequence[Row]) -> bool:
        """Give the row a slot beside the others; False where it has to wait.

        Raises:
            NotEnoughMemoryError: There is no memory for it beside them.
        """

    def make_room(self, row: Row) -> None:
        """See that a running row can go on.

        Raises:
            NotEnoughMemoryError: There is no memory for that beside the others.
        """

    def leave(self, row: Row) -> None:
        """Free the row's slot."""

    def batches(self, rows: Sequence[Row]) -> list[Batch]:
        """What goes through the model next."""

    def forward(self, batch: Batch) -> Tensor:
        """Feed a batch; logits of its trailing positions, [B, keep, V], or [B, labels]."""

    def decode(
        self, batch: Batch, most: int, stops: Callable[[int], Tensor]
    ) -> list[tuple[list[int], list[float]]]:
        """Write several greedy tokens of each row, up to one to stop at.

        Args:
            batch: Rows with one token to read, or a single row with all that it has to read.
            most: Tokens.
            stops: For a vocabulary of a size (V), whether to stop behind each token, [V].

        Returns:
            Ids and log-probabilities of each row; none where one forward at a time is needed.
        """
