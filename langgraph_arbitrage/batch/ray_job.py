"""A batch job on Ray: the same lines in, the same lines out, answered by actors."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from langgraph_arbitrage.batch.job import BatchJob, Listener
from langgraph_arbitrage.batch.question import Question
from langgraph_arbitrage.batch.ray_actor import Answers
from langgraph_arbitrage.batch.ray_settings import RaySettings
from langgraph_arbitrage.errors import EngineError, MissingExtraError
from langgraph_arbitrage.loop.models import Models

if TYPE_CHECKING:
    from types import ModuleType

    from langgraph_arbitrage.batch.summary import BatchSummary
    from langgraph_arbitrage.config.settings import ArbitrageSettings

__all__ = ["import_ray", "run_on_ray"]

BATCHES = 4  # of an actor's concurrency: it idles at the end of each for the last of its answers
STORE = 256 * 2**20  # bytes of the object store that is started here: questions are text


def run_on_ray(
    job: BatchJob,
    settings: ArbitrageSettings,
    ray_settings: RaySettings,
    on_line: Listener | None = None,
) -> BatchSummary:
    """Answer a job's open questions by actors; each line is written once, here.

    An actor that dies is made again, and its batch asked again. The same job again goes on where
    it was stopped, with Ray or without.

    Args:
        job: The job, entered.
        settings: Of the chat model that each actor makes.
        ray_settings: The cluster, and how many actors with what share of it.
        on_line: Called after each line that is written.

    Raises:
        CheckpointError: A model cannot be loaded.
        EngineError: The models or the actors fail.
        MissingExtraError: Ray is not installed.
        SettingsError: The cluster is too small for the actors.
    """
    ray = import_ray()
    end = None if job.settings.max_time is None else time.monotonic() + job.settings.max_time
    open_questions = {question.id: question for question in job.open()}
    if not open_questions:
        return job.summary
    if ray_settings.ray_address is None:  # on a cluster the models may be where this program is not
        models = Models(settings)
        models.prepare(settings.policy)
        models.close()
    with _cluster(ray, ray_settings.ray_address):
        there = ray.cluster_resources()
        cpus = ray_settings.cpus(there.get("CPU", 0.0))
        ray_settings.check_gpus(there.get("GPU", 0.0))
        rows = _rows(ray, list(open_questions.values()), job, settings, ray_settings, cpus)
        try:
            for row in rows:
                # Ray tells each row once; should it ever not, the output still holds each once.
                if open_questions.pop(str(row["custom_id"]), None) is not None:
                    job.write(json.loads(row["line"]), on_line)
                if end is not None and time.monotonic() >= end:
                    job.summary.stopped = "max_time"
                    break
        except ray.exceptions.RayError as error:
            raise EngineError(f"the actors on Ray failed: {_cause(error)}") from error
    return job.summary


def _rows(
    ray: Any,
    questions: list[Question],
    job: BatchJob,
    settings: ArbitrageSettings,
    ray_settings: RaySettings,
    cpus: float,
) -> Iterator[dict[str, Any]]:
    concurrency, actors = job.settings.concurrency, ray_settings.actors
    size = min(BATCHES * concurrency, -(-len(questions) // actors))
    data = ray.data.from_items(
        [{"question": json.dumps(asdict(question))} for question in questions],
        override_num_blocks=-(-len(questions) // size),
    )
    answers = data.map_batches(
        Answers,
        fn_constructor_kwargs={"settings": settings.given, "concurrency": concurrency},
        batch_size=size,
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
        num_cpus=cpus,
        num_gpus=ray_settings.gpus_per_actor or None,
    )
    found: Iterator[dict[str, Any]] = answers.iter_rows()
    return found


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """The cluster: the one that the program uses already, or one for as long as the job lasts."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # An error of ours is the same at every try; only a death is mended by another one.
    context.max_errored_blocks = 0
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    started = {} if address else {"object_store_memory": STORE, "include_dashboard": False}
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **started,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = address or "this machine"
        raise EngineError(f"no Ray cluster answers at {where}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def import_ray() -> ModuleType:
    """Ray and its data sets, or an error that says how to install them."""
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise MissingExtraError(
            "a job on Ray needs ray, which is not installed: pip install 'langgraph-arbitrage[ray]'"
        ) from error
    return ray


def _cause(error: BaseException) -> str:
    """The last line of what a remote traceback says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
