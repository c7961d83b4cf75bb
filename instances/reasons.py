"""Reasons: stable codes of why an instance is where it is, each with a sentence for the people who look at it.

Codes that a provider adds are shown with a general sentence; the list is in docs/develop/lifecycle.md.
"""

from __future__ import annotations

#: reasons whose sentence says too little without the provider's own text
DETAILED = frozenset({"mount-missing", "ended", "failed", "node-lost", "delete-hangs"})

#: what a machine waits for on its way: over as soon as its provider says it no more
PASSING = frozenset(
    {
        *("provider-unavailable", "no-capacity", "home-held", "image-missing", "mount-missing", "pod-refused"),
        *("being-replaced", "node-lost"),
    }
)

#: reasons of what goes on, and does not end before an operator has looked
ALARMING = frozenset({"delete-hangs"})

#: reasons of a failed build that are the host's fault: worth one more try on another machine
HOST_FAULTS = frozenset({"host-failed", "no-capacity", "image-pull-failed", "provider-lost-it"})

#: reasons for which a machine ended that did nothing wrong itself: a start that was under way is made again
CARRIER_FAULTS = frozenset({"supervisor-restarted"})

SENTENCES = {
    "provider-unavailable": "The system that runs the machines gives no answer just now. We keep trying.",
    "not-answering": "The machine runs, but its service does not answer just now.",
    "held": "An administrator of the system that runs the machines is working on this one. Please wait.",
    "no-capacity": "There is no room for this machine right now. We keep trying.",
    "waiting-for-turn": "Many machines are starting just now; this one waits for its turn.",
    "rejected": "The system that runs the machines refused the request. An operator has to look at it.",
    "image-missing": "The software environment of this plan is not there. Tell support, or choose another plan.",
    "mount-missing": "Data of this instance are not where they should be, so it was not started.",
    "vanished": "The machine is gone, and nobody asked for that. Retry makes a new one; your home is safe.",
    "failed": "The machine failed. Retry makes a new one; your home is safe.",
    "host-failed": "The computer that carried this machine failed. Retry makes a new one; your home is safe.",
    "deadline": "It took too long. Below are the last lines of its log, if it wrote any; Retry tries again.",
    "ended-at-once": "The machine ended right after it was started. Below are the last lines of its log.",
    "shut-down": "The machine was shut down from inside or by an operator. Once it is off, Start brings it back.",
    "ended": "The machine ended by itself. Start brings it back.",
    "out-of-memory": "A program used up the machine's memory and was ended.",
    "process-limit": "A program started as many processes as the machine may have; more are refused. End some of "
    "them, or restart the kernel; a reboot ends them all.",
    "disk-full": "The disk is full.",
    "supervisor-restarted": "The service that keeps the machines was restarted. Start brings this one back.",
    "home-held": "Your home can be used by one machine at a time. This one starts when the other has stopped.",
    "disk-held": "Somebody has marked the disk of this machine for deletion, so nothing was done. Tell support.",
    "node-lost": "The computer that carries this machine does not answer. It may still be running there; please wait.",
    "evicted": "The computer that carried this machine ran short and ended it. It is started again by itself.",
    "being-replaced": "The machine is being started again.",
    "pod-refused": "The machine cannot be started as its plan describes it. Tell support, or choose another plan.",
    "delete-hangs": "The machine takes unusually long to be removed. An operator has to look at it.",
    "home-owner": "Your home belongs to another account on the storage. An operator has to look at it.",
}

#: of those that say that something goes on by itself: when it does so no more
GIVEN_UP = {
    "provider-unavailable": "The system that runs the machines gave no answer in time. Retry tries again.",
    "no-capacity": "There was no room for this machine in time. Retry tries again.",
    "home-held": "Your home can be used by one machine at a time. Stop the other machine, then retry.",
    "evicted": "The computer that carried this machine ran short and ended it, again and again. Retry tries again.",
    "node-lost": "The computer that carries this machine does not answer. An operator has to look at it.",
}

_UNKNOWN = "Something happened that the portal has no words for; support can look it up by this code: {code}."


def sentence(code: str, *, given_up: bool = False) -> str:
    """Return the sentence of a reason; empty for no reason."""
    if not code:
        return ""
    if given_up and code in GIVEN_UP:
        return GIVEN_UP[code]
    return SENTENCES.get(code) or _UNKNOWN.format(code=code)
