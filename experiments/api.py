"""`/api/v1/experiments`: what the caller may see; without sign-in the open ones. Teams are never in it."""

from __future__ import annotations

from typing import Any

from django.db.models import Case, Exists, OuterRef, Value, When
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import generics, serializers

from auth.api import HasScope
from auth.models import User
from experiments.listing import Filters
from experiments.models import Experiment, Instrument, Proposal, TeamMember
from experiments.visibility import ExperimentQuerySet, open_experiments
from portal.lib.clock import Now
from portal.lib.errors import BadRequest, NotFound


class InstrumentSerializer(serializers.ModelSerializer[Instrument]):
    facility = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)

    class Meta:
        model = Instrument
        fields = ["code", "name", "facility"]


class ProposalSerializer(serializers.ModelSerializer[Proposal]):
    doi = serializers.CharField(source="pid", read_only=True)

    class Meta:
        model = Proposal
        fields = ["identifier", "title", "doi"]


class ExperimentSerializer(serializers.ModelSerializer[Experiment]):
    id = serializers.UUIDField(source="uid", read_only=True)
    doi = serializers.CharField(source="pid", read_only=True)
    instrument = InstrumentSerializer(read_only=True)
    proposal = ProposalSerializer(read_only=True)
    open = serializers.BooleanField(source="is_open", read_only=True, help_text="open to everybody")
    mine = serializers.BooleanField(source="is_mine", read_only=True, help_text="you are in its team")

    class Meta:
        model = Experiment
        fields = [
            "id",
            "title",
            "run_number",
            "doi",
            "instrument",
            "proposal",
            "sample",
            "technique",
            "start_at",
            "end_at",
            "open",
            "mine",
        ]


def rows(user: User | Any) -> ExperimentQuerySet:
    """Return the visible experiments with what the serializer shows; one query."""
    mine: Any = Value(False)
    if user.is_authenticated:
        mine = Exists(TeamMember.objects.filter(experiment=OuterRef("pk"), person__user=user.pk))
    opened = Case(When(open_experiments(Now()), then=Value(True)), default=Value(False))
    return (
        Experiment.objects.visible_to(user)
        .select_related("proposal", "instrument__facility")
        .annotate(is_mine=mine, is_open=opened)
    )


def _flag(name: str, text: str) -> OpenApiParameter:
    return OpenApiParameter(name, OpenApiTypes.BOOL, description=text)


PARAMETERS = [
    _flag("mine", "only those in whose team you are"),
    _flag("open", "only those open to everybody"),
    OpenApiParameter("instrument", str, description="code of the instrument"),
    OpenApiParameter("year", int, description="year of its start, in the facility's time zone"),
    OpenApiParameter("text", str, description="words of title, sample, technique, proposal, instrument"),
    OpenApiParameter("doi", str, description="DOI or Handle of the experiment or its proposal, in any dress"),
]
KNOWN = frozenset({parameter.name for parameter in PARAMETERS} | {"cursor", "limit", "format"})


@extend_schema_view(get=extend_schema(operation_id="experiments_list", parameters=PARAMETERS))
class ExperimentList(generics.ListAPIView[Experiment]):
    """List experiments, newest record first, in pages (`next`, `previous`)."""

    serializer_class = ExperimentSerializer
    permission_classes = [HasScope]
    scope = "experiments"

    def get_queryset(self) -> Any:
        user = self.request.user
        experiments = rows(user)
        query = self.request.query_params
        unknown = sorted(set(query) - KNOWN)
        if unknown:
            raise BadRequest(f"Unknown parameter: {unknown[0][:40]}.")
        if truth(query.get("mine", "")):
            experiments = experiments.of(user)
        if truth(query.get("open", "")):
            experiments = experiments.open()
        named = {name: query[name] for name in ("instrument", "year", "text", "doi") if name in query}
        return Filters.read(named).apply(experiments, user)


@extend_schema_view(get=extend_schema(operation_id="experiments_retrieve"))
class ExperimentDetail(generics.RetrieveAPIView[Experiment]):
    """One experiment; what you may not see answers like what does not exist."""

    serializer_class = ExperimentSerializer
    permission_classes = [HasScope]
    scope = "experiments"
    lookup_field = "uid"

    def get_object(self) -> Experiment:
        found: Experiment | None = rows(self.request.user).filter(uid=self.kwargs["uid"]).first()
        if found is None:
            raise NotFound
        return found


def truth(text: str) -> bool:
    if text in ("", "false", "0"):
        return False
    if text in ("true", "1"):
        return True
    raise BadRequest("A flag is `true` or `false`.")
