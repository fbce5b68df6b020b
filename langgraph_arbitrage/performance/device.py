"""What the device reaches: bytes read a second, operations a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from langgraph_arbitrage.engine.cpu import PackedLinear

__all__ = ["Rates", "measured_rates"]

SMALLEST = 2**18  # bytes; below, the call itself is measured
LARGEST = {"cpu": 2**28, "cuda": 2**30}  # beyond any cache
SIDES = {"cpu": (256, 1024), "cuda": (2048, 8192)}  # of square matrices


@dataclass(frozen=True)
class Rates:
    """The best that was measured."""

    bandwidth: float
    """Bytes a second, read from a buffer of the model's size: a small one stays in a cache."""
    operations: float
    """Multiplications and additions a second, in a product of two matrices."""

    def floor(self, moved: float, work: float) -> float:
        """Seconds below which no forward gets that moves so many bytes and does so much work."""
        return max(moved / self.bandwidth, work / self.operations)


def measured_rates(
    device: str, dtype: str, size: int, threads: int = 1, seconds: float = 0.1
) -> Rates:
    """Measure a device.

    Args:
        device: Where.
        dtype: Of the matrices.
        size: Bytes of the buffer; a model's weights.
        threads: Compute threads, on a CPU.
        seconds: For each way to measure.
    """
    kind = torch.device(device).type
    size = max(SMALLEST, min(size, LARGEST.get(kind, LARGEST["cuda"])))
    rounded = 2 ** max(size - 1, 1).bit_length()  # models of like sizes share a measurement
    return _measured(device, dtype, rounded, threads, seconds)


@cache
def _measured(device: str, dtype: str, size: int, threads: int, seconds: float) -> Rates:
    found: list[Rates | BaseException] = []

    def work() -> None:  # in a thread of its own, which alone gets these compute threads
        try:
            if device == "cpu":
                torch.set_num_threads(threads)
            with torch.inference_mode():
                found.append(
                    Rates(
                        _bandwidth(device, size, seconds),
                        _operations(device, getattr(torch, dtype), seconds),
                    )
                )
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (result,) = found
    if isinstance(result, BaseException):
        raise result
    return result


def _bandwidth(device: str, size: int, seconds: float) -> float:
    """By the best of three readers: a sum, a copy (which also writes), a matrix times a vector."""
    columns = 256
    matrix = torch.rand(size // 4 // columns, columns, device=device)
    vector, copy = torch.rand(columns, device=device), torch.empty_like(matrix)
    return max(
        matrix.nbytes / _best(matrix.sum, device, seconds),
        2 * matrix.nbytes / _best(lambda: copy.copy_(matrix), device, seconds),
        matrix.nbytes / _best(lambda: matrix @ vector, device, seconds),
    )


def _operations(device: str, dtype: torch.dtype, seconds: float) -> float:
    """By the best product of several sizes, on a CPU also with packed weights."""
    kind = torch.device(device).type
    rates = []
    for side in SIDES.get(kind, SIDES["cuda"]):
        matrix = torch.rand(side, side, device=device).to(dtype)
        products = [matrix.matmul, *_packed(matrix)]
        quickest = min(_best(lambda p=p, m=matrix: p(m), device, seconds) for p in products)  # type: ignore[misc]
        rates.append(2 * side**3 / quickest)
    return max(rates)


def _packed(matrix: Tensor) -> list[Callable[[Tensor], Tensor]]:
    """The product with a matrix whose weights are packed, where this device can."""
    try:
        return [PackedLinear(matrix)] if matrix.device.type == "cpu" else []
    except (RuntimeError, AttributeError):
        return []


def _best(work: Callable[[], object], device: str, seconds: float) -> float:
    """Seconds of the quickest run, of at least two."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
