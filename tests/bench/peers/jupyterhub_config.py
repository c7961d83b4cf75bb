"""JupyterHub beside Beamport: dummy sign-in, and a spawner that starts nothing, or the plain local one."""

import os
from typing import Any

from jupyterhub.spawner import Spawner

FOLDER = os.environ["HUB_FOLDER"]
PORT, BACKEND = int(os.environ["HUB_PORT"]), int(os.environ["HUB_BACKEND"])

c = get_config()  # type: ignore[name-defined]  # noqa: F821
c.JupyterHub.bind_url = f"http://127.0.0.1:{PORT}"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{PORT + 1}"
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{PORT + 2}"
c.ConfigurableHTTPProxy.command = os.environ["HUB_PROXY"].split()
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.db_url = f"sqlite:///{FOLDER}/hub.sqlite"
c.JupyterHub.cookie_secret_file = f"{FOLDER}/cookie_secret"
c.JupyterHub.log_level = "WARN"
c.JupyterHub.services = [{"name": "bench", "api_token": os.environ["HUB_TOKEN"]}]
scopes = ["admin:users", "admin:servers", "access:servers", "list:users", "read:hub", "proxy"]
c.JupyterHub.load_roles = [{"name": "bench", "services": ["bench"], "scopes": scopes}]


class Noop(Spawner):
    """Starts nothing: one back end answers for everybody."""

    up = False

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.up = state.get("up", False)

    def get_state(self) -> dict[str, Any]:
        return dict(super().get_state(), up=self.up)

    def clear_state(self) -> None:
        super().clear_state()
        self.up = False

    async def start(self) -> tuple[str, int]:
        self.up = True
        return ("127.0.0.1", BACKEND)

    async def poll(self) -> int | None:
        return None if self.up else 0

    async def stop(self, now: bool = False) -> None:
        self.up = False


if os.environ["HUB_SPAWNER"] == "noop":
    c.JupyterHub.spawner_class = Noop
else:
    c.JupyterHub.spawner_class = "simple"
    c.SimpleLocalProcessSpawner.home_dir_template = FOLDER + "/home/{username}"
    c.Spawner.port = BACKEND
    c.Spawner.args = ["--allow-root"]
    c.Spawner.default_url = "/lab"
c.Spawner.http_timeout = 300
c.Spawner.start_timeout = 300
