"""Sessions on this machine: JupyterLab in bubblewrap, owned by one supervisor process."""

from instances.providers.local.provider import LocalProvider

__all__ = ["LocalProvider"]
