"""Root of /api/v1/: OpenAPI, paging, throttles."""

from __future__ import annotations

from rest_framework.pagination import CursorPagination


class Page(CursorPagination):
    """Keyset paging, newest first; at most 100 a page."""

    page_size = 50
    max_page_size = 100
    page_size_query_param = "limit"
    ordering = "-id"
