"""The one family of errors that people see: a stable code, an HTTP status and whose turn it is."""

from __future__ import annotations

from enum import StrEnum


class Blame(StrEnum):
    """Who can mend it: decides the tone of the page and the level of the log line."""

    USER = "user"
    OPERATOR = "operator"
    OUTSIDE = "outside"


class PortalError(Exception):
    """An error with a stable kebab-case `code`, listed in docs/reference/errors.md.

    `message` is one sentence a scientist understands; `next_step` says what to do. Details that help only
    an operator go to the log, never in here.
    """

    code = "internal"
    status = 500
    blame = Blame.OPERATOR
    message = "Something went wrong on our side."
    next_step = "Try again in a minute; if it stays, tell support the request id below."

    def __init__(self, message: str = "", *, next_step: str = "") -> None:
        self.message = message or self.message
        self.next_step = next_step or self.next_step
        super().__init__(self.message)


class NotFound(PortalError):
    """Unknown and not visible are the same answer, byte for byte."""

    code, status, blame = "not-found", 404, Blame.USER
    message = "There is nothing here, or it is not open to you."
    next_step = "Check the address or the DOI, or sign in if your team can see it."


class Forbidden(PortalError):
    code, status, blame = "forbidden", 403, Blame.USER
    message = "Your role does not allow this."
    next_step = "Ask the owner or an operator of the portal."


class BadRequest(PortalError):
    code, status, blame = "bad-request", 400, Blame.USER
    message = "The portal could not read this request."
    next_step = "Go back and correct it."


class MethodNotAllowed(PortalError):
    code, status, blame = "method-not-allowed", 405, Blame.USER
    message = "This address cannot be asked in this way."
    next_step = "Go back to the page that led here and use its buttons."


class TooLarge(PortalError):
    code, status, blame = "too-large", 413, Blame.USER
    message = "This is more than the portal reads at once."
    next_step = "Go back and send less."


class Conflict(PortalError):
    code, status, blame = "conflict", 409, Blame.USER
    message = "This cannot be done right now."
    next_step = "Reload the page and look at the present state."


class TooMany(PortalError):
    """More than a limit on how often allows; `retry_after` (seconds) goes into the header of that name."""

    code, status, blame = "too-many-requests", 429, Blame.USER
    message = "This was tried too often in a short time."
    next_step = "Wait a while, then try again."

    def __init__(self, message: str = "", *, next_step: str = "", retry_after: int = 60) -> None:
        super().__init__(message, next_step=next_step)
        self.retry_after = retry_after


class DatabaseAway(PortalError):
    """PostgreSQL does not answer, refuses, or is too busy; nothing of the request is known to be done."""

    code, status = "database-away", 503
    message = "The portal cannot reach its database just now, or has too much to do."
    next_step = "Running instances go on. Try again in a few seconds."
    #: seconds
    retry_after = 5
