"""The portal's settings with the benches' provider in the place of the memory one: only that may be on this host."""

from portal.settings import *  # noqa: F403
from portal.settings import PROVIDER_KINDS

PROVIDER_KINDS = PROVIDER_KINDS | {"memory": "tests.bench.noop.NoopProvider"}
