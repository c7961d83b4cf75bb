"""Finds the class of a kind, keeps one provider object for each row; imports a kind, and so its SDK, when first asked.

A kind is a class that takes one mapping: the row's options over the site's own (`name`, `deployment`, `state_dir`,
`supervisor_socket`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from instances.providers.base import Provider

_lock = threading.Lock()
_made: dict[str, Provider] = {}


def get(kind: str, options: Mapping[str, Any], kinds: Mapping[str, str]) -> Provider:
    """Return the provider of these options, the same object each time; KeyError for a kind that is not offered."""
    path = kinds[kind]
    key = f"{path} {json.dumps(options, sort_keys=True, default=str)}"
    with _lock:
        if key not in _made:
            module, _, name = path.rpartition(".")
            _made[key] = getattr(import_module(module), name)(options)
        return _made[key]


def put(kind: str, options: Mapping[str, Any], kinds: Mapping[str, str], provider: Provider) -> None:
    """Have `get` return this object (tests with a faulty provider)."""
    with _lock:
        _made[f"{kinds[kind]} {json.dumps(options, sort_keys=True, default=str)}"] = provider
