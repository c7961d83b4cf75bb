"""What every page knows about signing in."""

from __future__ import annotations

from django.http import HttpRequest

from auth import providers


def sign_in(request: HttpRequest) -> dict[str, str]:
    """`sign_in_url`: with one provider, where a form posts `next` to start the sign-in; else empty."""
    known = providers.every()
    return {"sign_in_url": known[0].login_path if len(known) == 1 else ""}
