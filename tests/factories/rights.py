"""Groups, their roles, rules and members."""

from __future__ import annotations

from typing import Any

import factory

from auth.models import Group, GroupMember, GroupRole, GroupRule

NAMESPACE = "urn:geant:x.example"
AUTHORITY = "login.x.example"


def entitlement(path: str = "beam", role: str = "", namespace: str = NAMESPACE, authority: str = AUTHORITY) -> str:
    return f"{namespace}:group:{path}" + (f":role={role}" if role else "") + (f"#{authority}" if authority else "")


class GroupFactory(factory.django.DjangoModelFactory[Group]):
    class Meta:
        model = Group

    slug = factory.Sequence(lambda n: f"group-{n}")
    title = factory.LazyAttribute(lambda group: group.slug.title())


class GroupRoleFactory(factory.django.DjangoModelFactory[GroupRole]):
    class Meta:
        model = GroupRole

    group = factory.SubFactory(GroupFactory)
    role = "staff"


class GroupRuleFactory(factory.django.DjangoModelFactory[GroupRule]):
    class Meta:
        model = GroupRule

    provider = "demo"
    namespace = NAMESPACE
    path = "beam"
    authority = AUTHORITY
    group = factory.SubFactory(GroupFactory)


class GroupMemberFactory(factory.django.DjangoModelFactory[GroupMember]):
    class Meta:
        model = GroupMember

    user = factory.SubFactory("tests.factories.auth.UserFactory")
    group = factory.SubFactory(GroupFactory)


def claim_rule(**given: Any) -> GroupRule:
    nothing = {"namespace": "", "path": "", "authority": ""}
    return GroupRuleFactory(kind=GroupRule.Kind.CLAIM, **nothing | {"claim": "groups", "value": "beam"} | given)
