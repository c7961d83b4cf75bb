"""`manage.py offer FILE.toml`: what a file says comes into the portal, all of it or nothing, as often as one likes."""

from __future__ import annotations

import itertools
import tomllib
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from instances.models import Flavour, Image, Plan, Provider
from portal.audit import AuditEvent
from tests.factories.auth import FacilityFactory
from tests.factories.instances import (
    GIB,
    FlavourFactory,
    HomeFactory,
    ImageFactory,
    InstanceFactory,
    PlanFactory,
    ProviderFactory,
)
from tests.races import ROUNDS, Racers

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "offer.toml"
HEAD = 'name = "cloud"\nkind = "memory"\n'
IMAGE = '[[images]]\nname = "Jupyter"\nreference = "jupyter"\n'
FLAVOUR = '[[flavours]]\nname = "small"\ncores = 1\nmemory = "2 GiB"\n'
PLAN = '[[plans]]\nslug = "cloud-small"\nname = "Small"\nimage = "Jupyter"\nflavour = "small"\n'
WHOLE = HEAD + IMAGE + FLAVOUR + PLAN
CLUSTER = 'name = "cluster"\nkind = "kubernetes"\n[options]\nkubeconfig = "/etc/a.conf"\nnamespace = "beamport"\n'


@pytest.fixture
def offer(db, tmp_path):
    """Run the command over a text (or bytes) as the file; returns what it says."""

    def run(text, *arguments):
        path = tmp_path / "offer.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        out = StringIO()
        call_command("offer", str(path), *arguments, stdout=out)
        return out.getvalue()

    return run


def rows():
    """All that an offer may write, as values."""
    return [list(model.objects.order_by("pk").values()) for model in (Provider, Image, Flavour, Plan)]


# ---- what it makes ----
def test_the_example_of_the_cluster_is_a_good_one(offer):
    """What deploy/kubernetes/offer.toml says is what lies in the rows, with nothing that the provider does not know."""
    offer(EXAMPLE.read_text())
    given = tomllib.loads(EXAMPLE.read_text())
    row = Provider.objects.get()
    assert (row.name, row.kind, row.facility, row.enabled) == ("cluster", "kubernetes", None, True)
    assert row.options == given["options"]
    assert list(Plan.objects.values_list("slug", "enabled")) == [
        ("cluster-small", True),
        ("cluster-large", True),
        ("cluster-gpu", False),
    ]
    large = Flavour.objects.get(name="large")
    assert (large.cores, large.memory, large.disk, large.gpus) == (8, 32 * GIB, 50 * GIB, 0)
    image = Image.objects.get()
    assert image.options == {"command": ["/opt/jupyter/bin/start-pod"]}
    assert image.services == [{"name": "jupyter", "port": 8888, "probe": "/api/status", "required": True}]


def test_what_a_file_leaves_out_has_a_default(offer):
    facility = FacilityFactory(slug="xfel")
    said = offer(WHOLE.replace("\n[[images", '\nfacility = "xfel"\n[[images', 1))
    plan = Plan.objects.select_related("image__provider", "flavour").get()
    assert (plan.position, plan.enabled, plan.flavour.disk, plan.flavour.gpus) == (0, True, 0, 0)
    assert plan.image.provider.facility == facility
    assert plan.image.services[0]["port"] == 8888
    assert "new flavour small: cores 1; memory 2 GiB\n" in said
    assert said.endswith("cloud: 4 changed.\n")


def test_the_second_time_nothing_changes_and_that_is_said(offer):
    offer(WHOLE)
    before = rows()
    assert offer(WHOLE) == "cloud: nothing to change.\n"
    assert rows() == before
    assert AuditEvent.objects.filter(action="provider.offer").count() == 1


def test_a_dry_run_says_the_same_and_writes_nothing(offer):
    dry = offer(WHOLE, "--dry-run")
    assert rows() == [[], [], [], []]
    assert not AuditEvent.objects.exists()
    wet = offer(WHOLE)
    assert dry.splitlines()[:-1] == wet.splitlines()[:-1]
    assert "4 would change; nothing was written" in dry


def test_each_change_is_a_line(offer):
    offer(WHOLE)
    said = offer(WHOLE.replace("2 GiB", "4 GiB").replace('"Small"', '"Smaller"') + "enabled = false\n")
    assert said.splitlines() == [
        "flavour small: memory 2 GiB → 4 GiB",
        "plan cloud-small: enabled yes → no",
        "plan cloud-small: name Small → Smaller",
        "cloud: 3 changed.",
    ]
    assert Flavour.objects.get().memory == 4 * GIB
    assert not Plan.objects.get().enabled


def test_what_was_made_is_noted_without_a_value(offer):
    offer(CLUSTER)
    offer(CLUSTER.replace("/etc/a.conf", "/etc/b.conf"))
    first, second = AuditEvent.objects.filter(action="provider.offer").order_by("pk")
    assert (first.object_type, first.object_id, first.actor_uid) == ("provider", "cluster", None)
    assert first.detail == {"made": ["provider cluster"], "changed": []}
    assert second.detail == {"made": [], "changed": ["provider cluster: options"]}


# ---- what it leaves alone ----
def test_what_was_added_elsewhere_stays_and_is_said(offer):
    offer(WHOLE)
    row = Provider.objects.get()
    ImageFactory(provider=row, name="imported")
    FlavourFactory(provider=row, name="imported")
    PlanFactory(slug="of-another-provider")
    said = offer(WHOLE)
    assert "not in this file, and left alone: 1 images, 1 flavours." in said
    assert "of-another-provider" not in said
    assert Plan.objects.get(slug="of-another-provider").enabled


def test_a_plan_takes_an_image_that_was_imported(offer):
    row = ProviderFactory(name="cloud", facility=None)
    image = ImageFactory(provider=row, name="Jupyter", reference="by-import")
    offer(HEAD + FLAVOUR + PLAN)
    assert Plan.objects.get().image == image
    image.refresh_from_db()
    assert image.reference == "by-import"


def test_a_plan_that_is_left_out_stays_on_offer_and_what_to_do_is_said(offer):
    offer(WHOLE)
    before = rows()
    said = offer(HEAD + IMAGE + FLAVOUR)
    assert "plan cloud-small is not in this file and stays on offer" in said
    assert "with enabled = false" in said
    assert rows() == before
    offer(WHOLE + "enabled = false\n")
    assert "cloud-small" not in offer(HEAD + IMAGE + FLAVOUR), "what is not on offer needs no word"


def test_how_many_instances_a_change_is_about_is_said(offer):
    offer(WHOLE)
    InstanceFactory(plan=Plan.objects.get(), facility=FacilityFactory())
    InstanceFactory(plan=Plan.objects.get(), state="deleted", facility=FacilityFactory())
    InstanceFactory()
    other = FLAVOUR.replace("small", "large")
    said = offer(HEAD + IMAGE + FLAVOUR + other + PLAN.replace('"small"', '"large"'))
    assert "plan cloud-small: flavour small → large" in said
    assert "plan cloud-small: new instances get what it is now; 1 made by it keep their machine" in said
    services = 'services = [{ name = "lab", port = 1 }]\n'
    said = offer(HEAD + IMAGE.replace('"jupyter"', '"newer"') + services + FLAVOUR + PLAN.replace('"small"', '"large"'))
    assert "image Jupyter: reference jupyter → newer" in said
    assert "1 are asked for the new services" in said
    assert "flavour small" not in said, "nothing was made by what has not changed"


# ---- what a check has kept ----
def test_what_a_check_has_kept_stays_with_the_place_it_is_of(offer):
    assert "not known yet: namespace_uid, isolation. Run: manage.py check_provider cluster --confirm" in offer(CLUSTER)
    kept = {"namespace_uid": "u-1", "isolation": "seen"}
    row = Provider.objects.get()
    Provider.objects.update(options=row.options | kept)
    said = offer(CLUSTER + 'home_class = "lab"\n')
    assert said == "provider cluster: options, home_class none → lab\ncluster: 1 changed.\n"
    row.refresh_from_db()
    assert row.options.items() >= kept.items()


@pytest.mark.parametrize(
    "elsewhere",
    [
        CLUSTER.replace('"beamport"', '"other"'),
        CLUSTER.replace("/etc/a.conf", "/etc/b.conf"),
        CLUSTER + 'context = "other"\n',
        CLUSTER.replace('kubeconfig = "/etc/a.conf"\n', ""),
    ],
    ids=["namespace", "file", "context", "pod"],
)
def test_another_place_has_to_be_confirmed_again(offer, elsewhere):
    offer(CLUSTER)
    row = Provider.objects.get()
    Provider.objects.update(options=row.options | {"namespace_uid": "u-1", "isolation": "seen"})
    HomeFactory(provider=row, facility=FacilityFactory())
    said = offer(elsewhere)
    assert "options, namespace_uid u-1 → none" in said
    assert "0 instances and 1 homes of cluster are where it was" in said
    assert "check_provider cluster --confirm" in said
    row.refresh_from_db()
    assert not {"namespace_uid", "isolation"} & row.options.keys()


def test_what_a_file_says_of_the_place_goes_first(offer):
    offer(CLUSTER)
    row = Provider.objects.get()
    Provider.objects.update(options=row.options | {"namespace_uid": "u-1", "isolation": "seen"})
    offer(CLUSTER + 'isolation = "assured"\n')
    row.refresh_from_db()
    assert (row.options["namespace_uid"], row.options["isolation"]) == ("u-1", "assured")
    offer(CLUSTER + 'namespace_uid = "u-2"\n')
    row.refresh_from_db()
    assert row.options["namespace_uid"] == "u-2"
    assert "isolation" not in row.options, "what was seen in one namespace is not known of another"


def test_a_provider_with_instances_or_homes_keeps_its_kind_and_is_better_drained(offer):
    offer(WHOLE)
    offer('name = "cloud"\nkind = "local"\n')  # nothing is on it yet
    offer(WHOLE)
    InstanceFactory(plan=Plan.objects.get(), facility=FacilityFactory())
    with pytest.raises(CommandError, match="kind: cloud is of kind memory and has 1 instances"):
        offer('name = "cloud"\nkind = "local"\n')
    assert "nobody looks after 1 instances and 0 homes" in offer(WHOLE.replace("\n[[", "\nenabled = false\n[[", 1))


# ---- bad files ----
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["name: is missing.", "kind: is missing."]),
        ('name = "cloud"\nkind =\n', ["is no TOML: Invalid value (at line 2, column 7)."]),
        (b'name = "\xff"', ["is no text in UTF-8."]),
        ("a = " + "[" * 100_000, ["is nested too deeply."]),
        ("a = " + "9" * 5000, ["is no TOML"]),
        (
            'name = "a b"\nkind = "cloud"\n',
            ["name: must be letters", "kind: must be one of: kubernetes, local, memory."],
        ),
        (
            'name = 7\nkind = ["memory"]\nenabled = "no"\n',
            ["name: must be a text", "kind: must", "enabled: must be true"],
        ),
        (HEAD + 'facility = "nowhere"\n', ["facility: there is no nowhere."]),
        (HEAD + 'plan = "x"\n', ["plan: no such key. Is plans meant?"]),
        (HEAD + "[options]\nproduction = false\n", ["options, production: no such key."]),
        (HEAD + "[options]\nphases = ['dancing']\n", ["options, phases no. 1: must be one of"]),
        (HEAD + "options = 5\nimages = {}\n", ["options: must be a table.", "images: must be a list"]),
        (HEAD + "images = [1]\n", ["images no. 1: must be a table."]),
        (HEAD + IMAGE + "services = [{name = 'a', port = 0}, {name = 'a', port = 70000}]\n", ["services no. 2, port"]),
        (HEAD + IMAGE + "services = [{name = 'a', port = 1}, {name = 'a', port = 2}]\n", ["no. 1 has it already"]),
        (HEAD + IMAGE + "[images.options]\ncommand = ['x']\n", ["images no. 1, options, command: no such key."]),
        (HEAD + IMAGE.replace("Jupyter", "a\\u001b[2Jb"), ["images no. 1, name: must be a text of one line"]),
        (HEAD + IMAGE.replace("Jupyter", "x" * 101), ["images no. 1, name: must be a text of one line and 1 to 100"]),
        (HEAD + IMAGE * 2, ["images no. 2, name: no. 1 has it already."]),
        (HEAD + FLAVOUR.replace("cores = 1", "cores = -1"), ["flavours no. 1, cores: must be a number above 0"]),
        (HEAD + FLAVOUR.replace("cores = 1", "cores = nan"), ["flavours no. 1, cores: must be a number above 0"]),
        (HEAD + FLAVOUR.replace("cores = 1", "cores = 0.001"), ["flavours no. 1, cores: must have at most two"]),
        (HEAD + FLAVOUR.replace("cores = 1", "cores = true"), ["flavours no. 1, cores: must be a number above 0"]),
        *(
            (HEAD + FLAVOUR.replace('"2 GiB"', bad), ["flavours no. 1, memory: must be a size like"])
            for bad in (
                "-1",
                '"-1 GiB"',
                "0",
                "inf",
                "nan",
                "1e300",
                "9" * 400,
                '"4 GB"',
                "true",
                '"999999999 TiB"',
                "[]",
            )
        ),
        (HEAD + FLAVOUR + "gpus = -1\n", ["flavours no. 1, gpus: must be a whole number from 0 to 1000."]),
        (HEAD + FLAVOUR + "gpus = 1.5\n", ["flavours no. 1, gpus: must be a whole number"]),
        (WHOLE + PLAN, ["plans no. 2, slug: no. 1 has it already."]),
        (WHOLE + "position = 99999999999\n", ["plans no. 1, position: must be a whole number"]),
        (
            WHOLE.replace('image = "J', 'image = "j'),
            ["plans no. 1, image: cloud has no image jupyter. Is Jupyter meant?"],
        ),
        (HEAD + PLAN, ["plans no. 1, image: cloud has no image", "plans no. 1, flavour: cloud has no flavour small."]),
        (CLUSTER + 'home_clas = "x"\n', ["options, home_clas: no such key. Is home_class meant?"]),
        (CLUSTER + 'token = "s3cret-s3cret"\n', ["options, token: no such key."]),
        (CLUSTER.replace('namespace = "beamport"\n', ""), ["options, namespace: is missing."]),
        (CLUSTER.replace('"/etc', '"etc'), ["options, kubeconfig: must be an absolute path."]),
        (
            CLUSTER + 'uid = "root"\ngid = 1e9\nuser_namespaces = 1\n',
            ["options, uid:", "options, gid:", "options, user_n"],
        ),
        (CLUSTER + "scratch_size = 10\n", ["options, scratch_size: must be a size like"]),
        (CLUSTER + "data = [{prefix = '/a'}]\n", ["options, data no. 1: must name either a claim or a csi volume."]),
        (
            CLUSTER + "data = [{prefix = '/a', claim = 'c', hostPath = '/'}]\n",
            ["options, data no. 1, hostPath: no such"],
        ),
        (
            CLUSTER + "data = [{prefix = '/a', csi = {driver = 1979-05-27}}]\n",
            ["options, data no. 1, csi, driver: must"],
        ),
        (CLUSTER + IMAGE, ["images no. 1, reference: must be an image of a registry"]),
        (
            CLUSTER + IMAGE + "options = {comand = ['x']}\n",
            ["images no. 1, options, comand: no such key. Is command meant?"],
        ),
    ],
    ids=itertools.count(),
)
def test_a_bad_file_is_refused_with_the_place(offer, text, said):
    with pytest.raises(CommandError) as refused:
        offer(text)
    words = str(refused.value)
    assert "offer.toml: nothing was changed." in words
    for one in said:
        assert one in words
    assert "s3cret" not in words, "what was written is not repeated"
    assert "\x1b" not in words
    assert refused.value.returncode == 1
    assert rows() == [[], [], [], []]


def test_a_file_that_cannot_be_read(db, tmp_path):
    for path, why in ((tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(CommandError, match=f"cannot be read: {why}"):
            call_command("offer", str(path))


def test_machines_in_memory_are_of_the_demo_alone(offer, settings):
    settings.PROVIDER_KINDS = {kind: path for kind, path in settings.PROVIDER_KINDS.items() if kind != "memory"}
    with pytest.raises(CommandError, match="kind: must be one of: kubernetes, local"):
        offer(WHOLE)


def test_a_kind_whose_client_is_not_installed_says_so(offer, settings):
    settings.PROVIDER_KINDS = settings.PROVIDER_KINDS | {"kubernetes": "instances.providers.nowhere.Provider"}
    with pytest.raises(CommandError, match=r"kind: .*requirements/kubernetes\.txt"):
        offer(CLUSTER)


def test_a_plan_of_another_provider_is_not_taken_over(offer):
    other = PlanFactory(slug="cloud-small")
    with pytest.raises(CommandError, match=f"plans no. 1, slug: cloud-small is a plan of .*{other.image.provider}"):
        offer(WHOLE)
    assert not Provider.objects.filter(name="cloud").exists(), "all or nothing"
    other.refresh_from_db()
    assert other.name != "Small"


def test_what_this_host_offers_takes_over_no_plan_either(db):
    PlanFactory(slug="jupyter-small")
    facility = FacilityFactory()
    with pytest.raises(CommandError, match="jupyter-small is a plan of the provider"):
        call_command("offer_local", facility.slug)
    assert not Provider.objects.filter(kind="local").exists()


# ---- at the same moment ----
@pytest.fixture(scope="module")
def racers():
    racers = Racers(6)
    yield racers
    racers.close()


def applied(path):
    """Run the command over a file, and return its last line."""
    out = StringIO()
    call_command("offer", str(path), stdout=out)
    return out.getvalue().splitlines()[-1]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("round_", ROUNDS)
def test_offers_at_the_same_moment_make_each_row_once(racers, tmp_path, round_):
    """Of one file one run makes all and the others nothing; of two providers that want the same slugs one wins."""
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    second = PLAN.replace("cloud-small", "cloud-also")
    one.write_text(WHOLE + second)
    other.write_text((HEAD + IMAGE + FLAVOUR + second + PLAN).replace('"cloud"', '"second"'))
    ended = racers.run(lambda: applied(one), lambda: applied(one), lambda: applied(other))
    assert {type(end) for end in ended} <= {str, CommandError}, ended
    said = [end for end in ended if isinstance(end, str)]
    assert sum("5 changed" in line for line in said) == 1
    assert {line for line in said if "changed" not in line} <= {
        "cloud: nothing to change.",
        "second: nothing to change.",
    }
    assert [model.objects.count() for model in (Provider, Image, Flavour, Plan)] == [1, 1, 1, 2]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("round_", ROUNDS)
def test_two_files_of_one_provider_are_never_mixed(racers, tmp_path, round_):
    before, one, other = (tmp_path / f"{name}.toml" for name in ("before", "one", "other"))
    before.write_text(WHOLE)
    one.write_text(WHOLE.replace('"jupyter"', '"newer"'))
    other.write_text(WHOLE.replace("2 GiB", "4 GiB"))
    applied(before)
    ended = racers.run(lambda: applied(one), lambda: applied(other))
    assert {type(end) for end in ended} == {str}, ended
    assert (Image.objects.get().reference, Flavour.objects.get().memory) in {("newer", 2 * GIB), ("jupyter", 4 * GIB)}
