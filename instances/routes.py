"""What the gateway may reach: starting instances are probed, active and unavailable ones served, others neither."""

from __future__ import annotations

import ipaddress
from typing import Any

from auth.roles import ON_INSTANCE, InstanceRole
from instances.lifecycle import PROBED, SERVED, State, Target
from instances.models import Instance

#: providers whose machines live on this very host, so that a loopback address is theirs
_ON_THIS_HOST = frozenset({"memory", "local"})
#: what gateways alone ask, where a provider has put an agent into the machine
_AGENT = {"name": "agent", "probe": "/report", "required": False}


def roles_that_open(service: str) -> frozenset[InstanceRole]:
    """Return the roles on an instance that may open one of its services; unknown services open to nobody."""
    return ON_INSTANCE.get(f"open-{service}", frozenset())


def row_of(instance: Instance) -> dict[str, Any]:
    """Return an instance's line of the route table; one that is not served has no services."""
    return {
        "slug": instance.slug,
        "instance": str(instance.uid),
        "state": str(instance.state),
        "version": instance.version,
        "secret_epoch": instance.secret_epoch,
        "services": _services(instance),
    }


def route_of(instance: Instance) -> dict[str, Any] | None:
    """Return what the gateway may reach of an instance, or None."""
    row = row_of(instance)
    return row if row["services"] else None


def _services(instance: Instance) -> list[dict[str, Any]]:
    """Return what may be reached now. A starting instance is not probed before all that it needs has an address."""
    state = State(instance.state)
    if state not in PROBED | SERVED or instance.target != Target.ACTIVE:
        return []
    endpoints = {endpoint["service"]: endpoint for endpoint in instance.endpoints}
    rows = []
    for service in (*instance.plan.image.services, *([_AGENT] if "agent" in endpoints else [])):
        endpoint = endpoints.get(service["name"])
        if endpoint is None or not _allowed(endpoint, instance.provider.kind):
            if state in PROBED and service.get("required", True):
                return []
            continue
        where = (
            {"path": endpoint["path"]}
            if endpoint["kind"] == "unix"
            else {"host": endpoint["host"], "port": endpoint["port"], "uid": endpoint.get("uid", "")}
        )
        rows.append(
            {
                "name": service["name"],
                "kind": endpoint["kind"],
                "probe": service.get("probe", "/"),
                "required": service.get("required", True),
                "roles": sorted(roles_that_open(service["name"])),
                **where,
            }
        )
    return rows


def _allowed(endpoint: dict[str, Any], provider_kind: str) -> bool:
    """Refuse addresses that no cloud machine has: names, this host, link-local (metadata), multicast."""
    if endpoint["kind"] == "unix":
        return provider_kind in _ON_THIS_HOST
    try:
        address = ipaddress.ip_address(endpoint["host"])
    except ValueError:
        return False
    if address.is_loopback:
        return provider_kind in _ON_THIS_HOST
    return not (address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved)
