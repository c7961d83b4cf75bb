"""What instances hold about people, what of it hinders an erasure, and what somebody loses with their account."""

from __future__ import annotations

from auth.models import User
from auth.registry import Hindrance, Rows, delete, exempt, hindered_by, hold, loses
from instances import quotas
from instances.models import GatewaySession, Home, Instance, Leftover, Measured, Member, Quota, Ticket, Transition
from portal.lib.clock import Now

ACCOUNTING = "stays as accounting, under the pseudonym"


def register() -> None:
    """Called once, when the app is ready."""
    _hold_machines()
    _hold_access()
    _hold_room()
    hindered_by(_machines, locked_by=quotas.lock_account)
    loses(_homes)


def _hold_machines() -> None:
    hold(
        Instance,
        "instances",
        "id=uid name facility=facility__slug plan=plan__slug state reason detail log created_at "
        "last_active_at deleted_at",
        of="owner",
        fate=f"{ACCOUNTING}, without its name and what the machine said",
        erase=lambda rows: rows.update(name="", detail="", log="", idempotency_key=""),
    )
    hold(
        Instance.experiments.through,
        "instance_experiments",
        "instance=instance__uid experiment=experiment__uid",
        of="instance__owner",
        fate=ACCOUNTING,
    )
    hold(
        Transition,
        "instance_history",
        "instance=instance__uid at event old new target reason",
        of="instance__owner",
        fate=ACCOUNTING,
        erase=lambda rows: rows.update(detail=""),
        also=["actor"],
    )
    hold(
        Measured,
        "instance_figures",
        "instance=instance__uid at cpu memory disk_used disk_size",
        of="instance__owner",
        fate="deleted",
        erase=delete,
    )
    exempt(Leftover, "a machine that a worker is about to remove; it says nothing of anybody")


def _hold_access() -> None:
    hold(
        Member,
        "memberships",
        "instance=instance__uid role added_at",
        of="user",
        fate="deleted",
        erase=delete,
    )
    hold(
        Ticket,
        "entries",
        "instance=instance__uid role created_at used_at",
        of="user",
        fate="deleted",
        erase=delete,
    )
    hold(
        GatewaySession,
        "instance_sessions",
        "instance=instance__uid role created_at expires_at received sent requests",
        of="user",
        fate="ended at once, and deleted a day later",
    )


def _hold_room() -> None:
    hold(
        Home,
        "homes",
        "key facility=facility__slug limit used measured_at created_at",
        of="user",
        fate="deleted with all files in it, by a worker, within minutes",
        erase=lambda rows: rows.filter(deleting_at__isnull=True).update(deleting_at=Now()),
    )
    hold(Quota, "quotas", "resource limit window", of=_quotas, fate="deleted", erase=delete)


def _quotas(user: User) -> Rows:
    return Quota.objects.filter(scope=Quota.Scope.USER, subject=str(user.uid))


def _machines(user: User) -> list[Hindrance]:
    """A machine is ended by an act of its own, never as a side effect."""
    alive = Instance.objects.alive().filter(owner=user).order_by("pk")
    found = [Hindrance(f"the instance “{one.name}”", one.get_absolute_url()) for one in alive]
    if Leftover.objects.filter(instance__owner=user).exists():
        found.append(Hindrance("a machine that is still being removed"))
    return found


def _homes(user: User) -> list[str]:
    homes = Home.objects.filter(user=user).select_related("facility").order_by("facility__name")
    return [f"Your home at {home.facility}, with all files in it. Nobody keeps a copy." for home in homes]
