"""Why the gate refuses, as MLflow's clients understand it."""

from __future__ import annotations


class Refused(Exception):
    """A request that goes no further. `error_code` is one of MLflow's, `status` the HTTP status."""

    status = 403
    error_code = "PERMISSION_DENIED"

    @property
    def message(self) -> str:
        """What the caller is told."""
        return str(self.args[0])


class BadRequest(Refused):
    """The request is not one that can be understood."""

    status = 400
    error_code = "BAD_REQUEST"


class Unauthenticated(Refused):
    """Nobody has been proved to call."""

    status = 401
    error_code = "UNAUTHENTICATED"


class Denied(Refused):
    """The caller is known and may not do this."""


class NotFound(Refused):
    """There is no such route."""

    status = 404
    error_code = "ENDPOINT_NOT_FOUND"


class TooManyRequests(Refused):
    """Too many proofs of identity that did not hold, from one address."""

    status = 429
    error_code = "REQUEST_LIMIT_EXCEEDED"


class Unavailable(Refused):
    """AWS could not be asked; nothing is allowed on a guess."""

    status = 503
    error_code = "TEMPORARILY_UNAVAILABLE"
