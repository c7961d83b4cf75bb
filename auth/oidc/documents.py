"""JSON from outside: an object, not too deep, without the numbers JSON does not have."""

from __future__ import annotations

import json
from typing import Any, NoReturn

DEEPEST = 20


class BadDocument(ValueError):
    pass


def parse_object(text: bytes) -> dict[str, Any]:
    """Return the JSON object that `text` holds; anything else is a BadDocument."""
    try:
        value = json.loads(text.decode(), parse_constant=_no_such_number)
    except (ValueError, RecursionError) as error:
        raise BadDocument("not JSON") from error
    if not isinstance(value, dict):
        raise BadDocument("not an object")
    _check_depth(value)
    return value


def _no_such_number(name: str) -> NoReturn:
    raise BadDocument(f"{name} is no JSON")


def _check_depth(value: object) -> None:
    level: list[object] = [value]
    for _ in range(DEEPEST):
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return
    raise BadDocument("too deep")


def _inside(item: object) -> list[object]:
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else []
