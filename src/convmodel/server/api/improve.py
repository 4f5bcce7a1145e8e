"""`/improve`: training a better model on judgements, and choosing between it and the old one.

Owns: the routes. What they do is in `convmodel.server.serving.improvement`.
"""

from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Depends

from convmodel.server.api.body import BodyRoute
from convmodel.server.api.requests import Registry
from convmodel.server.api.strict import Strict, Text
from convmodel.server.errors import ERRORS, ApiError, ErrorEnvelope
from convmodel.server.serving.improvement import Improver

_CONFLICT = "this is not possible now; `code` says why, such as training_runs or votes_missing"
_ERRORS: dict[int | str, dict[str, Any]] = ERRORS | {409: {"model": ErrorEnvelope, "description": _CONFLICT}}


async def _improver(registry: Registry) -> Improver:
    if registry.improver is None:
        fix = "start the server with --feedback FILE --allow-training FOLDER"
        raise ApiError(404, f"training is not allowed: {fix}", code="training_off")
    return registry.improver


Improving = Annotated[Improver, Depends(_improver)]
"""A parameter of this type receives what improves the server's models; without it, the request gets 404."""

router = APIRouter()
bodies = APIRouter(route_class=BodyRoute)


class ImproveRequest(Strict):
    """`POST /improve`: start an improvement, or resume the one that was stopped.

    Attributes:
        model: The id of the model to improve; by default the first one of `/v1/models`.
    """

    model: Text | None = None


class UseRequest(Strict):
    """`POST /improve/use`: serve the new version of a model, or again the old one.

    Attributes:
        model: The model's id.
        version: Which version to serve under it.
    """

    model: Text
    version: Literal["new", "old"]


@router.get("/improve", responses=_ERRORS)
async def improve(improver: Improving) -> dict[str, Any]:
    """Returns the judgements, the running or latest improvement, and the new version with its votes."""
    return await anyio.to_thread.run_sync(improver.state)


@bodies.post("/improve", responses=_ERRORS)
async def start(body: ImproveRequest, improver: Improving) -> dict[str, Any]:
    """Starts an improvement in a process of its own, and returns the state."""
    await anyio.to_thread.run_sync(improver.begin, body.model)
    return await anyio.to_thread.run_sync(improver.state)


@router.delete("/improve", responses=_ERRORS)
async def cancel(improver: Improving) -> dict[str, Any]:
    """Stops the improvement after its current step, and returns the state; starting it again resumes it."""
    await anyio.to_thread.run_sync(improver.cancel)
    return await anyio.to_thread.run_sync(improver.state)


@bodies.post("/improve/use", responses=_ERRORS)
async def use(body: UseRequest, improver: Improving) -> dict[str, Any]:
    """Serves another version of a model, and returns the state."""
    await anyio.to_thread.run_sync(improver.use, body.model, body.version)
    return await anyio.to_thread.run_sync(improver.state)


router.include_router(bodies)
