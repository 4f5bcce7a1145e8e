"""`/v1/fine_tuning/jobs`: fine-tuning jobs, in the form of OpenAI's API.

Owns: the routes and the request. What a job is, is in `convmodel.server.fine_tuning`.
"""

from typing import Annotated, Any, Literal, Self, TypeAlias

import anyio
from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints, model_validator

from convmodel.server.api.body import BodyRoute
from convmodel.server.api.files import Service
from convmodel.server.api.pages import only_query, page_of
from convmodel.server.api.strict import Strict
from convmodel.server.errors import ERRORS, ErrorEnvelope
from convmodel.server.fine_tuning.job_order import Order

router = APIRouter()
bodies = APIRouter(route_class=BodyRoute)

_PATH = "/v1/fine_tuning/jobs"
_PAGES = only_query("after", "limit")
_CONFLICT = "the job's status does not allow this; `code` is job_ and the status"
_ERRORS: dict[int | str, dict[str, Any]] = ERRORS | {409: {"model": ErrorEnvelope, "description": _CONFLICT}}

Id: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=300)]
Suffix: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
Key: TypeAlias = Annotated[str, StringConstraints(max_length=64)]
Value: TypeAlias = Annotated[str, StringConstraints(max_length=512)]
Hyperparameters: TypeAlias = Annotated[dict[str, Any], Field(max_length=20)]
Limit: TypeAlias = Annotated[int, Query(ge=1, le=1000)]


class MethodOptions(Strict):
    """The options of one method."""

    hyperparameters: Hyperparameters = Field(default_factory=dict)


class MethodRequest(Strict):
    """What is learned: the assistant's messages, or which of two responses is better."""

    type: Literal["supervised", "dpo"]
    supervised: MethodOptions | None = None
    dpo: MethodOptions | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        other = "dpo" if self.type == "supervised" else "supervised"
        if getattr(self, other) is not None:
            raise ValueError(f"{other} is for the method {other}, and type is {self.type}: leave it out")
        return self


class JobRequest(Strict):
    """`POST /v1/fine_tuning/jobs`.

    Attributes:
        model: The model to train.
        training_file: The id of an uploaded file.
        validation_file: The id of another one, on which the model is measured.
        method: What is learned, and how; by default supervised.
        hyperparameters: Those of a supervised job; `method` has them, too.
        seed: The seed of the data's order.
        suffix: A part of the new model's name.
        metadata: Up to 16 texts, which the job shows.
    """

    model: Id
    training_file: Id
    validation_file: Id | None = None
    method: MethodRequest | None = None
    hyperparameters: Hyperparameters | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    suffix: Suffix | None = None
    metadata: Annotated[dict[Key, Value], Field(max_length=16)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hyperparameters is not None and self.method is not None:
            raise ValueError("hyperparameters are part of method, which is given too: leave them out")
        return self

    def order(self) -> Order:
        """Returns what is ordered."""
        kind = "supervised" if self.method is None else self.method.type
        place, values = "hyperparameters", self.hyperparameters or {}
        if self.method is not None:
            options = self.method.supervised or self.method.dpo
            place, values = f"method.{kind}.hyperparameters", {} if options is None else options.hyperparameters
        return Order(
            self.model, self.training_file, self.validation_file, kind, values, place, self.seed, self.suffix,
            self.metadata,
        )  # fmt: skip


@bodies.post(_PATH, responses=_ERRORS)
async def create(body: JobRequest, service: Service) -> dict[str, Any]:
    """Adds a fine-tuning job to the queue."""
    job = await anyio.to_thread.run_sync(service.create, body.order())
    return job.describe()


@router.get(_PATH, responses=ERRORS, dependencies=[_PAGES])
async def list_jobs(service: Service, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """Lists the jobs, the newest first."""
    return page_of([job.describe() for job in reversed(service.jobs())], after, limit)


@router.get(_PATH + "/{id}", responses=ERRORS)
async def job(id: str, service: Service) -> dict[str, Any]:
    """Describes a job."""
    return service.job(id).describe()


@router.get(_PATH + "/{id}/events", responses=ERRORS, dependencies=[_PAGES])
async def events(id: str, service: Service, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """Lists the events of a job, the newest first."""
    return page_of(await anyio.to_thread.run_sync(service.events, id), after, limit)


@router.get(_PATH + "/{id}/checkpoints", responses=ERRORS, dependencies=[_PAGES])
async def checkpoints(id: str, service: Service, after: str | None = None, limit: Limit = 10) -> dict[str, Any]:
    """Lists the checkpoint that a job has kept, which is its model."""
    return page_of(await anyio.to_thread.run_sync(service.checkpoints, id), after, limit)


@router.post(_PATH + "/{id}/cancel", responses=_ERRORS)
async def cancel(id: str, service: Service) -> dict[str, Any]:
    """Ends a job and removes its checkpoints."""
    job = await anyio.to_thread.run_sync(service.cancel, id)
    return job.describe()


@router.post(_PATH + "/{id}/pause", responses=_ERRORS)
async def pause(id: str, service: Service) -> dict[str, Any]:
    """Stops a job after its current step, until it is resumed."""
    job = await anyio.to_thread.run_sync(service.pause, id)
    return job.describe()


@router.post(_PATH + "/{id}/resume", responses=_ERRORS)
async def resume(id: str, service: Service) -> dict[str, Any]:
    """Puts a paused job into the queue."""
    job = await anyio.to_thread.run_sync(service.resume, id)
    return job.describe()


@router.delete("/v1/models/{id:path}", responses=_ERRORS)
async def delete_model(id: str, service: Service) -> dict[str, Any]:
    """Deletes the model of a job, and makes room for others."""
    await anyio.to_thread.run_sync(service.delete_model, id)
    return {"object": "model", "id": id, "deleted": True}


router.include_router(bodies)
