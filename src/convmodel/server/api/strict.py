"""The base of all request bodies.

Owns: what every body has in common: no unknown fields, unless their value has no effect, no conversions, bounded sizes.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, model_validator

from convmodel.server.api.no_effect import has_no_effect
from convmodel.server.settings import MAX_BODY, MAX_FIELDS


def few(limit: int) -> BeforeValidator:
    """Refuses an object with more than `limit` fields before any of them is validated."""

    def check(value: Any) -> Any:
        if isinstance(value, Mapping) and len(value) > limit:
            raise ValueError(f"at most {limit} fields are allowed")
        return value

    return BeforeValidator(check)


class Strict(BaseModel):
    """The base of all request bodies: no unknown fields, no numbers as strings, no infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_without_effect(cls, body: Any) -> Any:
        if not isinstance(body, Mapping):
            return body
        if len(body) > MAX_FIELDS:  # each unknown one is an error
            raise ValueError(f"at most {MAX_FIELDS} fields are allowed")
        return {
            name: value
            for name, value in body.items()
            if value is not None and (name in cls.model_fields or not has_no_effect(name, value, body))
        }


Text: TypeAlias = Annotated[str, StringConstraints(max_length=MAX_BODY)]
"""Any text. The constraint makes pydantic reject lone surrogates, which JSON can contain."""
