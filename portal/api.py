"""Root of /api/v1/: what is read from a body, and paging."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from django.conf import settings
from rest_framework.exceptions import APIException, NotFound, ParseError
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.parsers import BaseParser
from rest_framework.request import Request


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
        if len(body) > most:
            raise TooLarge
        try:
            return json.loads(body.decode(), object_pairs_hook=_once_each, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise ParseError("The body is not JSON.") from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


class Page(CursorPagination):
    """Keyset paging, newest first; at most 100 a page."""

    page_size = 50
    max_page_size = 100
    page_size_query_param = "limit"
    ordering = "-id"

    def decode_cursor(self, request: Request) -> Cursor | None:
        """Refuse a forged place: DRF would hand any text to the database as an id."""
        cursor: Cursor | None = super().decode_cursor(request)
        if cursor and cursor.position is not None and not re.fullmatch(r"[0-9]{1,18}", str(cursor.position)):
            raise NotFound(self.invalid_cursor_message)
        return cursor
