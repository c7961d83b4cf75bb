"""Finds the class of a kind, keeps one provider object for each row (by name); imports a kind and its SDK when asked.

A kind is a class that takes one mapping: the row's options over the site's own (`name`, `deployment`, `state_dir`,
`supervisor_socket`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from instances.providers.base import Kept, Options, Provider

_lock = threading.Lock()
#: what a row's provider was made from, and the provider, by kind and the row's name
_kept: dict[tuple[str, str], tuple[str, Provider]] = {}


def get(kind: str, options: Mapping[str, Any], kinds: Mapping[str, str]) -> Provider:
    """Return the provider of these options, the same object each time; KeyError for a kind that is not offered.

    One that was made from other options of this row, or from a file that has changed since, is ended.
    """
    path, key, made_from = _address(kind, options, kinds)
    with _lock:
        held = _kept.get(key)
        if held is not None and held[0] == made_from and not _is_outdated(held[1]):
            return held[1]
        made: Provider = _class_at(path)(options)
        _kept[key] = made_from, made
    if held is not None:
        _end(held[1])
    return made


def rules(kind: str, kinds: Mapping[str, str]) -> Options:
    """Return what rows of a kind may say; KeyError for a kind that is not offered."""
    found: Options = _class_at(kinds[kind]).OPTIONS
    return found


def put(kind: str, options: Mapping[str, Any], kinds: Mapping[str, str], provider: Provider) -> None:
    """Have `get` return this object (tests with a faulty provider)."""
    _, key, made_from = _address(kind, options, kinds)
    with _lock:
        _kept[key] = made_from, provider


def drop(kind: str, options: Mapping[str, Any], kinds: Mapping[str, str]) -> None:
    """End what a row's provider holds, as this process tends it no more; who asks for it next gets a new one."""
    key = _address(kind, options, kinds)[1]
    with _lock:
        held = _kept.get(key)
        if held is None or not isinstance(held[1], Kept):
            return
        del _kept[key]
    _end(held[1])


def _class_at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _address(kind: str, options: Mapping[str, Any], kinds: Mapping[str, str]) -> tuple[str, tuple[str, str], str]:
    path = kinds[kind]
    return path, (path, str(options.get("name", ""))), json.dumps(options, sort_keys=True, default=str)


def _is_outdated(provider: Provider) -> bool:
    return isinstance(provider, Kept) and provider.is_outdated()


def _end(provider: Provider) -> None:
    """Close it in its own time: a connection that hangs must not hold up who asked for the new one."""
    if isinstance(provider, Kept):
        threading.Thread(target=provider.close, name="close-provider", daemon=True).start()
