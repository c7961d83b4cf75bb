"""System calls that no session needs and no namespace holds back, refused by a filter (seccomp(2), classic BPF).

A network namespace does not contain AF_VSOCK: inside a virtual machine it leads to the host that carries it. Keyrings
belong to the uid, not to the sandbox. io_uring opens sockets past any filter. bpf, perf and userfaultfd only make
holes in the kernel easier to use.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, little-endian
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
#: AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: what a network namespace contains
_FAMILIES = (1, 2, 10, 16)
_IO_URING = (425, 426, 427)


@dataclass(frozen=True)
class _Machine:
    """A machine's name for the kernel's audit, and its numbers of system calls."""

    audit: int
    socket: int
    refused: tuple[int, ...]
    #: from here on numbers are those of another ABI (x32); 0: there is none
    other_abi: int = 0


#: refused: add_key, request_key, keyctl, perf_event_open, bpf, userfaultfd
_MACHINES = {
    "x86_64": _Machine(0xC000003E, 41, (248, 249, 250, 298, 321, 323, *_IO_URING), 0x40000000),
    "aarch64": _Machine(0xC00000B7, 198, (217, 218, 219, 241, 280, 282, *_IO_URING)),
}


def program(machine: str = "") -> bytes:
    """Return the filter for bubblewrap's `--seccomp`; empty for a machine whose numbers are not known here."""
    known = _MACHINES.get(machine or os.uname().machine)
    if known is None:
        return b""
    missing, allow = _ERRNO | errno.ENOSYS, _ALLOW
    lines = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, known.audit), (_RETURN, 0, 0, missing)]
    lines += [(_LOAD, 0, 0, _NUMBER)]
    if known.other_abi:
        lines += [(_AT_LEAST, 0, 1, known.other_abi), (_RETURN, 0, 0, missing)]
    for number in known.refused:
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, missing)]
    lines += [(_EQUAL, 1, 0, known.socket), (_RETURN, 0, 0, allow), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    for family in _FAMILIES:
        lines += [(_EQUAL, 0, 1, family), (_RETURN, 0, 0, allow)]
    lines += [(_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT)]
    return b"".join(struct.pack("<HBBI", *line) for line in lines)
