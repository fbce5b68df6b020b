"""Measure the memory bandwidth and the compute rate of a device."""

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

MIN_BYTES = 2**18
"""Minimum buffer size in bytes. With a smaller buffer, the measured time would mainly be the
overhead of the call."""
MAX_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Maximum buffer size in bytes by device type. It is larger than any cache of the device."""
MATRIX_SIZES = {"cpu": (256, 1024), "cuda": (2048, 8192)}
"""Side lengths of the square matrices whose products are timed, by device type."""


@dataclass(frozen=True)
class Rates:
    """The highest measured rates of a device."""

    bandwidth: float
    """Bytes per second, measured on a buffer as large as the model's weights. A smaller buffer
    could stay in a cache, and the measured bandwidth would be too high."""
    operations: float
    """Operations per second in a matrix product. A multiplication with an addition counts as two
    operations."""

    def floor(self, moved: float, work: float) -> float:
        """Compute the minimum time of a forward.

        Args:
            moved: Number of bytes that the forward reads.
            work: Number of operations.

        Returns:
            Seconds.
        """
        return max(moved / self.bandwidth, work / self.operations)


def measured_rates(
    device: str, dtype: str, size: int, threads: int = 1, seconds: float = 0.1
) -> Rates:
    """Measure the memory bandwidth and the compute rate of a device. The results are cached.

    Args:
        device: Device, such as `cpu` or `cuda:0`.
        dtype: Dtype of the matrices.
        size: Buffer size in bytes, usually the size of a model's weights.
        threads: Number of compute threads on a CPU.
        seconds: Duration of each measurement.
    """
    kind = torch.device(device).type
    size = max(MIN_BYTES, min(size, MAX_BYTES.get(kind, MAX_BYTES["cuda"])))
    # Round up to a power of two, so that models of similar size share a cached measurement.
    rounded = 2 ** max(size - 1, 1).bit_length()
    return _measured(device, dtype, rounded, threads, seconds)


@cache
def _measured(device: str, dtype: str, size: int, threads: int, seconds: float) -> Rates:
    outcome: list[Rates | BaseException] = []

    def measure() -> None:
        try:
            if device == "cpu":
                torch.set_num_threads(threads)
            with torch.inference_mode():
                outcome.append(
                    Rates(
                        _bandwidth(device, size, seconds),
                        _operations(device, getattr(torch, dtype), seconds),
                    )
                )
        except BaseException as error:
            outcome.append(error)

    # Measure in a new thread: torch.set_num_threads then does not affect the calling thread.
    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result


def _bandwidth(device: str, size: int, seconds: float) -> float:
    """Return the highest bandwidth of a sum, a copy and a matrix-vector product.

    The copy counts twice the buffer size, because it also writes the buffer.
    """
    columns = 256
    matrix = torch.rand(size // 4 // columns, columns, device=device)
    vector, copy = torch.rand(columns, device=device), torch.empty_like(matrix)
    return max(
        matrix.nbytes / _best(matrix.sum, device, seconds),
        2 * matrix.nbytes / _best(lambda: copy.copy_(matrix), device, seconds),
        matrix.nbytes / _best(lambda: matrix @ vector, device, seconds),
    )


def _operations(device: str, dtype: torch.dtype, seconds: float) -> float:
    """Return the highest rate over several matrix sizes; on a CPU, also over packed weights."""
    kind = torch.device(device).type
    rates = []
    for side in MATRIX_SIZES.get(kind, MATRIX_SIZES["cuda"]):
        matrix = torch.rand(side, side, device=device).to(dtype)
        products = [matrix.matmul, *_packed(matrix)]
        best = min(_best(lambda p=p, m=matrix: p(m), device, seconds) for p in products)  # type: ignore[misc]
        rates.append(2 * side**3 / best)
    return max(rates)


def _packed(matrix: Tensor) -> list[Callable[[Tensor], Tensor]]:
    """Return the product with packed weights, if this device and dtype support it."""
    try:
        return [PackedLinear(matrix)] if matrix.device.type == "cpu" else []
    except (RuntimeError, AttributeError):
        return []


def _best(work: Callable[[], object], device: str, seconds: float) -> float:
    """Return the seconds of the fastest run. The first run is a warm-up and does not count."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
