"""What may go wrong between "Sign in" and being signed in: a page with a sentence, never a stack trace.

`reason` is a stable word for the audit row and the log; people see the sentence.
"""

from __future__ import annotations

from portal.lib.errors import Blame, PortalError


class LoginError(PortalError):
    code, status, blame = "sign-in-failed", 400, Blame.USER
    message = "You could not be signed in."
    next_step = "Start the sign-in again; if it stays, tell support the request id below."

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class SignInStale(LoginError):
    code = "sign-in-stale"
    message = "This sign-in is too old, was used already, or began in another browser."
    next_step = "Go to the page you wanted and sign in again."


class SignInRefused(LoginError):
    code = "sign-in-refused"
    message = "The portal could not accept the answer of the sign-in provider, so nobody was signed in."


#: what a provider may answer instead of a code (RFC 6749 §4.1.2.1, OpenID Connect Core §3.1.2.6)
_ANSWERS = {
    *("access_denied", "invalid_request", "invalid_scope", "unauthorized_client", "unsupported_response_type"),
    *("server_error", "temporarily_unavailable", "login_required", "interaction_required", "consent_required"),
    *("account_selection_required", "invalid_request_object", "invalid_request_uri", "request_not_supported"),
}


def said_by_provider(error: str) -> str:
    """Return our word for an error answer; what is none of the known ones is not repeated."""
    return "provider-says-" + (error.replace("_", "-") if error in _ANSWERS else "something-else")


class SignInDenied(LoginError):
    code = "sign-in-denied"
    message = "The sign-in provider did not sign you in."
    next_step = "Try again, or ask your provider's help desk."


class AccountClosed(LoginError):
    code, status = "account-closed", 403
    message = "This account may not use the portal at present."
    next_step = "Write to support with the request id below."


class SignInNotPermitted(LoginError):
    code, status = "sign-in-not-permitted", 403
    message = "This kind of account cannot be used here."
    next_step = "Sign in with the account of your facility or home institution."


class ProviderFailed(LoginError):
    code, status, blame = "provider-failed", 502, Blame.OUTSIDE
    message = "The sign-in provider does not work properly at the moment."
    next_step = "Try again in a few minutes; the portal itself is up."


class ProviderDisabled(ProviderFailed):
    """It announces what its configuration rules out: what it said before does not count either."""


class ProviderSlow(LoginError):
    code, status, blame = "provider-slow", 504, Blame.OUTSIDE
    message = "The sign-in provider does not answer in time."
    next_step = "Try again in a few minutes; the portal itself is up."
