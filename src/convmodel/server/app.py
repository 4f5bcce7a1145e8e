"""The application: routes, the gate around them, and errors in one form.

Owns: nothing but putting these together.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from convmodel.errors import ConvModelError
from convmodel.server.api import admin as other_api
from convmodel.server.api import chat_completions as chat_api
from convmodel.server.api import completions as completions_api
from convmodel.server.api import responses as responses_api
from convmodel.server.api import web_page as page
from convmodel.server.errors import ApiError, answer_any, answer_http, answer_validation
from convmodel.server.middleware import Gate
from convmodel.server.serving.model_registry import Service


def create_app(service: Service) -> ASGIApp:
    """Makes the application of a service, which is started and ended with it.

    Example:
        >>> from convmodel import ConversationModel
        >>> from convmodel.server.settings import ServerSettings
        >>> model = ConversationModel.from_pretrained("builtin:chitchat")
        >>> app = create_app(Service(lambda: {"chitchat": model}, ServerSettings()))
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = FastAPI(
        title="convmodel",
        version=version("convmodel"),
        description="Conversation models behind OpenAI's API.",
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.votes = []
    for module in (chat_api, completions_api, responses_api, other_api, page):
        app.include_router(module.router)
    app.add_exception_handler(RequestValidationError, answer_validation)
    app.add_exception_handler(HTTPException, answer_http)
    for kind in (ApiError, ConvModelError, Exception):
        app.add_exception_handler(kind, answer_any)
    if service.settings.api_keys:
        _describe_keys(app)
    return Gate(app, service.settings, service.metrics)


def _describe_keys(app: FastAPI) -> None:
    """Says in the OpenAPI document that a key is needed."""
    make = app.openapi

    def described() -> dict[str, Any]:
        document = make()
        parts: dict[str, Any] = document.setdefault("components", {})
        parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        return document

    app.openapi = described  # type: ignore[method-assign]
