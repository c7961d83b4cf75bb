"""`manage.py check_provider NAME`: says what is missing in the set-up of a cloud, and tries it out; safe to repeat."""

from __future__ import annotations

import uuid
from argparse import ArgumentParser
from contextlib import closing
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from instances import clouds
from instances.models import Plan, Provider
from instances.providers.base import Checked, Finding, ImageSpec, ProviderError, Spec, Tried
from instances.spec import flavour_of, services_of_image

#: good, could not be seen, bad
_SIGNS = {True: "+", None: "?", False: "-"}


class Command(BaseCommand):
    help = (
        "Say what is missing in the set-up of a provider: rights, and whether it is the cluster that was confirmed. "
        "Then start a machine of one of its plans that is nobody's, see disk, home, image, time to start and network "
        "policy, and remove all of it, with what an earlier check has left. One check of a provider at a time."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="the provider's name")
        parser.add_argument(
            "--confirm", action="store_true", help="keep which cluster this is, so that no other is taken for it"
        )
        parser.add_argument("--plan", default="", help="the plan to try (default: the provider's first)")
        parser.add_argument("--only-look", action="store_true", help="make nothing: rights and identity alone")

    def handle(self, *args: Any, **options: Any) -> None:
        row = Provider.objects.filter(name=options["name"]).first()
        if row is None:
            known = ", ".join(Provider.objects.order_by("name").values_list("name", flat=True)) or "none yet"
            raise CommandError(f"There is no provider {options['name']!r} (known: {known}).")
        try:
            self._look(row, confirm=options["confirm"])
            if not options["only_look"]:
                self._try(row, options["plan"])
        except ProviderError as error:
            raise CommandError(f"{row.name} gives no usable answer: {error}") from error
        self.stdout.write(f"{row.name}: nothing to mend.")

    def _look(self, row: Provider, *, confirm: bool) -> None:
        if confirm:
            self._keep(row, self._checked(row).confirm())
        problems = self._checked(row).problems()
        for problem in problems:
            self.stdout.write(f"- {problem}")
        if problems:
            raise CommandError(f"{row.name}: {len(problems)} to mend.")
        self.stdout.write("+ rights, and the cluster that was confirmed")

    def _checked(self, row: Provider) -> Checked:
        cloud = clouds.cloud_of(row)
        if not isinstance(cloud, Checked):
            raise CommandError(f"A provider of kind {row.kind} has nothing to check.")
        return cloud

    def _try(self, row: Provider, slug: str) -> None:
        """Say each finding as it comes; what it makes goes also when somebody breaks it off."""
        cloud = clouds.cloud_of(row)
        if not isinstance(cloud, Tried):
            return
        findings: list[Finding] = []
        try:
            with closing(cloud.trial(_spec(_plan(row, slug)))) as trial:
                for finding in trial:
                    findings.append(finding)
                    self.stdout.write(f"{_SIGNS[finding.good]} {finding.what}: {finding.text}")
                    self.stdout.flush()
                    self._keep(row, finding.keep)
        except KeyboardInterrupt as error:
            raise CommandError(f"{row.name}: broken off; what was made is removed.") from error
        bad = sum(finding.good is False for finding in findings)
        unseen = sum(finding.good is None for finding in findings)
        if bad or unseen:
            raise CommandError(f"{row.name}: {bad} to mend, {unseen} not seen.")

    def _keep(self, row: Provider, options: Any) -> None:
        """Keep what was found, unless the row leads elsewhere meanwhile: then it was found of another cloud."""
        if not options:
            return
        with transaction.atomic():
            held = Provider.objects.select_for_update(of=("self",)).get(pk=row.pk)
            if held.options != row.options:
                raise CommandError(f"{row.name}: its options were changed meanwhile. Run this again.")
            held.options = row.options = row.options | dict(options)
            held.save(update_fields=["options"])


def _plan(row: Provider, slug: str) -> Plan:
    plans = Plan.objects.filter(image__provider=row).select_related("image", "flavour")
    plan = plans.filter(slug=slug).first() if slug else plans.filter(enabled=True).first()
    if plan is None:
        wanted = f"the plan {slug!r}" if slug else "a plan"
        raise CommandError(f"{row.name} has not {wanted}: storage, image and network were not tried (--only-look).")
    return plan


def _spec(plan: Plan) -> Spec:
    """Return what makes a machine of a plan for nobody."""
    return Spec(
        name="trial",
        deployment=settings.DEPLOYMENT_ID,
        instance=str(uuid.uuid4()),
        attempt=1,
        image=ImageSpec(plan.image.name, plan.image.reference, dict(plan.image.options)),
        flavour=flavour_of(plan.flavour),
        services=services_of_image(plan.image),
        mounts=(),
        home=None,
        identity=None,
        network="none",
        secret_epoch=1,
        host=f"trial.{settings.APPS_DOMAIN}",
    )
