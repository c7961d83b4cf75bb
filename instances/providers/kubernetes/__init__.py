"""Instances as StatefulSets of a Kubernetes cluster, seen by watching it."""

from instances.providers.kubernetes.provider import KubernetesProvider

__all__ = ["KubernetesProvider"]
