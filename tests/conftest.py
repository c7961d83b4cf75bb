"""Fixtures that more than one folder of tests uses. Alice owns, Bob is in the team, Charlie is a stranger."""

from __future__ import annotations
