"""Steps of one instance: lease, observe, decide, move and commit, call, save. Never a call inside a transaction.

One run goes on until it must wait for the machine, a person or another worker.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.conf import settings

from instances import clouds, leases, reasons, transitions
from instances.explain import explain
from instances.lifecycle import MOVING, ON_ITS_WAY, Call, Phase, State, Step, Target, decide
from instances.models import Instance
from instances.providers.base import NoCapacity, Observation, Provider, ProviderError, Rejected
from instances.spec import data_mounts, spec_of
from portal.lib import clock

log = structlog.get_logger("instances.reconcile")

#: an accepted call is not asked for again before this
PATIENCE = timedelta(seconds=15)
#: nor, of what was given up, before this: it stays until somebody retries or deletes it
LASTING = timedelta(minutes=2)
#: what a provider's outage leaves of a deadline, once it answers again
SPARE_SECONDS = 60
#: the longest pause before another try: where the next moment may bring an answer or a turn, and where it needs people
SOON, RARELY = timedelta(seconds=10), timedelta(seconds=30)
LOG_LINES, LOG_CHARACTERS = 40, 6000
_MOST_STEPS = 20
#: words of ours, and the provider's that say no more
_VAGUE = {"ended-at-once": {"", "ended", "shut-down"}} | {
    ours: {""} for ours in ("failed", "shut-down", "provider-unavailable", "not-answering")
}
_NOW = timedelta(0)


@dataclass(frozen=True)
class Wait:
    """Nothing more to do now; look again after `time` (None: the sweep suffices)."""

    time: timedelta | None


def run(pk: int, given: Observation | None = None) -> None:
    """Take steps until the instance must wait; return at once when another worker has it."""
    while True:
        instance = leases.take(pk)
        if instance is None:
            return
        token = _token(instance)
        wait = Wait(timedelta(seconds=5))
        try:
            wait = _steps(instance, token, given)
        except Exception:
            log.exception("step failed", instance=str(instance.uid))
        finally:
            leases.release(pk, token, wait.time)
        given = None
        # a verb that came while the lease was held is served now
        if not Instance.objects.filter(pk=pk, due_at__lte=clock.Now()).exists():
            return


def _token(instance: Instance) -> uuid.UUID:
    if instance.lease_token is None:
        raise RuntimeError("no lease")
    return instance.lease_token


def _steps(instance: Instance, lease: uuid.UUID, given: Observation | None) -> Wait:
    for _ in range(_MOST_STEPS):
        done = _step(instance, lease, given)
        if done is not None:
            return done
        given = None
    return Wait(timedelta(seconds=2))


def _step(instance: Instance, lease: uuid.UUID, given: Observation | None) -> Wait | None:
    """Take one step; None means: look again at once. Somebody else's write ends the run: the row is to be read anew."""
    if instance.state == State.DELETED:
        return Wait(None)
    try:
        cloud = clouds.cloud_of(instance.provider)
        seen = observe(instance, cloud, given)
    except ProviderError as error:
        return _blind(instance, lease, error)
    if seen.phase is Phase.MISSING and not _confirmed(instance, lease):
        # after our own delete the second look may follow at once; else something may be on its way
        return None if instance.last_call == Call.DELETE else Wait(timedelta(seconds=1))
    if seen.phase is Phase.MISSING and _never_made(instance):
        return Wait(None)
    if not _learn(instance, lease, seen):
        return Wait(_NOW)
    step = decide_on(instance, seen.phase, _time_of(seen))
    return _take(instance, lease, cloud, seen, step)


# ---- observe ----
def observe(instance: Instance, cloud: Provider, given: Observation | None = None) -> Observation:
    """Return what is there now: the given observation if it is newer than the last call, else a direct look."""
    if given is not None and given.at and (instance.called_at is None or given.at > instance.called_at):
        return given
    at = clock.now()
    try:
        seen = replace(cloud.look(instance.ref or instance.machine_name), at=at)
    except ProviderError:
        raise
    except Exception as error:  # an answer that makes no sense is no answer
        log.exception("look failed", instance=str(instance.uid), provider=instance.provider.name)
        raise ProviderError(str(error)) from error
    if not is_about(instance, seen):
        raise ProviderError(f"asked for {instance.machine_name}, told {seen.phase} of {seen.name} of {seen.deployment}")
    return seen


def is_about(instance: Instance, seen: Observation) -> bool:
    """Whether an observation can be one of this instance's machine: in our tag, and in a phase that there is.

    What is another portal's, or cannot be understood, says nothing: no verb may follow from it.
    """
    if seen.phase is Phase.MISSING:
        return True
    tagged = seen.deployment == settings.DEPLOYMENT_ID and seen.instance == str(instance.uid)
    return tagged and isinstance(seen.phase, Phase)


def _time_of(seen: Observation) -> datetime:
    """Return when it was looked: what a step is decided by, and one question less to the clock."""
    if seen.at is None:
        raise RuntimeError("an observation without its time")
    return seen.at


def phase_of(instance: Instance, phase: Phase) -> Phase:
    """Return READY for a running machine whose services a gateway has reached since the last call."""
    if phase not in (Phase.RUNNING, Phase.READY):
        return phase
    return Phase.READY if instance.is_heard else Phase.RUNNING


def decide_on(instance: Instance, phase: Phase, now: datetime) -> Step:
    """Return the step that a phase leads to, as the row is."""
    called, deadline = instance.called_at, instance.deadline_at
    patience = LASTING if instance.state == State.ERROR else PATIENCE
    return decide(
        State(instance.state),
        Target(instance.target),
        phase_of(instance, phase),
        last_call=Call(instance.last_call) if instance.last_call else None,
        under_way=called is not None and called + patience > now,
        reboot=instance.reboot_asked_at is not None,
        late=deadline is not None and deadline < now,
    )


def _confirmed(instance: Instance, lease: uuid.UUID) -> bool:
    """Count a look that found nothing; the second in a row counts, the first does where no machine was known."""
    if not instance.ref:
        return True
    instance.missing_seen += 1
    _count_missing(instance, lease)
    return instance.missing_seen >= 2


def _count_missing(instance: Instance, lease: uuid.UUID) -> None:
    """Keep how often nothing was found; who has lost the lease has no say."""
    Instance.objects.filter(pk=instance.pk, lease_token=lease).update(missing_seen=instance.missing_seen)


def _never_made(instance: Instance) -> bool:
    """Stopped before there was a machine: none is missing."""
    return instance.state == State.STOPPED and instance.target == Target.STOPPED and not instance.ref


def _learn(instance: Instance, lease: uuid.UUID, seen: Observation) -> bool:
    """Keep what an observation says besides the phase; False when somebody changed the row meanwhile."""
    news: dict[str, object] = {}
    endpoints = [asdict(endpoint) for endpoint in seen.endpoints]
    if seen.phase is Phase.MISSING:
        news |= {"ref": "", "endpoints": []} if instance.ref or instance.endpoints else {}
    else:
        if instance.missing_seen:
            instance.missing_seen = 0
            _count_missing(instance, lease)
        if seen.ref and seen.ref != instance.ref:
            news["ref"] = seen.ref
        if endpoints != instance.endpoints and seen.phase in ON_ITS_WAY | {Phase.RUNNING, Phase.READY}:
            news |= _reached_at(instance, endpoints)
    tells = seen.phase in ON_ITS_WAY | {Phase.RUNNING, Phase.UNKNOWN} and instance.state != State.ERROR
    if tells and seen.reason and seen.reason != instance.reason:
        news |= {"reason": seen.reason, "detail": explain(instance, seen.reason, seen.detail)}
        if seen.reason in reasons.ALARMING:
            log.error("an operator has to look", instance=str(instance.uid), reason=seen.reason, detail=seen.detail)
    elif _waits_no_more(instance, seen):
        news |= {"reason": "", "detail": ""}
    return not news or transitions.note(instance, lease=lease, **news)


def _waits_no_more(instance: Instance, seen: Observation) -> bool:
    """Whether what kept a machine on its way waiting is over, although it has not arrived."""
    comes = instance.state in (State.BUILDING, State.STARTING) and seen.phase in (Phase.PENDING, Phase.RUNNING)
    return comes and not seen.reason and instance.reason in reasons.PASSING


def _reached_at(instance: Instance, endpoints: list[dict[str, Any]]) -> dict[str, object]:
    """Return what a new address means: another machine listens there, and what answered before counts no more."""
    transitions.withdraw_from(instance, endpoints)
    moved = {e.get("uid") for e in endpoints} != {e.get("uid") for e in instance.endpoints}
    return {"endpoints": endpoints} | ({"ready_at": None, "services_up": {}} if moved and instance.endpoints else {})


def _blind(instance: Instance, lease: uuid.UUID, error: ProviderError) -> Wait | None:
    """The provider gave no usable answer: nothing is concluded, and an outage does not eat up a deadline."""
    if instance.reason != "provider-unavailable":  # which is said once
        log.warning("no answer", instance=str(instance.uid), provider=instance.provider.name, error=str(error)[:500])
    transitions.spare(instance, SPARE_SECONDS)
    step = decide_on(instance, Phase.UNKNOWN, clock.now())
    moving = instance.state in MOVING or instance.state != instance.target
    if step.state is not State(instance.state):
        transitions.move(instance, step, event="observed", lease=lease, **_because(instance, step.reason))
    elif moving and instance.reason != "provider-unavailable":
        transitions.note(instance, lease=lease, **_because(instance, "provider-unavailable"))
    return Wait(_backoff(instance)) if moving else Wait(None)


def _because(instance: Instance, reason: str, detail: str = "") -> dict[str, str]:
    return {"reason": reason, "detail": explain(instance, reason, detail)}


# ---- act ----
def _take(instance: Instance, lease: uuid.UUID, cloud: Provider, seen: Observation, step: Step) -> Wait | None:
    """Write the step, then make its call."""
    if step.state is State.ERROR and _deserves_new_machine(instance, seen):
        made = transitions.new_attempt(instance, lease=lease, reason=seen.reason or "failed")
        return None if made else Wait(_NOW)
    if step.reason == "ended-at-once" and seen.reason in reasons.CARRIER_FAULTS:
        return None if transitions.note(instance, lease=lease, last_call="") else Wait(_NOW)  # the start is still owed
    if step.call is None and step.state == instance.state and step.target is None:
        _remind(instance, lease, seen, step)
        return _rest(instance, _time_of(seen))
    event = step.call.value if step.call else "observed"
    if not transitions.move(instance, step, event=event, lease=lease, **_words(instance, cloud, seen, step)):
        return Wait(_NOW)
    not_there = step.call is Call.STOP and seen.phase is Phase.MISSING  # should it come yet, the sweep stops it
    if step.call is None or not_there:
        return _rest(instance, _time_of(seen))
    return _call(instance, lease, cloud, step.call)


def _words(instance: Instance, cloud: Provider, seen: Observation, step: Step) -> dict[str, str]:
    """Return reason, detail and log of a step; an error keeps those that it began with."""
    if instance.state == step.state == State.ERROR:
        return {"reason": instance.reason, "detail": instance.detail, "log": instance.log}
    reason, given_up = _reason(instance, seen, step), step.state is State.ERROR
    detail = explain(instance, reason, seen.detail if reason == seen.reason else "", given_up=given_up)
    return {"reason": reason, "detail": detail, "log": _last_lines(cloud, instance) if given_up else ""}


def _reason(instance: Instance, seen: Observation, step: Step) -> str:
    """Return why the instance goes there: the provider's word is better than ours, a cause than "too late"."""
    if seen.reason not in _VAGUE.get(step.reason, {seen.reason}):
        return seen.reason
    if step.reason == "deadline" and instance.reason and not instance.last_call:
        return instance.reason  # why the call could not be made
    if step.reason == "deadline" and seen.reason and seen.phase in ON_ITS_WAY:
        return seen.reason
    said = seen.reason if seen.phase in ON_ITS_WAY | {Phase.RUNNING} else ""
    return step.reason or said or (instance.reason if step.state == instance.state else "")


def _remind(instance: Instance, lease: uuid.UUID, seen: Observation, step: Step) -> None:
    """Give the present reason of a state that stays (unavailable: held, then not answering)."""
    reason = _reason(instance, seen, step) if step.reason else ""
    if reason and reason != instance.reason:
        transitions.note(instance, lease=lease, **_because(instance, reason, seen.detail))


def _deserves_new_machine(instance: Instance, seen: Observation) -> bool:
    """A person's retry of a failed machine makes a new one, and so, once, does a build that the host spoilt."""
    if seen.phase is not Phase.FAILED or instance.target != Target.ACTIVE:
        return False
    retried = instance.state == State.BUILDING and not instance.last_call
    spoilt = instance.state in (State.BUILDING, State.STARTING) and seen.reason in reasons.HOST_FAULTS
    return retried or (spoilt and instance.attempt == 1)


def _last_lines(cloud: Provider, instance: Instance) -> str:
    """Return the end of the machine's log for the page; never in the way of the step itself."""
    try:
        text = cloud.console(instance.ref) if instance.ref else ""
    except Exception as error:
        log.warning("no console", instance=str(instance.uid), error=str(error)[:500])
        return ""
    lines = text.replace("\x00", "").splitlines()[-LOG_LINES:]
    return "\n".join(lines)[-LOG_CHARACTERS:]


def _call(instance: Instance, lease: uuid.UUID, cloud: Provider, call: Call) -> Wait | None:
    try:
        if call is Call.CREATE:
            ref = cloud.create(spec_of(instance))
            return None if transitions.note(instance, lease=lease, ref=ref) else Wait(_NOW)
        _ask(cloud, call, instance)
    except ProviderError as error:
        return _call_failed(instance, lease, call, error)
    except Exception as error:
        log.exception("call failed", instance=str(instance.uid), call=call.value)
        return _call_failed(instance, lease, call, ProviderError(str(error)))
    if call is Call.START and instance.reason:  # why it could not be started is over
        return None if transitions.note(instance, lease=lease, reason="", detail="") else Wait(_NOW)
    return None


def _ask(cloud: Provider, call: Call, instance: Instance) -> None:
    """Call a verb on the machine; what starts it gets the data that the owner may see by now."""
    ref = instance.ref or instance.machine_name
    if call is Call.START:
        cloud.start(ref, data_mounts(instance))
    elif call is Call.REBOOT:
        cloud.reboot(ref, data_mounts(instance))
    elif call is Call.STOP:
        cloud.stop(ref)
    else:
        cloud.delete(ref)


def _call_failed(instance: Instance, lease: uuid.UUID, call: Call, error: ProviderError) -> Wait | None:
    """Map what a call raised: refused → error (a delete is tried for ever), no room or no answer → again later."""
    if instance.state == State.ERROR:  # what was given up; the sweep asks for it again
        log.warning("not stopped", instance=str(instance.uid), error=str(error)[:500])
        return Wait(None)
    known = isinstance(error, Rejected | NoCapacity)
    reason = error.code if known else "provider-unavailable"
    if reason != instance.reason:  # one that waits for an hour says so once
        level = log.error if isinstance(error, Rejected) else log.warning
        level("call not done", instance=str(instance.uid), call=call.value, code=error.code, error=str(error)[:500])
    shown = str(error) if error.code in ("mount-missing", "home-held") else ""
    because = _because(instance, reason, shown)
    if isinstance(error, Rejected) and call is not Call.DELETE:
        step = Step(State.ERROR)
        moved = transitions.move(instance, step, event=f"{call.value}-refused", lease=lease, **because)
        return Wait(None) if moved else Wait(_NOW)
    transitions.not_done(instance, lease=lease, **because)
    if error.code == "waiting-for-turn":  # its own time begins with its turn
        transitions.spare(instance, settings.INSTANCE_DEADLINE.total_seconds())
    elif known:
        return Wait(RARELY if isinstance(error, Rejected) else _backoff(instance, RARELY))
    return Wait(_backoff(instance))


# ---- wait ----
def _rest(instance: Instance, now: datetime) -> Wait:
    """Say when to look again: the sweep and the provider's events suffice for what does not move by itself."""
    return Wait(_pause(instance, now)) if instance.state in MOVING else Wait(None)


def _pause(instance: Instance, now: datetime) -> timedelta:
    """Look soon after a call and ever more seldom: 0.3 s to 5 s."""
    since = instance.called_at or instance.state_changed_at
    age = (now - since).total_seconds()
    return timedelta(seconds=min(5.0, max(0.3, age / 4)))


def _backoff(instance: Instance, longest: timedelta = SOON) -> timedelta:
    """Try again in 2 s, and ever more seldom."""
    age = clock.now() - instance.state_changed_at
    return min(longest, max(timedelta(seconds=2), age / 4))
