"""All addresses. Each app's urls.py gives `urlpatterns` (pages) and `api_urlpatterns` (below /api/v1/)."""

from __future__ import annotations

from django.urls import include, path
from drf_spectacular.views import SpectacularJSONAPIView

from auth import urls as account_urls
from experiments import urls as experiment_urls
from instances import urls as instance_urls
from portal import health, views
from portal.admin import site

urlpatterns = [
    path("", views.home, name="home"),
    path("healthz", health.live, name="health-live"),
    path("readyz", health.ready, name="health-ready"),
    path("auth/", include("auth.urls")),
    path("admin/", site.urls),
    path("", include("instances.urls")),
    path("", include("experiments.urls")),
    path("api/v1/openapi.json", SpectacularJSONAPIView.as_view(), name="openapi"),
    path("api/v1/", include((account_urls.api_urlpatterns, "accounts-api"))),
    path("api/v1/", include((experiment_urls.api_urlpatterns, "experiments-api"))),
    path("api/v1/", include((instance_urls.api_urlpatterns, "instances-api"))),
]

handler400 = "portal.views.bad_request"
handler403 = "portal.views.permission_denied"
handler404 = "portal.views.page_not_found"
handler500 = "portal.views.server_error"
