"""What can go wrong with an instance, with stable codes."""

from __future__ import annotations

from portal.lib.errors import Blame, Conflict, PortalError


class InstanceError(PortalError):
    """Base of the errors of this app."""


class QuotaExceeded(InstanceError):
    code, status, blame = "quota-exceeded", 409, Blame.USER


class NotNow(Conflict):
    """The verb does not fit the state the instance is in."""

    code = "not-now"


class HomeInUse(Conflict):
    code = "home-in-use"
    message = "This home is in use by an instance."
    next_step = "Stop and delete the instance first, then delete the home."


class SeveralFacilities(InstanceError):
    code, status, blame = "several-facilities", 400, Blame.USER
    message = "An instance works with the data of one facility."
    next_step = "Choose experiments of one facility, and make a second instance for the others."
