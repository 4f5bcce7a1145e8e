"""`/train`: preparing any chat export for fine-tuning, and watching a job, for the page.

Owns: the routes and the request. What a preparation and a job are, is in `convmodel.server.fine_tuning`.
"""

from typing import Annotated, Any

import anyio
from fastapi import APIRouter
from pydantic import Field, StringConstraints

from convmodel.data.reading.problems import OnError
from convmodel.server.api.body import BodyRoute
from convmodel.server.api.files import Service
from convmodel.server.api.fine_tuning_jobs import Id, Limit
from convmodel.server.api.pages import only_query, page_of
from convmodel.server.api.strict import Strict
from convmodel.server.errors import ERRORS
from convmodel.server.fine_tuning.preparations import PreparationOrder
from convmodel.server.settings import MAX_SOURCES

router = APIRouter()
bodies = APIRouter(route_class=BodyRoute)

_PREPARATIONS, _JOBS = "/train/preparations", "/train/jobs"
_PAGES = only_query("after", "limit")


class PreparationRequest(Strict):
    """`POST /train/preparations`: import files as `convmodel import` does, and check what became of them.

    Attributes:
        files: The ids of uploaded files, which are imported together.
        model: The model that is to be trained.
        me: The name of the speaker whose turns the model learns.
        merge_others: Rename all other speakers to `user`.
        redact: Mask personal data.
        on_error: Whether what cannot be read ends the import, or is left out and counted.
    """

    files: Annotated[list[Id], Field(min_length=1, max_length=MAX_SOURCES)]
    model: Id
    me: Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[^\x00]*$")] | None = None
    merge_others: bool = False
    redact: bool = False
    on_error: OnError = "fail"

    def order(self) -> PreparationOrder:
        """Returns what is ordered."""
        return PreparationOrder(self.files, self.model, self.me, self.merge_others, self.redact, self.on_error)


@bodies.post(_PREPARATIONS, responses=ERRORS)
async def prepare(body: PreparationRequest, service: Service) -> dict[str, Any]:
    """Imports uploaded files in a process of its own, and checks what became of them."""
    preparation = await anyio.to_thread.run_sync(service.prepare, body.order())
    return preparation.describe()


@router.get(_PREPARATIONS, responses=ERRORS, dependencies=[_PAGES])
async def list_preparations(service: Service, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """Lists the preparations, the newest first."""
    described = [preparation.describe() for preparation in reversed(service.preparations.all())]
    return page_of(described, after, limit)


@router.get(_PREPARATIONS + "/{id}", responses=ERRORS)
async def preparation(id: str, service: Service) -> dict[str, Any]:
    """Describes a preparation."""
    return service.preparations.get(id).describe()


@router.delete(_PREPARATIONS + "/{id}", responses=ERRORS)
async def delete(id: str, service: Service) -> dict[str, Any]:
    """Ends and removes a preparation, and the files that it made, unless something unfinished needs them."""
    await anyio.to_thread.run_sync(service.delete_preparation, id)
    return {"object": "train.preparation", "id": id, "deleted": True}


@router.get(_JOBS, responses=ERRORS, dependencies=[_PAGES])
async def list_jobs(service: Service, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """Lists the jobs, the newest first, with how far they are and how they ended, without their curves."""

    def views() -> dict[str, Any]:
        page = page_of([{"id": job.id} for job in reversed(service.jobs())], after, limit)
        return page | {"data": [service.progress(item["id"]) for item in page["data"]]}

    return await anyio.to_thread.run_sync(views)


@router.get(_JOBS + "/{id}", responses=ERRORS)
async def job(id: str, service: Service) -> dict[str, Any]:
    """Returns all that a live view of a job needs: how far it is, its curves, samples, findings, and the verdict."""
    return await anyio.to_thread.run_sync(service.view, id)


router.include_router(bodies)
