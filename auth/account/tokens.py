"""API tokens: list, make (the text is shown this once), revoke."""

from __future__ import annotations

from datetime import timedelta

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods

from auth import tokens
from auth.account.owner import for_owner
from auth.models import ApiToken, User
from portal.lib import clock
from portal.lib.errors import Conflict, NotFound, TooMany


class TokenForm(forms.Form):
    name = forms.CharField(max_length=100, strip=True)
    scopes = forms.MultipleChoiceField(choices=list(tokens.SCOPES.items()))
    days = forms.IntegerField(min_value=1, max_value=ApiToken.LONGEST.days, initial=30)

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if not name.isprintable():
            raise forms.ValidationError("A name has characters that can be printed.")
        return name


@require_http_methods(["GET", "HEAD", "POST"])
@for_owner
@sensitive_variables("text")
def index(request: HttpRequest, user: User) -> HttpResponse:
    """Make a token, when the form is right, and show its text in this answer: it is stored nowhere."""
    form, made, text, problem = TokenForm(), None, "", None
    if request.method == "POST":
        form = TokenForm(request.POST)
        if form.is_valid():
            wanted = form.cleaned_data
            lasts = timedelta(days=wanted["days"])
            try:
                made, text = tokens.issue(user, scopes=wanted["scopes"], lasts=lasts, name=wanted["name"])
                form = TokenForm()
            except (Conflict, TooMany) as error:
                problem = error
    now = clock.now()
    rows = [{"row": row, "state": _state(row, now)} for row in tokens.of(user)]
    context = {"form": form, "made": made, "text": text, "problem": problem, "tokens": rows}
    status = problem.status if problem else 400 if form.errors else 200
    return render(request, "accounts/tokens.html", context, status=status)


def _state(row: ApiToken, now: object) -> str:
    if row.revoked_at is not None:
        return "revoked"
    return "valid" if row.expires_at > now else "expired"  # type: ignore[operator]


@require_http_methods(["GET", "HEAD", "POST"])
@for_owner
def revoke(request: HttpRequest, user: User, prefix: str) -> HttpResponse:
    """Ask once more, then end a token for good."""
    token = tokens.valid(tokens.of(user)).filter(prefix=prefix).first()
    if token is None:
        raise NotFound
    if request.method != "POST":
        return render(request, "accounts/token_revoke.html", {"token": token})
    tokens.revoke(user, prefix)
    messages.success(request, f"The token {token.name or token.prefix} is revoked.")
    return redirect("accounts:tokens")
