"""`/api/v1/instances` and `/api/v1/plans`: the same services as the pages, as JSON and problem+json."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import OuterRef, TextField
from django.db.models.functions import Cast
from django.urls import path
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import generics, serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from auth.api import HasScope
from auth.models import User
from experiments.models import Experiment
from instances import measures, presentation, services
from instances.models import Instance, InstanceQuerySet, Measured, Plan
from portal.lib.errors import NotFound
from portal.lib.strict import Strict

#: most experiments one instance is made for
MOST_EXPERIMENTS = 500


class _Uuid(serializers.UUIDField):
    """A UUID as text alone; a bare number is no id."""

    def to_internal_value(self, data: Any) -> uuid.UUID:
        if not isinstance(data, str):
            self.fail("invalid", value=data)
        value: uuid.UUID = super().to_internal_value(data)
        return value


class _Few(serializers.ListField):
    """A list whose length is looked at before what is in it."""

    def to_internal_value(self, data: Any) -> list[Any]:
        if isinstance(data, list) and self.max_length is not None and len(data) > self.max_length:
            raise serializers.ValidationError([f"At most {self.max_length}."], code="max_length")
        return super().to_internal_value(data)


class NewInstance(Strict):
    plan = serializers.SlugField(max_length=60, help_text="slug of a plan")
    experiments = _Few(child=_Uuid(), max_length=MOST_EXPERIMENTS, default=list, help_text="ids of experiments")
    name = serializers.CharField(max_length=100)


class Nothing(Strict):
    """A verb takes no fields."""


class MeasuredOut(serializers.Serializer[Measured]):
    at = serializers.DateTimeField()
    cpu = serializers.FloatField(allow_null=True, help_text="cores at work")
    memory = serializers.IntegerField(allow_null=True, help_text="bytes in use")
    disk_used = serializers.IntegerField(allow_null=True, help_text="bytes of what goes with the instance")
    disk_size = serializers.IntegerField(allow_null=True)


class InstanceOut(serializers.Serializer[Instance]):
    id = serializers.UUIDField(source="uid")
    name = serializers.CharField()
    state = serializers.CharField(help_text="what it is")
    target = serializers.CharField(help_text="what it is to be")
    reason = serializers.CharField(help_text="stable code; empty when all is well")
    detail = serializers.CharField(help_text="the reason as a sentence")
    plan = serializers.CharField(source="plan.slug")
    facility = serializers.CharField(source="facility.slug")
    experiments = serializers.SerializerMethodField(help_text="ids of those that you may see")
    created_at = serializers.DateTimeField()
    state_changed_at = serializers.DateTimeField()
    url = serializers.SerializerMethodField(help_text="its page")
    open_url = serializers.SerializerMethodField(help_text="where it opens; null while it does not run")
    measured = serializers.SerializerMethodField(help_text="by its machine, lately; null when nothing was")

    def get_experiments(self, instance: Any) -> list[str]:
        seen: list[str] = instance.seen_experiments
        return seen

    def get_url(self, instance: Instance) -> str:
        return f"{settings.PORTAL_URL}{instance.get_absolute_url()}"

    def get_open_url(self, instance: Instance) -> str | None:
        return presentation.open_url(instance) if presentation.is_usable(instance) else None

    @extend_schema_field(MeasuredOut(allow_null=True))
    def get_measured(self, instance: Instance) -> dict[str, Any] | None:
        found = presentation.measured(instance)
        return MeasuredOut(found).data if found else None


class PlanOut(serializers.Serializer[Plan]):
    slug = serializers.SlugField()
    name = serializers.CharField()
    image = serializers.CharField(source="image.name")
    flavour = serializers.CharField(source="flavour.name")
    cores = serializers.FloatField(source="flavour.cores")
    memory = serializers.IntegerField(source="flavour.memory", help_text="bytes")
    gpus = serializers.IntegerField(source="flavour.gpus")
    facility = serializers.CharField(source="image.provider.facility.slug", allow_null=True, default=None)


def _user(request: Request) -> User:
    user = request.user
    assert isinstance(user, User)  # noqa: S101  (IsAuthenticated has seen to it)
    return user


def _seen(user: User) -> InstanceQuerySet:
    """The instances of a user with all that their JSON shows; of experiments, thousands on a page, the ids alone."""
    seen = Experiment.objects.visible_to(user).filter(instances=OuterRef("pk")).order_by("pk")
    ids = ArraySubquery(seen.values(text=Cast("uid", TextField())))
    rows = Instance.objects.visible_to(user).select_related("plan", "facility", "measured")
    return rows.annotate(seen_experiments=ids, measured_lately=measures.lately())


def _one(user: User, uid: uuid.UUID) -> Instance:
    instance = _seen(user).filter(uid=uid).first()
    if instance is None:
        raise NotFound
    return instance


_KEY = OpenApiParameter(
    "Idempotency-Key", str, OpenApiParameter.HEADER, description="The same key, of up to 64 characters, makes one."
)


class InstancesView(generics.ListAPIView[Instance]):
    """The instances on which you have a role."""

    permission_classes = [IsAuthenticated, HasScope]
    scope = "instances"
    serializer_class = InstanceOut
    queryset = Instance.objects.none()

    def get_queryset(self) -> InstanceQuerySet:
        return _seen(_user(self.request))

    @extend_schema(
        request=NewInstance, responses={201: InstanceOut}, parameters=[_KEY], operation_id="instances_create"
    )
    def post(self, request: Request) -> Response:
        user = _user(request)
        body = NewInstance(data=request.data)
        body.is_valid(raise_exception=True)
        wanted = body.validated_data
        instance = services.request_instance(
            user,
            plan=_plan(wanted["plan"]),
            experiments=wanted["experiments"],
            name=wanted["name"],
            idempotency_key=request.headers.get("Idempotency-Key", ""),
        )
        answer = InstanceOut(_one(user, instance.uid)).data
        return Response(answer, status=201, headers={"Location": answer["url"]})


def _plan(slug: str) -> Plan:
    plan = Plan.objects.select_related("image__provider__facility").filter(slug=slug, enabled=True).first()
    if plan is None:
        raise serializers.ValidationError({"plan": ["There is no such plan."]})
    return plan


class InstanceView(APIView):
    """One instance."""

    permission_classes = [IsAuthenticated, HasScope]
    scope = "instances"

    @extend_schema(responses=InstanceOut, operation_id="instances_retrieve")
    def get(self, request: Request, uid: uuid.UUID) -> Response:
        return Response(InstanceOut(_one(_user(request), uid)).data)

    @extend_schema(request=None, responses={202: InstanceOut}, operation_id="instances_delete")
    def delete(self, request: Request, uid: uuid.UUID) -> Response:
        return _act(request, uid, services.delete)


class VerbView(APIView):
    """A verb on an instance; the answer shows the wish, what is follows a little later."""

    permission_classes = [IsAuthenticated, HasScope]
    scope = "instances"
    verb: Callable[..., Instance] = staticmethod(services.start)

    @extend_schema(request=None, responses={202: InstanceOut})
    def post(self, request: Request, uid: uuid.UUID) -> Response:
        return _act(request, uid, self.verb)


def _act(request: Request, uid: uuid.UUID, verb: Callable[..., Instance]) -> Response:
    user = _user(request)
    Nothing(data=request.data or {}).is_valid(raise_exception=True)
    instance = _one(user, uid)
    verb(instance, by=user)
    instance.refresh_from_db()  # a worker may have deleted it by now
    return Response(InstanceOut(instance).data, status=202)


class PlansView(generics.ListAPIView[Plan]):
    """The plans that are offered, the preset one first."""

    permission_classes = [IsAuthenticated, HasScope]
    scope = "instances"
    serializer_class = PlanOut
    pagination_class = None
    queryset = Plan.objects.filter(
        enabled=True, image__provider__enabled=True, image__provider__draining_at__isnull=True
    ).select_related("image__provider__facility", "flavour")


def _verb(name: str) -> Any:
    view = VerbView.as_view(verb=getattr(services, name))
    return path(f"instances/<uuid:uid>/{name}", view, name=f"instance-{name}")


urlpatterns = [
    path("instances", InstancesView.as_view(), name="instances"),
    path("instances/<uuid:uid>", InstanceView.as_view(), name="instance"),
    *(_verb(name) for name in ("start", "stop", "reboot", "retry")),
    path("plans", PlansView.as_view(), name="plans"),
]
