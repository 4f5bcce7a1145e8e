"""The page at `/`, and its files.

Owns: what browsers are told of it: nothing is loaded from elsewhere, nothing inline runs.
"""

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

from convmodel.server.api.openapi import ERRORS
from convmodel.server.errors import ApiError

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy; https://www.w3.org/TR/CSP3/."""

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

router = APIRouter(include_in_schema=False)


def _read() -> dict[str, bytes]:
    folder = files("convmodel.server") / "static"
    return {each.name: each.read_bytes() for each in folder.iterdir() if "." + each.name.rpartition(".")[2] in _KINDS}


_FILES = _read()


@router.get("/")
async def page() -> Response:
    """Returns the page."""
    return _answer("index.html")


@router.get("/static/{name}", responses=ERRORS)
async def static(name: str) -> Response:
    """Returns one of its files."""
    return _answer(name)


@router.get("/favicon.ico")
async def icon() -> Response:
    """Browsers ask for it whatever the page says."""
    return _answer("icon.svg")


def _answer(name: str) -> Response:
    if name not in _FILES:
        raise ApiError(404, f"the page has no file {name}")
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "X-Frame-Options": "DENY"}
    return Response(_FILES[name], media_type=_KINDS["." + name.rpartition(".")[2]], headers=headers)
