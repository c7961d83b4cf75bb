"""What the demo offers: this host's JupyterLab, at the facility whose data it shows."""

from __future__ import annotations

from auth.models import Facility
from instances.offers import offer_local

FACILITY = "xfel"


def load() -> None:
    """Make the demo's rows or bring them up to date."""
    facility, _ = Facility.objects.get_or_create(slug=FACILITY, defaults={"name": "European XFEL (demo)"})
    offer_local(facility)
