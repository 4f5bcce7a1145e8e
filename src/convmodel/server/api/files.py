"""`/v1/files`: the files to fine-tune on, or to prepare for it, in the form of OpenAI's API.

Owns: the routes. What is stored is in `convmodel.server.fine_tuning.file_store`.
"""

from functools import partial
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from convmodel.server.api.multipart import read_form
from convmodel.server.api.pages import only_query, page_of
from convmodel.server.errors import ERRORS, ApiError, ErrorEnvelope
from convmodel.server.fine_tuning.file_store import FileRecord, Incoming, Purpose, unknown_file
from convmodel.server.fine_tuning.json_lines_check import check_json_lines
from convmodel.server.fine_tuning.service import FineTuning

router = APIRouter()

_PURPOSES: dict[str, Purpose] = {"fine-tune": "fine-tune", "user_data": "user_data"}
_CHECKS = anyio.CapacityLimiter(1)  # parsing holds the interpreter's lock, so more threads would only delay others
_IN_USE: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorEnvelope, "description": "something unfinished needs the file"}
}
_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "purpose": {"type": "string", "enum": [*_PURPOSES]},
                    "file": {"type": "string", "format": "binary"},
                },
                "required": ["purpose", "file"],
                "additionalProperties": False,
            }
        }
    },
}


async def _fine_tuning(request: Request) -> FineTuning:
    service: FineTuning | None = request.app.state.fine_tuning
    if service is None:
        fix = "start the server with --train FOLDER"
        raise ApiError(404, f"fine-tuning is not allowed: {fix}", code="training_off")
    return service


Service = Annotated[FineTuning, Depends(_fine_tuning)]
"""A parameter of this type receives the fine-tuning of the server; without it, the request gets 404."""


@router.post("/v1/files", responses=ERRORS, openapi_extra={"requestBody": _FORM})
async def upload(request: Request, service: Service) -> dict[str, Any]:
    """Stores a file: JSON lines to fine-tune on, or, as `user_data`, what `/train/preparations` imports."""
    uploading = service.files.incoming()  # in threads, since it waits while another file is stored
    file = await anyio.to_thread.run_sync(uploading.__enter__)
    try:
        record = await _receive(request, service, file)
    finally:
        await anyio.to_thread.run_sync(uploading.__exit__, None, None, None)
    return record.describe()


async def _receive(request: Request, service: FineTuning, file: Incoming) -> FileRecord:
    async def write(data: bytes) -> None:
        await anyio.to_thread.run_sync(file.write, data)

    form = await read_form(request, fields=["purpose"], file="file", write=write)
    given, names = form.fields.get("purpose"), " or ".join(_PURPOSES)
    if given is None:
        raise ApiError(400, f"purpose is missing: send {names}", param="purpose")
    if (purpose := _PURPOSES.get(given)) is None:
        raise ApiError(400, f"purpose is {given!r}: only {names} is supported here", param="purpose")
    await anyio.to_thread.run_sync(file.finish)
    if purpose == "fine-tune":
        await anyio.to_thread.run_sync(check_json_lines, file.path, limiter=_CHECKS)
    store = partial(service.files.store, file, form.filename or "", purpose)
    return await anyio.to_thread.run_sync(store)


@router.get("/v1/files", responses=ERRORS, dependencies=[only_query("after", "limit", "order", "purpose")])
def list_files(
    service: Service,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> dict[str, Any]:
    """Lists the files, the newest first."""
    records = [record for record in service.files.all() if purpose in (None, record.purpose)]
    described = [record.describe() for record in (records if order == "asc" else reversed(records))]
    return page_of(described, after, limit)


@router.get("/v1/files/{id}", responses=ERRORS)
def file(id: str, service: Service) -> dict[str, Any]:
    """Describes a file."""
    return service.files.get(id).describe()


@router.get("/v1/files/{id}/content", responses=ERRORS, response_class=Response)
def content(id: str, service: Service) -> Response:
    """Returns the content of a file."""
    record, path = service.files.get(id), service.files.path(id)
    try:
        facts = path.stat()
    except FileNotFoundError:  # it was deleted meanwhile
        raise unknown_file(id) from None
    return FileResponse(path, stat_result=facts, filename=record.filename, media_type="application/octet-stream")


@router.delete("/v1/files/{id}", responses=ERRORS | _IN_USE)
async def delete(id: str, service: Service) -> dict[str, Any]:
    """Deletes a file that nothing unfinished needs, and the preparations of it."""
    await anyio.to_thread.run_sync(service.delete_file, id)
    return {"object": "file", "id": id, "deleted": True}
