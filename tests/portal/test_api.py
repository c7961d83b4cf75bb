"""What the API reads from a body."""

from __future__ import annotations

import io

import pytest
from django.conf import settings
from rest_framework.exceptions import ParseError

from portal.api import StrictJSON, TooLarge


def read(body: bytes) -> object:
    return StrictJSON().parse(io.BytesIO(body))


def test_json_is_read() -> None:
    assert read('{"name": "Müller", "runs": [1, 2.5, null, true]}'.encode()) == {
        "name": "Müller",
        "runs": [1, 2.5, None, True],
    }


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b"NaN",
        b"-Infinity",
        b'{"a": 1, "a": 2}',
        b'[{"b": {"a": 1, "a": 1}}]',
        b"[" * 100_000,
        b"9" * 9999,
    ],
    ids=["cut", "latin", "nan", "infinity", "twice", "twice-inside", "deep", "long-number"],
)
def test_what_is_no_json_or_means_two_things_is_refused(body: bytes) -> None:
    with pytest.raises(ParseError):
        read(body)


def test_a_body_over_the_limit_is_not_read_to_its_end() -> None:
    stream = io.BytesIO(b" " * (settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1000))
    with pytest.raises(TooLarge):
        StrictJSON().parse(stream)
    assert stream.tell() == settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1
