"""A batch job on Ray: actors answer the requests, and this process writes the output."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.batch.job import BatchJob, SummaryListener
from langgraph_arbitrage.batch.ray_actor import Answers
from langgraph_arbitrage.batch.ray_settings import RaySettings
from langgraph_arbitrage.batch.request import BatchRequest
from langgraph_arbitrage.errors import EngineError, MissingExtraError
from langgraph_arbitrage.loop.models import Models

if TYPE_CHECKING:
    from types import ModuleType

    from langgraph_arbitrage.batch.summary import BatchSummary
    from langgraph_arbitrage.config.settings import ArbitrageSettings

__all__ = ["import_ray", "run_on_ray"]

BATCHES = 4
"""Size of a Ray batch as a multiple of an actor's concurrency. At the end of each batch an actor
is partly idle until the last answer is complete."""
OBJECT_STORE_BYTES = 256 * 2**20
"""Size of the object store of a cluster started here. Requests are short texts."""


def run_on_ray(
    job: BatchJob,
    settings: ArbitrageSettings,
    ray_settings: RaySettings,
    on_line: SummaryListener | None = None,
) -> BatchSummary:
    """Answer a job's pending requests with Ray actors.

    If an actor dies, it is restarted and its batch is repeated. Each record is written once. An
    interrupted job resumes, with Ray or without.

    Args:
        job: The job, already entered.
        settings: Settings of each actor's chat model.
        ray_settings: The cluster, and the number and resources of the actors.
        on_line: Called with the summary after each record is written.

    Raises:
        CheckpointError: A model cannot be loaded.
        EngineError: The models or the actors fail.
        MissingExtraError: Ray is not installed.
        SettingsError: The cluster is too small for the actors.
    """
    ray = import_ray()
    end = None if job.settings.max_time is None else time.monotonic() + job.settings.max_time
    pending = {request.custom_id: request for request in job.pending()}
    if not pending:
        return job.summary
    if ray_settings.ray_address is None:  # a remote cluster may have models that are not here
        models = Models(settings)
        models.prepare(settings.policy)
        models.close()
    with _cluster(ray, ray_settings.ray_address):
        resources = ray.cluster_resources()
        cpus = ray_settings.cpus(resources.get("CPU", 0.0))
        ray_settings.check_gpus(resources.get("GPU", 0.0))
        rows = _rows(ray, list(pending.values()), job, settings, ray_settings, cpus)
        try:
            for row in rows:
                # Guards the output against a row that Ray might deliver twice.
                if pending.pop(str(row["custom_id"]), None) is not None:
                    job.write(json.loads(row["line"]), on_line)
                if end is not None and time.monotonic() >= end:
                    job.summary.stopped = "max_time"
                    break
        except ray.exceptions.RayError as error:
            raise EngineError(f"the Ray actors failed: {_cause(error)}") from error
    return job.summary


def _rows(
    ray: Any,
    requests: list[BatchRequest],
    job: BatchJob,
    settings: ArbitrageSettings,
    ray_settings: RaySettings,
    cpus: float,
) -> Iterator[dict[str, Any]]:
    """Run the actors and yield their result rows."""
    concurrency, actors = job.settings.concurrency, ray_settings.actors
    size = min(BATCHES * concurrency, -(-len(requests) // actors))
    data = ray.data.from_items(
        [{"request": json.dumps(asdict(request))} for request in requests],
        override_num_blocks=-(-len(requests) // size),
    )
    answers = data.map_batches(
        Answers,
        fn_constructor_kwargs={"settings": settings.given, "concurrency": concurrency},
        batch_size=size,
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
        num_cpus=cpus,
        num_gpus=ray_settings.gpus_per_actor or None,
    )
    rows: Iterator[dict[str, Any]] = answers.iter_rows()
    return rows


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to a cluster for the duration of the job, or reuse the process's connection."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A retry helps if an actor died. It does not help against an exception of this package.
    context.max_errored_blocks = 0
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    options = (
        {} if address else {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    )
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **options,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = address or "this machine"
        raise EngineError(f"cannot connect to a Ray cluster at {where}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def import_ray() -> ModuleType:
    """Import Ray and `ray.data`.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise MissingExtraError(
            "--ray needs ray, which is not installed: pip install 'langgraph-arbitrage[ray]'"
        ) from error
    return ray


def _cause(error: BaseException) -> str:
    """The last line of a remote traceback, which names the exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
