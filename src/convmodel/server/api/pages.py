"""Pages of lists, in the form of OpenAI's API.

Owns: where a page begins and ends, and which parameters the query may have. Does not know what is listed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Depends
from starlette.requests import Request

from convmodel.server.errors import ApiError


def only_query(*names: str) -> Any:
    """Returns a dependency of routes that refuses parameters of the query with other names."""

    async def check(request: Request) -> None:
        for name in request.query_params:
            if name not in names:
                message = f"{name} is not supported here, only {', '.join(names)}: leave it out"
                raise ApiError(400, message, param=name[:100], code="unsupported_parameter")

    return Depends(check)


def page_of(items: Sequence[Mapping[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    """Returns the items that follow the one whose id is `after`, at most `limit`.

    Raises:
        ApiError: If there is no such item.

    Example:
        >>> page = page_of([{"id": "a"}, {"id": "b"}, {"id": "c"}], after="a", limit=1)
        >>> page["data"], page["has_more"]
        ([{'id': 'b'}], True)
    """
    begin = 0
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise ApiError(400, f"after is {after!r}, which the list does not have", param="after")
        begin = ids.index(after) + 1
    data = items[begin : begin + limit]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"object": "list", "data": data, **ends, "has_more": begin + limit < len(items)}
