"""What several pages need: icons from one file, sizes and durations as people read them."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from django import template
from django.templatetags.static import static
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()

#: words that share a drawing
_SAME = {"debug": "info", "success": "ok", "notice": "info", "requested": "wait", "building": "build"}


@register.simple_tag
def icon(name: str) -> SafeString:
    """Draw `name` of icons.svg; it decorates a word that stands beside it, so it says nothing itself."""
    return format_html(
        '<svg class="icon icon-{}" width="18" height="18" aria-hidden="true"><use href="{}#{}"/></svg>',
        name,
        static("beamport/icons.svg"),
        _SAME.get(name, name),
    )


@register.filter
def size(amount: int | None) -> str:
    """Return bytes with a binary unit: 1536 MiB reads as 1.5 GiB."""
    if amount is None:
        return "unknown"
    value = float(amount)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" or value >= 10 else f"{_plain(value)} {unit}"
        value /= 1024
    return f"{_plain(value)} TiB"


@register.filter
def plain(value: Decimal | float) -> str:
    """Return a number without idle zeros: 2.00 cores are 2 cores."""
    return _plain(value)


def _plain(value: Decimal | float) -> str:
    return f"{float(value):.1f}".removesuffix(".0") if float(value) >= 1 else f"{float(value):g}"


@register.filter
def span(duration: timedelta | None) -> str:
    """Return a duration in its two largest units: 4 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if duration is None:
        return ""
    left = max(int(duration.total_seconds()), 0)
    parts: list[str] = []
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, seconds)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


@register.simple_tag
def filling(limit: int, percent: int) -> int:
    """Return so many per cent of a limit: where a bar begins to warn."""
    return limit * percent // 100
