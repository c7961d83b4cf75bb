"""Root of /api/v1/: what is read from a body, and paging."""

from __future__ import annotations

import base64
import functools
import hmac
import json
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings
from rest_framework.exceptions import APIException, NotFound, ParseError
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.utils.urls import replace_query_param


class TooLarge(APIException):
    status_code = 413
    default_code = "too-large"
    default_detail = "The body is too large."


class StrictJSON(BaseParser):
    """JSON that means one thing: no duplicate names, no NaN, no depth that exhausts the stack, bounded in size.

    DRF's own parser reads past DATA_UPLOAD_MAX_MEMORY_SIZE and answers deep nesting with a crash.
    """

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        most: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        body = stream.read(most + 1)
        if max(len(body), _said_length(parser_context)) > most:
            raise TooLarge
        try:
            return json.loads(body.decode(), object_pairs_hook=_once_each, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise ParseError("The body is not JSON.") from error


def _said_length(parser_context: Mapping[str, Any] | None) -> int:
    """What the request says of its length: all that is left of a body that is too long (portal.bodies)."""
    request: Request | None = (parser_context or {}).get("request")
    return int(request.META.get("CONTENT_LENGTH") or 0) if request else 0


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


class Page(CursorPagination):
    """Keyset paging, newest first; at most 100 a page.

    The place in the list is sealed: it holds a row's number, and from the gaps between the numbers that one may see,
    those could be counted that one may not.
    """

    page_size = 50
    max_page_size = 100
    page_size_query_param = "limit"
    ordering = "-id"

    def encode_cursor(self, cursor: Cursor) -> str:
        place = _seal().encrypt(json.dumps(cursor).encode()).decode()
        address: str = replace_query_param(self.base_url or "", self.cursor_query_param, place)
        return address

    def decode_cursor(self, request: Request) -> Cursor | None:
        place = request.query_params.get(self.cursor_query_param)
        if place is None:
            return None
        try:
            return Cursor(*json.loads(_seal().decrypt(place.encode())))
        except (InvalidToken, ValueError) as error:
            raise NotFound(self.invalid_cursor_message) from error


@functools.cache
def _seal() -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hmac.digest(settings.SECRET_KEY.encode(), b"place-in-a-list", "sha256")))
