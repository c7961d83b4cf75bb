"""Addresses of sign-in and of one's own account, below /auth/."""

from __future__ import annotations

from django.urls import path

from auth import me, person_views, views
from auth.oidc import backchannel, logout
from auth.oidc.views import CallbackView, LoginView

app_name = "accounts"

urlpatterns = [
    path("sign-in/", views.sign_in, name="sign-in"),
    path("logout/", logout.logout, name="logout"),
    path("signed-out/", logout.signed_out, name="signed-out"),
    path("account/", views.account, name="account"),
    path("account/sessions/<uuid:uid>/end/", views.end_session, name="end-session"),
    path("person/", person_views.redeem, name="person-link"),
    path("<slug:slug>/login/", LoginView.as_view(), name="login"),
    path("<slug:slug>/callback/", CallbackView.as_view(), name="callback"),
    path("<slug:slug>/backchannel-logout/", backchannel.receive, name="backchannel-logout"),
]

api_urlpatterns = [path("me", me.MeView.as_view(), name="me")]
