"""Fine-tuning as a service: files, preparations of them, jobs, and the models that they make.

Owns: which jobs are accepted, which files and models are in use, and the limits on both. Does not know HTTP, nor how a
job runs.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from convmodel.errors import SaveError
from convmodel.files.hub import sample_file
from convmodel.model import ConversationModel
from convmodel.server.errors import ApiError, unavailable
from convmodel.server.fine_tuning.commands import COMMAND, Data
from convmodel.server.fine_tuning.file_store import FileStore
from convmodel.server.fine_tuning.hyperparameters import resolve
from convmodel.server.fine_tuning.job_metrics import (
    described_events,
    kept_step,
    metric_events,
    result_csv,
    trained_tokens,
)
from convmodel.server.fine_tuning.job_order import Order, check_files
from convmodel.server.fine_tuning.job_queue import JobQueue
from convmodel.server.fine_tuning.job_store import UNFINISHED, JobRecord, JobSpec, JobStore
from convmodel.server.fine_tuning.job_view import job_progress, job_view
from convmodel.server.fine_tuning.preparation_store import PreparationRecord
from convmodel.server.fine_tuning.preparations import PreparationOrder, Preparations
from convmodel.server.serving.improvement_file import absolute_source
from convmodel.server.serving.improvement_room import missing_room
from convmodel.server.serving.locked_folder import lock_folder
from convmodel.server.serving.model_registry import ModelRegistry
from convmodel.server.serving.model_shelf import ModelShelf, ShelvedModel
from convmodel.server.settings import TrainingLimits
from convmodel.training.config import FitConfig

logger = logging.getLogger(__name__)

FLAG = "--train"
"""The option of `convmodel serve` that allows fine-tuning."""

_SIZES = 8  # disk space of a job, in sizes of the model: 2 checkpoints with 2 AdamW moments each, 2 copies of the model


class FineTuning:
    """Fine-tunes the models of one server."""

    def __init__(
        self,
        folder: Path,
        sources: Mapping[str, str],
        load: Callable[[str], ConversationModel],
        limits: TrainingLimits | None = None,
        *,
        source: Callable[[str], str] | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Reads what an earlier server left in the folder.

        Args:
            folder: Where files, jobs and models are.
            sources: What each model was loaded from at first, by its id.
            load: Loads a model from a folder that a job wrote.
            limits: How much there may be.
            source: Returns what a model is loaded from now, if that changes.
            command: `convmodel`; its arguments are appended.

        Raises:
            ConfigError: If a record is damaged.
            SaveError: If the folder cannot be written, or another server uses it.
        """
        self._folder = folder.resolve()  # processes may run elsewhere
        self._sources = sources
        self._source = source or (lambda name: sources[name])
        self._limits = limits or TrainingLimits()
        self._descriptor = lock_folder(self._folder, FLAG)
        try:
            self.files = FileStore(self._folder / "files", self._limits)
            self._jobs = JobStore(self._folder / "jobs")
            self.preparations = Preparations(
                self._folder / "preparations", self.files, self._limits, command, self._is_needed
            )
        except BaseException:
            self._unlock()
            raise
        self._queue = JobQueue(self._jobs, self._data, self._finish, command)
        self._registry: ModelRegistry | None = None
        self._lock = threading.Lock()  # held while a job is created, and while what a job may need is deleted
        self.shelf = ModelShelf(load)
        for job in self._jobs.all():
            if job.status == "succeeded" and not job.deleted:
                self._shelve(job)

    def start(self, registry: ModelRegistry) -> None:
        """Continues what an earlier server left, and runs the jobs that wait."""
        self._registry = registry
        self._queue.start(self._limits.at_once)
        self.preparations.start()

    def close(self) -> None:
        """Stops the running jobs, which the next server resumes, and lets another server use the folder."""
        self._queue.close()
        self.preparations.close()
        self._unlock()

    def delete_file(self, id: str) -> None:
        """Deletes a file, and the preparations of it; raises an `ApiError` if there is none, or something needs it."""
        with self._lock:
            for job in self._jobs.all():
                if job.status in UNFINISHED and id in job.spec.files:
                    fix = "wait for its end, or cancel it"
                    raise ApiError(409, f"{id} is needed by {job.id}, which is {job.status}: {fix}", code="file_in_use")
            self.preparations.check_unused(id)
            self.files.delete(id)
            self.preparations.forget_of(id)

    def prepare(self, order: PreparationOrder) -> PreparationRecord:
        """Adds a preparation to the queue; raises as `Preparations.create`, or an `ApiError` without such a model."""
        with self._lock:
            return self.preparations.create(order, self._base(order.model)[1])

    def delete_preparation(self, id: str) -> None:
        """Ends and removes a preparation; raises an `ApiError` if there is none."""
        with self._lock:
            self.preparations.delete(id)

    def create(self, order: Order) -> JobRecord:
        """Adds a job to the queue.

        Raises:
            ApiError: If it is invalid, or there is no room for it.
            SaveError: If it cannot be recorded.
        """
        values = resolve(order.method, order.hyperparameters, order.place)
        seed = FitConfig().seed if order.seed is None else order.seed
        with self._lock:
            base, source = self._base(order.model)
            check_files(self.files, order)
            self._check_room(base)
            spec = JobSpec(
                order.model, base, source, order.training_file, order.method, values, seed,
                order.validation_file, order.suffix, order.metadata,
            )  # fmt: skip
            job = self._jobs.create(spec)
            self._forget()
        self._jobs.report(job.id, f"Created fine-tuning job: {job.id}")
        self._queue.add(job.id)
        return job

    def jobs(self) -> Sequence[JobRecord]:
        """Returns all jobs, the oldest first."""
        return self._jobs.all()

    def job(self, id: str) -> JobRecord:
        """Returns a job; raises an `ApiError` if there is none."""
        return self._jobs.get(id)

    def cancel(self, id: str) -> JobRecord:
        """Ends a job; raises an `ApiError` if it has ended."""
        return self._queue.cancel(id)

    def pause(self, id: str) -> JobRecord:
        """Stops a job until it is resumed; raises an `ApiError` if it has ended."""
        return self._queue.pause(id)

    def resume(self, id: str) -> JobRecord:
        """Continues a paused job; raises an `ApiError` if it is not paused."""
        return self._queue.resume(id)

    def events(self, id: str) -> list[dict[str, Any]]:
        """Returns the events of a job, the newest first, in the form of OpenAI's API; raises an `ApiError` if none."""
        events = self._jobs.events(id)  # first, since it checks the id, of which a path is made
        return described_events([*metric_events(self._jobs.metrics(id), id), *events])

    def progress(self, id: str) -> dict[str, Any]:
        """Returns how far a job is and how it ended; raises an `ApiError` if there is none."""
        return job_progress(self._jobs.get(id), self._jobs)

    def view(self, id: str) -> dict[str, Any]:
        """Returns all that a live view of a job needs; raises an `ApiError` if there is none."""
        return job_view(self._jobs.get(id), self._jobs)

    def checkpoints(self, id: str) -> list[dict[str, Any]]:
        """Returns the checkpoint that a job has kept, in the form of OpenAI's API: its model."""
        job = self._jobs.get(id)
        metrics = kept_step(self._jobs.metrics(id)) if self._has_model(job) else None
        if metrics is None:
            return []
        own = {"id": f"ftckpt-{id.removeprefix('ftjob-')}", "object": "fine_tuning.job.checkpoint"}
        names = {"fine_tuned_model_checkpoint": job.model_name, "fine_tuning_job_id": id}
        return [own | names | {"created_at": job.finished_at, "step_number": metrics["step"], "metrics": metrics}]

    def delete_model(self, name: str) -> None:
        """Deletes the model of a job; raises an `ApiError` if there is none, or a job trains it further."""
        with self._lock:
            job = next((job for job in self._jobs.all() if job.model_name == name and self._has_model(job)), None)
            if job is None:
                message = f"{name} is not a model of a fine-tuning job: only those can be deleted"
                raise ApiError(404, message, param="model", code="model_not_found")
            source = str(self._jobs.model(job.id))
            users = [one.id for one in self._jobs.all() if one.status in UNFINISHED and one.spec.source == source]
            if users:
                fix = "wait for its end, or cancel it"
                raise ApiError(409, f"{name} is needed by {users[0]}: {fix}", code="model_in_use")
            self._jobs.change(job.id, deleted=True)
        self.shelf.remove(self._served, name)
        self._jobs.drop_model(job.id)

    @property
    def _served(self) -> ModelRegistry:
        if self._registry is None:
            raise unavailable("the model is being loaded: try again in a moment", "loading", 2)
        return self._registry

    def _base(self, model: str) -> tuple[str, str]:
        """Returns the id of the served model that a job trains, or whose descendant it trains, and what to load."""
        for served in self._served.models:
            if model in (served.id, self._sources.get(served.id)):
                return served.id, absolute_source(self._source(served.id))
        for job in self._jobs.all():
            if job.model_name == model and self._has_model(job):
                return job.spec.base, str(self._jobs.model(job.id))
        names = [*(served.id for served in self._served.models), *(one.name for one in self._served.shelved)]
        message = f"there is no model {model} to fine-tune, only {', '.join(names)}"
        raise ApiError(400, message, param="model", code="model_not_available")

    def _is_needed(self, file: str) -> bool:
        return any(file in job.spec.files for job in self._jobs.all() if job.status in UNFINISHED)

    def _check_room(self, base: str) -> None:
        """Raises an `ApiError` if there are too many jobs, or the disk is full."""
        count = sum(job.status in UNFINISHED or self._has_model(job) for job in self._jobs.all())
        if count >= self._limits.jobs:
            fix = "wait for one's end, or delete a model"
            message = f"there are {count} jobs that wait, run or keep a model, which is the limit: {fix}"
            raise ApiError(429, message, type="rate_limit_error", code="too_many_jobs", headers={"Retry-After": "60"})
        hf_model = self._served.get(base).model.hf_model
        if missing := missing_room(self._folder, hf_model, what="a job", models=_SIZES):
            raise ApiError(507, missing, type="server_error", code="storage_full")

    def _forget(self) -> None:
        """Removes the oldest jobs that have ended without a model, or whose model was deleted, if there are many."""
        ended = [job.id for job in self._jobs.all() if job.status not in UNFINISHED and not self._has_model(job)]
        for id in ended[: max(0, len(ended) - self._limits.ended)]:
            self._queue.forget(id)

    def _data(self, job: JobRecord) -> Data:
        """Returns the files of a job; preferences need conversations, by default the sample's, as in `improve`."""
        valid = None if job.spec.method == "supervised" else sample_file("valid")
        if job.spec.validation_file is not None:
            valid = self.files.path(job.spec.validation_file)
        return Data(self.files.path(job.spec.training_file), valid)

    def _finish(self, job: JobRecord) -> None:
        """Saves the results of a job that has written its model, and serves it."""
        metrics = self._jobs.metrics(job.id)
        results: list[str] = []
        try:
            id = f"file-{job.id.removeprefix('ftjob-')}"  # so that a server that was killed here saves it once
            results.append(self.files.add("step_metrics.csv", "fine-tune-results", result_csv(metrics), id=id).id)
        except SaveError as error:
            logger.exception("the results of %s are not saved", job.id)
            self._jobs.report(job.id, f"The results cannot be saved: {error}", "error")
        fields: dict[str, Any] = {
            "result_files": results,
            "trained_tokens": trained_tokens(metrics),
            "finished_at": int(time.time()),
        }
        # The status at last: clients that wait for it ask for the model and the events at once.
        self._shelve(replace(job, **fields))
        self._jobs.report(job.id, f"New fine-tuned model created: {job.model_name}")
        self._jobs.report(job.id, "The job has successfully completed")
        self._jobs.force(job.id, status="succeeded", **fields)
        logger.info("%s is served as %s", self._jobs.model(job.id), job.model_name)

    def _shelve(self, job: JobRecord) -> None:
        created = job.finished_at or int(job.created_at)
        self.shelf.add(ShelvedModel(job.model_name, job.spec.base, self._jobs.model(job.id), created))

    def _has_model(self, job: JobRecord) -> bool:
        return job.status == "succeeded" and not job.deleted

    def _unlock(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
