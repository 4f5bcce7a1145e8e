"""The chat page at `/`, and its files.

Owns: the headers of the page: browsers load nothing from other sites and run no inline scripts.
"""

from importlib.resources import files
from pathlib import PurePath

from fastapi import APIRouter
from starlette.responses import Response

from convmodel.server.errors import ERRORS, ApiError

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy; https://www.w3.org/TR/CSP3/."""

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

router = APIRouter(include_in_schema=False)


_FILES = {
    file.name: file.read_bytes()
    for file in (files("convmodel.server") / "static").iterdir()
    if PurePath(file.name).suffix in _MEDIA_TYPES
}


@router.get("/")
async def page() -> Response:
    """Returns the chat page."""
    return _file("index.html")


@router.get("/static/{name}", responses=ERRORS)
async def static(name: str) -> Response:
    """Returns a file of the chat page."""
    return _file(name)


@router.get("/favicon.ico")
async def icon() -> Response:
    """Returns the icon, which browsers request at this path whatever the page declares."""
    return _file("icon.svg")


def _file(name: str) -> Response:
    if name not in _FILES:
        raise ApiError(404, f"the page has no file {name}")
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "X-Frame-Options": "DENY"}
    return Response(_FILES[name], media_type=_MEDIA_TYPES[PurePath(name).suffix], headers=headers)
