"""Addresses of finding data. `<pid:…>` takes anything: DOIs hold slashes, brackets, and paste brings more."""

from __future__ import annotations

from django.urls import path, register_converter

from experiments import api, views


class AnyText:
    """Like `path`, but line breaks too."""

    regex = r"[\s\S]+"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return str(value)


register_converter(AnyText, "pid")

app_name = "experiments"

urlpatterns = [
    path("search", views.search, name="search"),
    path("experiments", views.experiment_list, name="list"),
    path("doi/<pid:pid>/availability", views.availability, name="availability"),
    path("doi/<pid:pid>", views.landing, name="landing"),
    path("proposals/<slug:facility>/<pid:identifier>", views.proposal, name="proposal"),
]

api_urlpatterns = [
    path("experiments", api.ExperimentList.as_view(), name="experiment-list"),
    path("experiments/<uuid:uid>", api.ExperimentDetail.as_view(), name="experiment-detail"),
]
