"""The client: what it sends, what it makes of bad answers, and that it repeats nothing."""

from __future__ import annotations

import json
import time

import pytest

from instances.providers.base import ProviderUnavailable
from instances.providers.kubernetes import client
from instances.providers.kubernetes.client import Cluster
from instances.providers.kubernetes.errors import Locked
from tests.providers.kubernetes.apiserver import serving, write_config
from tests.providers.kubernetes.objects import site


def test_a_verb_names_what_it_means(tmp_path):
    with serving(lambda *asked: (200, b"{}"), tmp_path) as (server, cluster):
        cluster.patch("statefulsets", "a", {"spec": {"replicas": 0}})
        cluster.delete("pods", "a-0", "u-1")
        patch, delete = server.asked
    assert patch[:2] == ("PATCH", "/apis/apps/v1/namespaces/beamport/statefulsets/a")
    assert patch[2]["Content-Type"] == "application/merge-patch+json"
    assert patch[2]["Authorization"] == "Bearer first-token"
    assert json.loads(patch[3]) == {"spec": {"replicas": 0}}
    assert delete[:2] == ("DELETE", "/api/v1/namespaces/beamport/pods/a-0")
    assert json.loads(delete[3]) == {"propagationPolicy": "Background", "preconditions": {"uid": "u-1"}}


@pytest.mark.parametrize("body", [b"", b'{"items": [', b"<html>", b"[]", b"null"])
def test_a_good_answer_that_makes_no_sense_is_none(body, tmp_path):
    with serving(lambda *asked: (200, body), tmp_path) as (server, cluster), pytest.raises(ProviderUnavailable):
        cluster.get("pods", "a")
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_nothing_is_repeated_by_itself(status, tmp_path):
    with serving(lambda *asked: (status, b"busy"), tmp_path) as (server, cluster), pytest.raises(ProviderUnavailable):
        cluster.get("pods", "a")
    assert len(server.asked) == 1


def test_a_redirection_is_not_followed(tmp_path):
    with serving(lambda *asked: (307, b""), tmp_path) as (server, cluster), pytest.raises(ProviderUnavailable):
        cluster.get("pods", "a")
    assert len(server.asked) == 1


def test_an_answer_that_never_comes_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "READ", 0.3)

    def hold():
        yield b"{"
        time.sleep(3)

    with serving(lambda *asked: (200, hold()), tmp_path) as (_, cluster), pytest.raises(ProviderUnavailable):
        cluster.get("pods", "a")


def test_nobody_there_is_no_answer(tmp_path):
    with serving(lambda *asked: (200, b"{}"), tmp_path) as (_, cluster):
        pass
    with pytest.raises(ProviderUnavailable):
        cluster.get("pods", "a")


def test_a_renewed_token_is_read_from_the_file(tmp_path):
    config = tmp_path / "kubeconfig"

    def script(method, path, query):
        good = server.asked[-1][2]["Authorization"] == "Bearer second-token"
        return (200, b'{"metadata": {}}') if good else (401, b"")

    with serving(script, tmp_path) as (server, cluster):
        with pytest.raises(Locked):
            cluster.get("pods", "a")
        assert len(server.asked) == 2, "once with what it had, once with what the file says"
        write_config(config, server, "second-token")
        cluster.get("pods", "a")
        cluster.get("pods", "a")
        assert len(server.asked) == 5


@pytest.mark.parametrize("text", [None, "", "not yaml: [", '{"contexts": []}'])
def test_a_kubeconfig_that_cannot_be_used_is_no_answer(text, tmp_path):
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ProviderUnavailable):
        Cluster(site(kubeconfig=str(path))).get("pods", "a")


def test_without_a_kubeconfig_it_is_the_pods_own_account():
    with pytest.raises(ProviderUnavailable, match="cannot be used"):
        Cluster(site()).get("pods", "a")  # which there is none of here


def test_the_clusters_clock_counts(tmp_path):
    with serving(lambda *asked: (200, b"{}"), tmp_path) as (server, cluster):
        server.ahead = 5000
        cluster.get("pods", "a")
        assert abs(cluster.now() - time.time() - 5000) < 5
