"""`POST /votes`: votes for one of two responses.

Owns: the format of the request and of the result.
"""

from dataclasses import asdict
from datetime import UTC, datetime
from math import isfinite
from typing import Annotated, Any, Self, TypeAlias

import anyio
from fastapi import APIRouter
from pydantic import Field, StringConstraints, model_validator

from convmodel.evaluation.votes import Vote, count_wins
from convmodel.server.api.requests import Registry
from convmodel.server.api.schemas import Strict, Text
from convmodel.server.errors import ERRORS
from convmodel.server.settings import MAX_MESSAGES

router = APIRouter()

Label: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class VoteRequest(Strict):
    """`POST /votes`: which of two responses is better; a `winner` of null means neither."""

    context: Annotated[list[Text], Field(min_length=1, max_length=MAX_MESSAGES)]
    models: Annotated[list[Label], Field(min_length=2, max_length=2)]
    responses: Annotated[list[Text], Field(min_length=2, max_length=2)]
    winner: Text | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.models[0] == self.models[1]:
            raise ValueError("models need two names that differ")
        if self.winner is not None and self.winner not in self.models:
            raise ValueError("winner must be one of the models, or null")
        return self


@router.post("/votes", responses=ERRORS)
async def votes(body: VoteRequest, registry: Registry) -> dict[str, Any]:
    """Saves a vote, and returns how often the second model has won against the first."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    vote = Vote(body.context, body.models, body.responses, body.winner, at)
    all_votes = await anyio.to_thread.run_sync(registry.votes.add, vote)
    wins = asdict(count_wins(all_votes, *body.models))
    finite = {name: value if isfinite(value) else None for name, value in wins.items()}
    return {"object": "votes", "models": body.models, **finite}
