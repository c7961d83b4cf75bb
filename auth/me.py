"""`GET me`, and how the API's description names our tokens."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from auth import roles
from auth.api import HasScope, SessionAuthentication, TokenAuthentication
from auth.models import User


class TokenScheme(OpenApiAuthenticationExtension):
    target_class = TokenAuthentication
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "A token of `manage.py api_token`."}


class SessionScheme(OpenApiAuthenticationExtension):
    target_class = SessionAuthentication
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME}


class RoleAt(serializers.Serializer[Any]):
    role = serializers.CharField()
    facility = serializers.CharField(allow_null=True, help_text="null: everywhere")


class PersonAt(serializers.Serializer[Any]):
    facility = serializers.CharField()
    id = serializers.CharField()


class Me(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    handle = serializers.CharField()
    name = serializers.CharField()
    email = serializers.CharField()
    roles = RoleAt(many=True)
    persons = PersonAt(many=True)


class MeView(APIView):
    """Who you are to the portal."""

    permission_classes = [IsAuthenticated, HasScope]
    scope = "me"

    @extend_schema(responses=Me, operation_id="me")
    def get(self, request: Request) -> Response:
        user = request.user
        assert isinstance(user, User)  # noqa: S101  (IsAuthenticated has seen to it)
        answer = {
            "id": user.uid,
            "handle": user.handle,
            "name": user.display_name,
            "email": user.email,
            "roles": [
                {"role": role, "facility": facility}
                for role, facility in sorted(
                    {(held.role, held.facility.slug if held.facility else None) for held in roles.held_by(user)},
                    key=str,
                )
            ],
            "persons": [
                {"facility": person.facility.slug, "id": person.external_id}
                for person in user.persons.select_related("facility").order_by("pk")
            ],
        }
        return Response(Me(answer).data)
