"""Providers, images, flavours, plans, instances, members, transitions, quotas, homes and gateway sessions."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.urls import reverse

from auth import roles
from auth.models import Facility, Session, User
from auth.roles import InstanceRole
from experiments.models import Experiment
from instances.lifecycle import MOVING, Call, State, Target
from portal.lib import clock
from portal.lib.slugs import random_slug

#: how long before and after an experiment instrument control sees its instances
AROUND = timedelta(days=7)
#: what a role must allow for an instance that shows no experiment
WITHOUT_EXPERIMENT = "instance-without-experiment"


class Provider(models.Model):
    """A cloud, cluster or host that makes machines. Credentials are in files that `options` names, never in here."""

    name = models.SlugField(max_length=40, unique=True)
    kind = models.CharField(max_length=20)
    options = models.JSONField(default=dict, blank=True)
    facility = models.ForeignKey(Facility, models.PROTECT, null=True, blank=True, related_name="providers")
    enabled = models.BooleanField(default=True)
    last_seen_at = models.DateTimeField(null=True, blank=True, help_text="last usable answer")
    last_error = models.CharField(max_length=500, blank=True)
    draining_at = models.DateTimeField(null=True, blank=True, help_text="since when nothing new starts on it")
    draining_because = models.CharField(
        max_length=300, blank=True, default="", db_default="", help_text="told to people"
    )

    def __str__(self) -> str:
        return self.name

    @property
    def is_draining(self) -> bool:
        return self.draining_at is not None


class Image(models.Model):
    """The software environment an instance starts from."""

    provider = models.ForeignKey(Provider, models.PROTECT, related_name="images")
    name = models.CharField(max_length=100)
    reference = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    services = models.JSONField(default=list, help_text="[{name, port, probe, required}]")
    options = models.JSONField(default=dict, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["provider", "name"], name="image_name")]

    def __str__(self) -> str:
        return self.name


class Flavour(models.Model):
    """Cores, memory, disk and GPUs; sizes in bytes."""

    provider = models.ForeignKey(Provider, models.PROTECT, related_name="flavours")
    name = models.CharField(max_length=100)
    reference = models.CharField(max_length=200, blank=True)
    cores = models.DecimalField(max_digits=6, decimal_places=2)
    memory = models.BigIntegerField()
    disk = models.BigIntegerField(default=0)
    gpus = models.PositiveIntegerField(default=0)
    gpu_kind = models.CharField(max_length=50, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["provider", "name"], name="flavour_name")]

    def __str__(self) -> str:
        return self.name


class Plan(models.Model):
    """An offered pair of image and flavour."""

    slug = models.SlugField(max_length=60, unique=True)
    name = models.CharField(max_length=100)
    image = models.ForeignKey(Image, models.PROTECT, related_name="plans")
    flavour = models.ForeignKey(Flavour, models.PROTECT, related_name="plans")
    position = models.PositiveIntegerField(default=0, help_text="the first one is preset")
    enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ["position", "name"]

    def __str__(self) -> str:
        return self.name


class Home(models.Model):
    """The storage of (user, facility); outlives every instance."""

    user = models.ForeignKey(User, models.PROTECT, related_name="homes")
    facility = models.ForeignKey(Facility, models.PROTECT)
    provider = models.ForeignKey(Provider, models.PROTECT)
    key = models.CharField(max_length=80, unique=True)
    limit = models.BigIntegerField(help_text="bytes")
    used = models.BigIntegerField(null=True, blank=True, help_text="bytes, when last measured")
    measured_at = models.DateTimeField(null=True, blank=True)
    deleting_at = models.DateTimeField(null=True, blank=True, help_text="asked to be deleted; takes no instance")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "facility", "provider"], name="home_once")]

    def __str__(self) -> str:
        return f"home of {self.user} at {self.facility}"


class InstanceQuerySet(models.QuerySet["Instance"]):
    def visible_to(self, user: User) -> InstanceQuerySet:
        """Instances on which the user has a role; deleted ones are gone for everybody."""
        if not user.is_authenticated:
            return self.none()
        return self.filter(models.Exists(Member.objects.filter(instance=models.OuterRef("pk"), user=user))).exclude(
            state=State.DELETED
        )

    def usable(self) -> InstanceQuerySet:
        """Instances that may be worked on: made for experiments, or of an owner whose role allows one without."""
        allowed = roles.may_in_sql(WITHOUT_EXPERIMENT, models.OuterRef("owner_id"), models.OuterRef("facility_id"))
        return self.filter(Q(by_role=False) | allowed)

    def supported_by(self, user: User) -> InstanceQuerySet:
        """Instances that a role lets somebody see who is not a member, where the role is valid.

        IT support, operators and admins: all. Instrument control: those whose experiment was, is or will be running
        within a week. Instrument scientists: those for experiments at their instruments. What a person has several
        roles for is joined. Seeing is all: nobody opens one by a role, and its experiments stay as visible as before.
        """
        if not user.is_authenticated or not user.may_sign_in:
            return self.none()

        def allowed(action: str) -> Q:
            return roles.may_in_sql(action, models.Value(user.pk), models.OuterRef("facility_id"))

        made_for = Experiment.objects.filter(instances=models.OuterRef("pk"), removed_at__isnull=True)
        around = made_for.filter(start_at__lte=clock.Now() + AROUND, end_at__gte=clock.Now() - AROUND)
        own = made_for.filter(instrument__scientists__user=user)
        return self.alive().filter(
            allowed("see-all-instances")
            | (allowed("see-current-instances") & models.Exists(around))
            | (allowed("see-instances-of-instrument") & models.Exists(own))
        )

    def alive(self) -> InstanceQuerySet:
        """What quotas count: everything that is not deleted, stopped and error included."""
        return self.exclude(state=State.DELETED)


class Instance(models.Model):
    """One machine of one owner. `state` is what is, `target` what is wanted; both change in transitions.py only."""

    uid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    slug = models.CharField(max_length=40, unique=True, default=random_slug, editable=False)
    name = models.CharField(max_length=100)
    owner = models.ForeignKey(User, models.PROTECT, related_name="owned_instances")
    facility = models.ForeignKey(Facility, models.PROTECT, related_name="instances")
    plan = models.ForeignKey(Plan, models.PROTECT, related_name="instances")
    provider = models.ForeignKey(Provider, models.PROTECT, related_name="instances")
    home = models.ForeignKey(Home, models.PROTECT, null=True, blank=True, related_name="instances")
    experiments = models.ManyToManyField(Experiment, blank=True, related_name="instances")
    members = models.ManyToManyField(User, through="Member", related_name="instances")
    #: made without an experiment, as the owner's role allows it: usable as long as the role lasts
    by_role = models.BooleanField(default=False, db_default=False)

    state = models.CharField(max_length=20, choices=[(s.value, s.value) for s in State], default=State.REQUESTED)
    target = models.CharField(max_length=20, choices=[(t.value, t.value) for t in Target], default=Target.ACTIVE)
    state_changed_at = models.DateTimeField(db_default=Now())
    reason = models.CharField(max_length=60, blank=True, help_text="stable code")
    detail = models.TextField(blank=True, help_text="text for people")
    log = models.TextField(blank=True, help_text="the machine's last lines, kept when it failed")

    ref = models.CharField(max_length=200, blank=True, help_text="the provider's name of the machine")
    attempt = models.PositiveIntegerField(default=1)
    last_call = models.CharField(max_length=10, choices=[(c.value, c.value) for c in Call], blank=True)
    called_at = models.DateTimeField(null=True, blank=True)
    deadline_at = models.DateTimeField(null=True, blank=True)
    reboot_asked_at = models.DateTimeField(null=True, blank=True)
    missing_seen = models.PositiveSmallIntegerField(default=0)
    leased_until = models.DateTimeField(null=True, blank=True)
    lease_token = models.UUIDField(null=True, blank=True)
    due_at = models.DateTimeField(
        null=True, blank=True, help_text="when the next look is due; null = not by itself, or being looked at"
    )
    endpoints = models.JSONField(default=list, blank=True)
    ready_at = models.DateTimeField(null=True, blank=True)
    silent_since = models.DateTimeField(null=True, blank=True, help_text="since when no gateway has heard it")
    services_up = models.JSONField(
        default=dict, blank=True, help_text="service → answers, by the gateway's last report"
    )
    last_active_at = models.DateTimeField(null=True, blank=True)
    secret_epoch = models.PositiveIntegerField(default=1)

    idempotency_key = models.CharField(max_length=64, blank=True)
    version = models.BigIntegerField(default=1, help_text="rises with every change a gateway must hear of")
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())
    deleted_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[InstanceQuerySet] = InstanceQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=[s.value for s in State]), name="instance_state_known"),
            models.CheckConstraint(condition=Q(target__in=[t.value for t in Target]), name="instance_target_known"),
            models.UniqueConstraint(
                fields=["owner", "idempotency_key"],
                condition=~Q(idempotency_key=""),
                name="instance_idempotency",
            ),
        ]
        indexes = [
            models.Index(
                fields=["due_at"],
                name="instance_due",
                condition=Q(due_at__isnull=False) | Q(leased_until__isnull=False),
            ),
            models.Index(fields=["updated_at"], name="instance_updated"),
            models.Index(fields=["owner", "-id"], name="instance_owner"),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("instances:detail", kwargs={"uid": self.uid})

    @property
    def is_heard(self) -> bool:
        """Tell whether a gateway has reached the services since the last call: what it heard before counts no more."""
        return self.ready_at is not None and (self.called_at is None or self.ready_at > self.called_at)

    @property
    def is_moving(self) -> bool:
        """True while the state passes by itself and a page should show progress."""
        return State(self.state) in MOVING

    @property
    def machine_name(self) -> str:
        """The machine's name at the provider: unique per instance and attempt."""
        return f"bp-{self.uid.hex}-{self.attempt}"


class Measured(models.Model):
    """What the agent of an instance has last measured: that machine's own word, and no more."""

    instance = models.OneToOneField(Instance, models.CASCADE, primary_key=True, related_name="measured")
    at = models.DateTimeField()
    cpu = models.FloatField(null=True, help_text="cores at work")
    memory = models.BigIntegerField(null=True, help_text="bytes in use")
    disk_used = models.BigIntegerField(null=True, help_text="bytes of what goes with the instance")
    disk_size = models.BigIntegerField(null=True)

    def __str__(self) -> str:
        return f"measured on {self.instance}"


class Member(models.Model):
    """A user's role on an instance; `version` rises when the role changes so that gateways hear."""

    instance = models.ForeignKey(Instance, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=[(r.value, r.value) for r in InstanceRole])
    added_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["instance", "user"], name="member_once"),
            models.UniqueConstraint(fields=["instance"], condition=Q(role="owner"), name="member_one_owner"),
        ]

    def __str__(self) -> str:
        return f"{self.user}: {self.role}"


class Transition(models.Model):
    """One change of state or target of an instance; append-only."""

    instance = models.ForeignKey(Instance, models.CASCADE, related_name="transitions")
    old = models.CharField(max_length=20, blank=True)
    new = models.CharField(max_length=20)
    target = models.CharField(max_length=20)
    event = models.CharField(max_length=40)
    actor = models.ForeignKey(User, models.SET_NULL, null=True, blank=True)
    reason = models.CharField(max_length=60, blank=True)
    detail = models.TextField(blank=True)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["instance", "id"], name="transition_instance")]

    def __str__(self) -> str:
        return f"{self.old} → {self.new} ({self.event})"


class Quota(models.Model):
    """A limit: `scope` names whom (`everybody`, `user`, later `group`, `proposal`), `subject` which one.

    `resource` is `instances` (later cores, memory, gpus, hours); `window` null counts what is held now, else use
    within the window.
    """

    class Scope(models.TextChoices):
        EVERYBODY = "everybody"
        USER = "user"

    class Resource(models.TextChoices):
        INSTANCES = "instances"

    scope = models.CharField(max_length=20, choices=Scope)
    subject = models.CharField(max_length=64, blank=True, help_text="the user's uid; empty for everybody")
    resource = models.CharField(max_length=20, choices=Resource)
    limit = models.PositiveIntegerField()
    window = models.DurationField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["scope", "subject", "resource", "window"], name="quota_once", nulls_distinct=False
            )
        ]

    def __str__(self) -> str:
        return f"{self.limit} {self.resource} for {self.subject or self.scope}"


class Account(models.Model):
    """The row that is locked while a subject's quota is counted."""

    subject = models.CharField(max_length=80, unique=True, help_text="`user:<uid>`")

    def __str__(self) -> str:
        return self.subject


class Leftover(models.Model):
    """A machine of an earlier attempt that the sweep must delete (never a home)."""

    provider = models.ForeignKey(Provider, models.CASCADE)
    ref = models.CharField(max_length=200)
    instance = models.ForeignKey(Instance, models.CASCADE)
    created_at = models.DateTimeField(db_default=Now())
    due_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["provider", "ref"], name="leftover_once")]

    def __str__(self) -> str:
        return f"{self.ref} at {self.provider}"


class Job(models.Model):
    """Periodic work; claimed by pushing `due_at` on, so that n workers run it once. What lasts has a holder."""

    name = models.CharField(max_length=80, unique=True)
    due_at = models.DateTimeField(db_default=Now())
    holder = models.UUIDField(null=True, blank=True, help_text="who does it until it is due")

    def __str__(self) -> str:
        return self.name


class Ticket(models.Model):
    """The one-time right to enter an instance: 30 s, bound to nonce, login session, instance and role."""

    secret_hash = models.CharField(max_length=64, unique=True)
    nonce_hash = models.CharField(max_length=64)
    login_session = models.ForeignKey(Session, models.CASCADE)
    user = models.ForeignKey(User, models.CASCADE)
    instance = models.ForeignKey(Instance, models.CASCADE)
    role = models.CharField(max_length=10)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"ticket of {self.user} for {self.instance}"


class GatewaySession(models.Model):
    """One browser session on one instance's origin; the gateway's cookie names `sid`."""

    sid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    login_session = models.ForeignKey(Session, models.CASCADE, related_name="gateway_sessions")
    user = models.ForeignKey(User, models.CASCADE, related_name="gateway_sessions")
    instance = models.ForeignKey(Instance, models.CASCADE, related_name="gateway_sessions")
    role = models.CharField(max_length=10)
    kind = models.CharField(max_length=10, default="web")
    services = models.JSONField(default=list)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    version = models.BigIntegerField(default=1)
    updated_at = models.DateTimeField(db_default=Now())
    # bytes from and to the browser, and its requests, as all gateways together have reported them
    received = models.BigIntegerField(default=0, db_default=0)
    sent = models.BigIntegerField(default=0, db_default=0)
    requests = models.BigIntegerField(default=0, db_default=0)

    class Meta:
        indexes = [
            models.Index(fields=["updated_at"], name="gateway_session_updated"),
            models.Index(fields=["instance"], name="gateway_session_instance"),
            models.Index(fields=["expires_at"], name="gateway_session_expires"),
        ]

    def __str__(self) -> str:
        return f"{self.user} on {self.instance}"


class GatewayProcess(models.Model):
    """A gateway process, and the number of the last report that was taken from it."""

    uid = models.UUIDField(primary_key=True, editable=False)
    report = models.BigIntegerField(default=0)
    seen_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return str(self.uid)
