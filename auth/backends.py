"""What Django asks: who signs in (only ever through a provider), and who a session belongs to."""

from __future__ import annotations

from typing import Any

from django.db import IntegrityError, transaction
from django.http import HttpRequest
from mozilla_django_oidc.auth import OIDCAuthenticationBackend

from auth import access, claims, groups, identities, persons, policies, posix
from auth.models import Identity, LoginState, User
from auth.oidc import client, discovery, tokens
from auth.oidc.errors import SignInNotPermitted, SignInRefused
from auth.oidc.proof import Answer, SignInProof
from auth.providers import Provider


class PortalOIDCBackend(OIDCAuthenticationBackend):
    """mozilla-django-oidc's backend, one provider at a time, with its checks replaced by ours.

    As it comes it reads one provider from global settings, takes tokens of other issuers and for other clients, finds
    users by e-mail and lets suspended ones go on. Each of its steps is overridden here.
    """

    def __init__(self, provider: Provider | None = None) -> None:
        self.UserModel = User
        self.provider = provider

    def authenticate(self, request: HttpRequest | None, **kwargs: Any) -> None:
        """Nobody signs in by credentials: it needs an attempt and a provider's answer, see `identify`."""
        return

    def get_user(self, user_id: int | str) -> User | None:
        return access.active_user(user_id)

    def identify(self, attempt: LoginState, code: str) -> tuple[Identity, SignInProof]:
        """Return the identity that the provider's code stands for, and how its owner showed who they are."""
        answer = self.answer(attempt, code)
        return self.get_or_create_user(answer.subject, answer.said, answer.proof.acr), answer.proof

    def answer(self, attempt: LoginState, code: str) -> Answer:
        """Return what the provider's code stands for, checked; nobody is looked up or made.

        No network call is made inside a transaction; the access token does not outlive this function.
        """
        provider = self._provider()
        metadata = discovery.of(provider)
        held = self.get_token({"code": code, "code_verifier": attempt.verifier})
        about_token = self.verify_token(held.id_token, nonce=attempt.nonce, access_token=held.access_token)
        subject = about_token["sub"]
        self.verify_claims(about_token)
        about_user = client.userinfo(provider, metadata, held.access_token, subject)
        proof = SignInProof(
            sid=claims.clean(about_token.get("sid"), 255),
            acr=claims.clean(about_token.get("acr"), 255),
            authenticated_at=tokens.moment(about_token, "auth_time"),
            id_token=held.id_token if provider.keeps_id_token else "",
        )
        # how somebody signed in is said by the signed token, or not at all
        said = about_token | about_user | {"acr": about_token.get("acr")}
        self._check_assurance(said, proof.acr)
        return Answer(subject, said, proof)

    def get_token(self, payload: dict[str, str]) -> client.Tokens:
        provider = self._provider()
        return client.exchange(
            provider, discovery.of(provider), code=payload["code"], verifier=payload["code_verifier"]
        )

    def verify_token(self, token: str, **kwargs: str) -> dict[str, Any]:
        provider = self._provider()
        return tokens.id_token_claims(
            provider, discovery.of(provider), token, nonce=kwargs["nonce"], access_token=kwargs["access_token"]
        )

    def verify_claims(self, claims: dict[str, Any]) -> bool:
        """Refuse subjects outside the scopes that this provider may assert, and those that stand for nobody."""
        provider, subject = self._provider(), claims["sub"].lower()
        if subject in {known.lower() for known in provider.monitoring_subjects}:
            raise SignInNotPermitted("monitoring-account")
        if provider.subject_scopes and subject.rpartition("@")[2] not in provider.subject_scopes:
            raise SignInNotPermitted("subject-scope")
        return True

    def get_or_create_user(self, subject: str, said: dict[str, Any], acr: str = "") -> Identity:
        provider = self._provider()
        profile = claims.profile_of(said, provider.claims)
        try:
            with transaction.atomic():
                identity = identities.signed_in(provider, subject, profile)
                for claim, facility in provider.facility_claims.items():
                    external_id = claims.person_id(said, claim)
                    person = persons.tie_by_claim(identity.user, facility, external_id, profile.name)
                    persons.grant_configured_roles(identity.user, facility, person)
                posix.set_from_claims(identity.user, said, provider.posix_claims)
                groups.recompute(identity, said, profile, acr)
                policies.honour(
                    identity.user, provider.policy_agreements, said.get("voperson_policy_agreement"), provider.slug
                )
        except IntegrityError:  # PostgreSQL looks at the end: a rule or facility was deleted meanwhile
            raise SignInRefused("changed-meanwhile") from None
        return identity

    def _check_assurance(self, said: dict[str, Any], acr: str) -> None:
        """Refuse accounts that the provider knows less well, or let in otherwise, than is asked for here."""
        provider = self._provider()
        profile = claims.profile_of(said, provider.claims)
        if claims.assured(profile) < claims.LEVELS[provider.required_assurance]:
            raise SignInNotPermitted("assurance-too-low")
        if provider.required_acr and acr not in provider.required_acr:
            raise SignInNotPermitted("acr-not-accepted")

    def _provider(self) -> Provider:
        if self.provider is None:
            raise LookupError("no provider is bound: Django's own calls end at authenticate and get_user")
        return self.provider
