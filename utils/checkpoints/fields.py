"""The fields that a program reads from a checkpoint, checked by a schema."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from utils.errors import UserError

Fields = TypeVar("Fields", bound="CheckpointFields")


class CheckpointFields(BaseModel):
    """Base of such schemas: types are as they say, numbers finite; a checkpoint may hold more fields than these."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


def read_fields(schema: type[Fields], checkpoint: Mapping[str, Any], where: str) -> Fields:
    """The fields of `schema` in a checkpoint.

    Raises UserError "checkpoint WHERE does not hold this run's state: ..." about the first that is missing or wrong.
    """
    try:
        return schema.model_validate(dict(checkpoint))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        found = "" if first["type"] == "missing" else f", not {type(first['input']).__name__} {first['input']!r}"[:60]
        problem = f"{name}: {first['msg'][:1].lower()}{first['msg'][1:]}{found}"
        raise UserError(f"checkpoint {where} does not hold this run's state: {' '.join(problem.split())}") from None
