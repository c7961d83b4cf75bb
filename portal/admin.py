"""All pages of the administration."""

from __future__ import annotations

from auth.admin import consent, log, people, rights, sign_ins
from auth.admin.site import site
from instances import admin as machines

#: imported for the pages that they put on the site
PAGES = (people, rights, sign_ins, consent, log, machines)

__all__ = ["PAGES", "site"]
