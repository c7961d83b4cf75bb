"""The sentence of a reason, with what only this instance can say about it."""

from __future__ import annotations

from instances import reasons
from instances.lifecycle import State
from instances.models import Instance, Plan
from portal.lib.readers import GIB


def explain(instance: Instance, reason: str, detail: str = "", *, given_up: bool = False) -> str:
    """Return the text for people: the reason's sentence, the instance's figures, what the provider adds.

    Of what was given up its words are kept in the history: a cluster forgets its events within the hour.
    """
    parts = [reasons.sentence(reason, given_up=given_up)]
    if reason == "out-of-memory":
        parts = [_memory(instance)]
    elif reason == "home-held":
        parts.append(_holder(instance, detail))
    elif detail and (given_up or reason in reasons.DETAILED or reason not in reasons.SENTENCES):
        parts.append(detail)
    return " ".join(part for part in parts if part)


def _memory(instance: Instance) -> str:
    """Name the limit and the next larger plan."""
    text = f"A program used up the machine's memory of {_size(instance.plan.flavour.memory)} and was ended."
    larger = next_larger_plan(instance.plan)
    if larger is None:
        return f"{text} There is no larger plan; open less at a time."
    return f"{text} The next larger plan is “{larger.name}” with {_size(larger.flavour.memory)}."


def _holder(instance: Instance, said: str) -> str:
    """Name the machine that has the home: the one that the provider names, else the one that moved last."""
    others = Instance.objects.alive().filter(home=instance.home, home__isnull=False).exclude(pk=instance.pk)
    latest = list(others.exclude(state=State.STOPPED).order_by("-state_changed_at"))
    holder = next((one for one in latest if one.machine_name in said), latest[0] if latest else None)
    return f"It is in use by “{holder.name}”." if holder else ""


def next_larger_plan(plan: Plan) -> Plan | None:
    """Return the enabled plan of the same image with the next larger memory."""
    plans = Plan.objects.filter(enabled=True, image=plan.image, flavour__memory__gt=plan.flavour.memory)
    return plans.select_related("flavour").order_by("flavour__memory", "position").first()


def _size(size: int) -> str:
    return f"{size / GIB:g} GiB" if size >= GIB else f"{size / 2**20:g} MiB"
