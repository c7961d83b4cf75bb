"""What a provider answered in one sign-in, checked, before anything is done with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class SignInProof:
    """How and when somebody showed who they are; what a session remembers of its sign-in."""

    #: the provider's own session, by which its logout names ours
    sid: str = ""
    acr: str = ""
    #: when they showed it (`auth_time`); None: the provider does not say
    authenticated_at: datetime | None = None
    #: for the session to keep, encrypted, where the provider's logout asks for it
    id_token: str = field(default="", repr=False)


@dataclass(frozen=True)
class Answer:
    """Whom a provider's answer is about, what it says of them, and how they showed it."""

    subject: str
    said: dict[str, Any] = field(repr=False)
    proof: SignInProof
