"""Bodies of API requests that say nothing but what is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

#: unknown fields that an answer names
MOST_UNKNOWN = 10


class Strict(serializers.Serializer[Any]):
    """Refuses what it does not know: a misspelt or forbidden field is an error, never silently dropped."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            unknown = sorted(str(name)[:60] for name in set(data) - set(self.fields))[:MOST_UNKNOWN]
            if unknown:
                raise serializers.ValidationError({name: ["This field is not known here."] for name in unknown})
        return super().to_internal_value(data)
