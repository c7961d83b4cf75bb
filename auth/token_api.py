"""`/api/v1/tokens`: list and revoke one's tokens; made only by somebody with a session, never by a token."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from auth import tokens
from auth.api import HasScope, NoToken
from auth.models import ApiToken, User
from portal.lib.strict import Strict


class NewToken(Strict):
    name = serializers.CharField(max_length=100)
    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=list(tokens.SCOPES)), min_length=1, max_length=len(tokens.SCOPES)
    )
    days = serializers.IntegerField(min_value=1, max_value=ApiToken.LONGEST.days, default=30)


class TokenOut(serializers.Serializer[ApiToken]):
    prefix = serializers.CharField(help_text="its name in addresses; what stands between the underscores of its text")
    name = serializers.CharField()
    scopes = serializers.ListField(child=serializers.CharField())
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()
    last_used_at = serializers.DateTimeField(allow_null=True)


class MadeToken(TokenOut):
    token = serializers.CharField(help_text="its text; it is shown this once")


class TokensView(generics.ListAPIView[ApiToken]):
    """Your valid tokens."""

    permission_classes = [IsAuthenticated, HasScope]
    scope = "tokens"
    serializer_class = TokenOut
    queryset = ApiToken.objects.none()

    def get_permissions(self) -> list[Any]:
        return [*super().get_permissions(), *([NoToken()] if self.request.method == "POST" else [])]

    def get_queryset(self) -> Any:
        return tokens.valid(tokens.of(_user(self.request)))

    @extend_schema(request=NewToken, responses={201: MadeToken}, operation_id="tokens_create")
    def post(self, request: Request) -> Response:
        body = NewToken(data=request.data)
        body.is_valid(raise_exception=True)
        wanted = body.validated_data
        row, text = tokens.issue(
            _user(request), scopes=wanted["scopes"], lasts=timedelta(days=wanted["days"]), name=wanted["name"]
        )
        row.refresh_from_db()
        return Response({**TokenOut(row).data, "token": text}, status=201)


class TokenView(APIView):
    """One of your tokens."""

    permission_classes = [IsAuthenticated, HasScope]
    scope = "tokens"

    @extend_schema(responses={204: None}, operation_id="tokens_revoke")
    def delete(self, request: Request, prefix: str) -> Response:
        tokens.revoke(_user(request), prefix)
        return Response(status=204)


def _user(request: Request) -> User:
    user = request.user
    assert isinstance(user, User)  # noqa: S101  (IsAuthenticated has seen to it)
    return user
