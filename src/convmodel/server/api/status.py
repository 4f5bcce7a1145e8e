"""The routes for monitoring, and the list of models.

Owns: `/health`, `/ready`, `/metrics` and `/v1/models`.
"""

from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from convmodel.server.api.requests import Registry
from convmodel.server.errors import ERRORS

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    """Reports that the server is alive."""
    return {"status": "ok"}


@router.get("/ready", responses={503: {"description": "the server is loading a model, or shutting down"}})
async def ready(registry: Registry) -> Response:
    """Reports whether the server answers requests: not while it loads a model or shuts down."""
    return JSONResponse({"status": registry.state}, 200 if registry.state == "ready" else 503)


@router.get("/metrics", responses={401: ERRORS[401]}, response_class=Response)
async def metrics(registry: Registry) -> Response:
    """Returns the server's metrics in the text format of Prometheus."""
    return Response(registry.metrics.render(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/models", responses=ERRORS)
async def models(registry: Registry) -> dict[str, Any]:
    """Lists the models."""
    return {"object": "list", "data": registry.describe_all()}


@router.get("/v1/models/{id:path}", responses=ERRORS)
async def model(id: str, registry: Registry) -> dict[str, Any]:
    """Describes one model."""
    shelved = next((model for model in registry.shelved if model.name == id), None)
    return registry.describe(registry.get(id)) if shelved is None else registry.describe_shelved(shelved)
