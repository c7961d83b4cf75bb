"""Addresses of sign-in and of one's own account, below /auth/."""

from __future__ import annotations

from django.urls import path

from auth import me, person_views, token_api, views
from auth.account import data, identities, policies, profile, sessions, tokens
from auth.oidc import backchannel, logout
from auth.oidc.views import CallbackView, LoginView

app_name = "accounts"

urlpatterns = [
    path("sign-in/", views.sign_in, name="sign-in"),
    path("logout/", logout.logout, name="logout"),
    path("signed-out/", logout.signed_out, name="signed-out"),
    path("account/", profile.show, name="account"),
    path("account/identities/", identities.index, name="identities"),
    path("account/identities/link/", identities.confirm_link, name="link-confirm"),
    path("account/identities/<uuid:uid>/unlink/", identities.unlink, name="unlink"),
    path("account/sessions/", sessions.index, name="sessions"),
    path("account/sessions/end-others/", sessions.end_others, name="end-other-sessions"),
    path("account/sessions/<uuid:uid>/end/", sessions.end, name="end-session"),
    path("account/tokens/", tokens.index, name="tokens"),
    path("account/tokens/<slug:prefix>/revoke/", tokens.revoke, name="revoke-token"),
    path("account/data/", data.index, name="data"),
    path("account/data/export/", data.download, name="export"),
    path("account/data/erasure/", data.erase, name="erasure"),
    path("account/data/erasure/withdraw/", data.withdraw, name="withdraw-erasure"),
    path("person/", person_views.redeem, name="person-link"),
    path("policies/<slug:kind>/", policies.show, name="policy"),
    path("policies/rules/accept/", policies.accept, name="accept-rules"),
    path("policies/<slug:kind>/<str:version>/", policies.show, name="policy-version"),
    path("<slug:slug>/login/", LoginView.as_view(), name="login"),
    path("<slug:slug>/callback/", CallbackView.as_view(), name="callback"),
    path("<slug:slug>/backchannel-logout/", backchannel.receive, name="backchannel-logout"),
]

api_urlpatterns = [
    path("me", me.MeView.as_view(), name="me"),
    path("tokens", token_api.TokensView.as_view(), name="tokens"),
    path("tokens/<slug:prefix>", token_api.TokenView.as_view(), name="token"),
]
