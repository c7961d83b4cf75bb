"""Instruments, cycles, proposals, experiments (runs) and datasets. Visibility is in the queryset, once."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models
from django.db.models.functions import Now
from django.urls import reverse

from auth.models import Facility, Person
from experiments.visibility import ExperimentQuerySet, ProposalQuerySet


class Instrument(models.Model):
    """A beamline."""

    facility = models.ForeignKey(Facility, models.PROTECT, related_name="instruments")
    code = models.CharField(max_length=50)
    name = models.CharField(max_length=250)
    #: its instrument scientists: with that role they see the instances made for its experiments
    scientists = models.ManyToManyField(Person, blank=True, related_name="instruments")

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["facility", "code"], name="instrument_code")]

    def __str__(self) -> str:
        return self.name


class Cycle(models.Model):
    """An operating period of a facility."""

    facility = models.ForeignKey(Facility, models.PROTECT, related_name="cycles")
    name = models.CharField(max_length=50)
    start_at = models.DateTimeField(null=True, blank=True)
    end_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["facility", "name"], name="cycle_name")]

    def __str__(self) -> str:
        return self.name


class Proposal(models.Model):
    """The accepted request for beam time; usually carries the DOI.

    Embargo and release are two dates: `embargo_until` says until when data are private, `released_at` is the act
    that opens them; `release_policy` says which of the two decides.
    """

    class ReleasePolicy(models.TextChoices):
        AUTO = "auto"
        MANUAL = "manual"
        NEVER = "never"

    facility = models.ForeignKey(Facility, models.PROTECT, related_name="proposals")
    identifier = models.CharField(max_length=100)
    title = models.CharField(max_length=2000, blank=True)
    abstract = models.TextField(blank=True)
    pid = models.CharField(max_length=2000, blank=True, help_text="DOI or Handle as registered")
    pid_norm = models.CharField(max_length=2000, null=True, blank=True, unique=True)
    url = models.URLField(max_length=2000, blank=True)
    license = models.CharField(max_length=100, blank=True, help_text="SPDX identifier")
    contact = models.EmailField(blank=True)
    creators = models.JSONField(default=list, blank=True, help_text="[{name, orcid?, affiliation?, role?}]")
    start_at = models.DateTimeField(null=True, blank=True)
    end_at = models.DateTimeField(null=True, blank=True)
    embargo_until = models.DateTimeField(null=True, blank=True)
    released_at = models.DateTimeField(null=True, blank=True)
    release_policy = models.CharField(max_length=10, choices=ReleasePolicy, default=ReleasePolicy.AUTO)
    proprietary = models.BooleanField(default=False)
    withdrawn_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    objects: ClassVar[ProposalQuerySet] = ProposalQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [models.UniqueConstraint(fields=["facility", "identifier"], name="proposal_identifier")]

    def __str__(self) -> str:
        return f"{self.identifier}: {self.title}"

    def get_absolute_url(self) -> str:
        """The landing page: by its identifier, or by facility and number for those without one."""
        if self.pid_norm:
            return reverse("experiments:landing", kwargs={"pid": self.pid_norm})
        return reverse("experiments:proposal", kwargs={"facility": self.facility.slug, "identifier": self.identifier})


class Experiment(models.Model):
    """One visit or run at an instrument: what an instance is made for."""

    uid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    proposal = models.ForeignKey(Proposal, models.PROTECT, related_name="experiments")
    instrument = models.ForeignKey(Instrument, models.PROTECT, related_name="experiments")
    cycle = models.ForeignKey(Cycle, models.PROTECT, null=True, blank=True, related_name="experiments")
    external_id = models.CharField(max_length=32)
    title = models.CharField(max_length=2000, blank=True)
    run_number = models.PositiveIntegerField(null=True, blank=True)
    pid = models.CharField(max_length=2000, blank=True)
    pid_norm = models.CharField(max_length=2000, null=True, blank=True, unique=True)
    url = models.URLField(max_length=2000, blank=True)
    sample = models.CharField(max_length=500, blank=True)
    technique = models.CharField(max_length=200, blank=True)
    start_at = models.DateTimeField(null=True, blank=True)
    end_at = models.DateTimeField(null=True, blank=True)
    released_at = models.DateTimeField(null=True, blank=True, help_text="opened by itself, before its proposal")
    team = models.ManyToManyField(Person, through="TeamMember", related_name="experiments")
    removed_at = models.DateTimeField(null=True, blank=True, help_text="vanished from the source, kept as in use")
    #: what the text filter looks in, in capitals: written by triggers only (migration 0002)
    words = models.TextField(db_default="", editable=False)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    objects: ClassVar[ExperimentQuerySet] = ExperimentQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        indexes = [
            models.Index(models.F("start_at").desc(nulls_last=True), models.F("id").desc(), name="experiment_newest")
        ]
        constraints = [
            models.UniqueConstraint(fields=["proposal", "external_id"], name="experiment_external_id"),
        ]

    def __str__(self) -> str:
        return self.title or self.external_id

    @property
    def facility(self) -> Facility:
        return self.proposal.facility


class TeamMember(models.Model):
    """A person of an experiment's team; published roles are metadata in `Proposal.creators`, not this."""

    experiment = models.ForeignKey(Experiment, models.CASCADE)
    person = models.ForeignKey(Person, models.CASCADE)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["experiment", "person"], name="team_member_once")]
        indexes = [models.Index(fields=["person", "experiment"], name="team_person")]

    def __str__(self) -> str:
        return f"{self.person} in {self.experiment}"


class Dataset(models.Model):
    """A folder of an experiment's data on the facility's storage; files themselves are never rows."""

    class Format(models.TextChoices):
        EUXFEL = "euxfel-hdf5", "European XFEL HDF5"
        NXMX = "nexus-nxmx", "NeXus NXmx"
        OTHER = "other", "other"

    experiment = models.ForeignKey(Experiment, models.CASCADE, related_name="datasets")
    name = models.CharField(max_length=200, default="raw")
    path = models.CharField(max_length=1000, blank=True, help_text="absolute; empty → the facility's template")
    format = models.CharField(max_length=20, choices=Format, default=Format.OTHER)
    size = models.BigIntegerField(null=True, blank=True, help_text="bytes")
    file_count = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["experiment", "name"], name="dataset_name")]

    def __str__(self) -> str:
        return f"{self.name} of {self.experiment}"
