"""Sessions on this machine: JupyterLab in bubblewrap, owned by one supervisor process."""
