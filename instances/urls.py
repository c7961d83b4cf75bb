"""Addresses of instances: pages here, their API below /api/v1/."""

from __future__ import annotations

from django.urls import path

from instances import api, create_views, entry_views, views

app_name = "instances"

urlpatterns = [
    path("instances/", views.index, name="list"),
    path("instances/new", create_views.new, name="new"),
    path("instances/<uuid:uid>/", views.detail, name="detail"),
    path("instances/<uuid:uid>/start/", views.start, name="start"),
    path("instances/<uuid:uid>/stop/", views.stop, name="stop"),
    path("instances/<uuid:uid>/reboot/", views.reboot, name="reboot"),
    path("instances/<uuid:uid>/retry/", views.retry, name="retry"),
    path("instances/<uuid:uid>/delete/", views.delete, name="delete"),
    path("homes/<str:key>/delete/", views.home_delete, name="home-delete"),
    path("enter/<slug:slug>", entry_views.enter, name="enter"),
]

api_urlpatterns = api.urlpatterns
