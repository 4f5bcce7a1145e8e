"""The ASGI application: routes, middleware, and error handlers.

Owns: nothing but putting these together.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from convmodel.errors import ConvModelError
from convmodel.server.api import (
    completions,
    feedback,
    files,
    fine_tuning_jobs,
    improve,
    responses,
    status,
    tokenize,
    train,
    web_page,
)
from convmodel.server.errors import ApiError, handle_error
from convmodel.server.fine_tuning.service import FineTuning
from convmodel.server.middleware import RequestMiddleware
from convmodel.server.serving.model_registry import ModelRegistry


def create_app(registry: ModelRegistry, fine_tuning: FineTuning | None = None) -> RequestMiddleware:
    """Returns the application that serves the models of a registry, and fine-tunes them if it is given what does.

    It starts and closes both.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        registry.start()
        if fine_tuning is not None:
            fine_tuning.start(registry)
        try:
            yield
        except asyncio.CancelledError:  # after a second signal, uvicorn ends without a shutdown: waits for nothing
            return
        if fine_tuning is not None:
            fine_tuning.close()
        registry.close()

    app = FastAPI(
        title="convmodel",
        version=version("convmodel"),
        description="Conversation models with OpenAI's API.",
        docs_url=None,  # these pages load scripts from other sites
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.registry = registry
    app.state.fine_tuning = fine_tuning
    modules = (completions, responses, tokenize, feedback, improve, files, fine_tuning_jobs, train, status, web_page)
    for module in modules:
        app.include_router(module.router)
    for error in (HTTPException, RequestValidationError, ApiError, ConvModelError, Exception):
        app.add_exception_handler(error, handle_error)
    if registry.settings.api_keys:
        document = app.openapi()  # FastAPI keeps it
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return RequestMiddleware(app, registry.settings, registry.metrics)
