"""Errors of requests that are refused for who asks, or because they cannot be answered as they must be."""

from utils.errors import NotThere, Unavailable, UserError


class Forbidden(UserError):
    """Who asks may not do this. An HTTP API answers with status 403."""


STATUS: dict[type[UserError], int] = {NotThere: 404, Forbidden: 403, Unavailable: 503}


def status_of(error: UserError) -> int:
    """The status of HTTP for an error; that of wrong input, 400, for all others."""
    return next((status for type_, status in STATUS.items() if isinstance(error, type_)), 400)
