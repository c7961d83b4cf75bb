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


class KeyUsed(Conflict):
    code = "key-used"
    message = "The instance that this request made has been deleted since."
    next_step = "To make another one, send the request again with a new idempotency key."


class HomeInUse(Conflict):
    code = "home-in-use"
    message = "This home is in use by an instance."
    next_step = "Stop and delete the instance first, then delete the home."


class HomeBusy(Conflict):
    code = "home-being-deleted"
    message = "Your home at this facility is being deleted just now."
    next_step = "Try again in a minute; the new instance then gets a fresh home."


class HomeNotDeleted(InstanceError):
    code, status, blame = "home-not-deleted", 502, Blame.OUTSIDE
    message = "The storage did not delete this home."
    next_step = "Try again in a minute; if it stays, tell support the request id below."


class SeveralFacilities(InstanceError):
    code, status, blame = "several-facilities", 400, Blame.USER
    message = "An instance works with the data of one facility."
    next_step = "Choose experiments of one facility, and make a second instance for the others."


class WrongFacility(InstanceError):
    code, status, blame = "wrong-facility", 400, Blame.USER
    message = "This plan runs at another facility than the one that has the data."
    next_step = "Choose a plan of the facility that has the data."


class NeedsExperiment(InstanceError):
    code, status, blame = "needs-experiment", 403, Blame.USER
    message = "An instance is made for at least one experiment."
    next_step = "Choose an experiment that you may see, your own or an open one."


class RoleEnded(InstanceError):
    code, status, blame = "role-ended", 403, Blame.USER
    message = "The role by which this instance was made without an experiment has ended."
    next_step = "Ask an operator of the portal to renew it, or delete the instance; your home is kept either way."


class Draining(Conflict):
    code = "provider-draining"
    message = "No instances are started here for now."
    next_step = "Your files are kept. Try again later, or choose another plan where there is one."


class ProviderAway(InstanceError):
    code, status, blame = "provider-away", 502, Blame.OUTSIDE
    message = "What runs the machines gives no usable answer."
    next_step = "Try again in a minute; then look at the provider's set-up."
