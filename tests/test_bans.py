"""What our code may not contain, found in its syntax; each ban with what may stand all the same, and why.

Linters look at the general case (ruff's rules S, B and DJ run with the other checks); these are this house's rules.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Ban:
    """`sees` tells whether a piece of syntax is what is banned; `allowed` names files where it may be, and why."""

    name: str
    sees: Callable[[ast.AST], bool]
    samples: tuple[str, ...]
    allowed: dict[str, str] = field(default_factory=dict)
    #: what looks like it and is fine
    fine: tuple[str, ...] = ()


# ---- reading syntax ----


def dotted(node: ast.AST | None) -> str:
    """The name of `a.b.c` or of what is called; empty for anything else."""
    if isinstance(node, ast.Call):
        return dotted(node.func)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def last(node: ast.AST | None) -> str:
    return dotted(node).rpartition(".")[2]


def imported(node: ast.AST) -> set[str]:
    """Every module and name that an import statement brings, dotted."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom) and not node.level:
        return {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return set()


def imports(*modules: str) -> Callable[[ast.AST], bool]:
    return lambda node: any(
        name == module or name.startswith(module + ".") for name in imported(node) for module in modules
    )


def names(*words: str) -> Callable[[ast.AST], bool]:
    """These words as a name, an attribute, an import or in a text that names code (`rest_framework.….AllowAny`)."""

    def sees(node: ast.AST) -> bool:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return bool(re.fullmatch(r"[\w.]+", node.value)) and node.value.rpartition(".")[2] in words
        mine = {node.attr} if isinstance(node, ast.Attribute) else {node.id} if isinstance(node, ast.Name) else set()
        return bool(set(words) & (mine | {name.rpartition(".")[2] for name in imported(node)}))

    return sees


def calls(*functions: str) -> Callable[[ast.AST], bool]:
    """A call of one of these: `time.sleep` as written, `.raw` as a method of anything, `eval` bare."""

    def sees(node: ast.AST) -> bool:
        if not isinstance(node, ast.Call):
            return False
        name = dotted(node.func)
        method = isinstance(node.func, ast.Attribute) and f".{node.func.attr}"
        return name in functions or method in functions

    return sees


def says(argument: str, value: object) -> Callable[[ast.AST], bool]:
    """A call with this keyword, or an assignment to an attribute of that name."""

    def sees(node: ast.AST) -> bool:
        if isinstance(node, ast.keyword):
            return node.arg == argument and isinstance(node.value, ast.Constant) and node.value.value is value
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.value.value is value:
            return any(isinstance(target, ast.Attribute) and target.attr == argument for target in node.targets)
        return False

    return sees


def either(*tests: Callable[[ast.AST], bool]) -> Callable[[ast.AST], bool]:
    return lambda node: any(test(node) for test in tests)


# ---- the longer ones ----

REDIRECTS = ("redirect", "HttpResponseRedirect", "HttpResponsePermanentRedirect")


def redirects_somewhere(node: ast.AST) -> bool:
    """A redirect whose target is neither a constant, nor the name of a view, nor begins with `reverse(…)`."""
    if not isinstance(node, ast.Call) or last(node) not in REDIRECTS or not node.args:
        return False
    if dotted(node.func).startswith("pages."):
        return False  # the gateway's own; its two targets have tests of their own
    target = node.args[0]
    while isinstance(target, ast.JoinedStr | ast.FormattedValue | ast.Call) and last(target) != "reverse":
        if isinstance(target, ast.JoinedStr):
            target = target.values[0]
        elif isinstance(target, ast.FormattedValue):
            target = target.value
        elif isinstance(target.func, ast.Attribute) and target.func.attr == "rstrip":
            target = target.func.value
        else:
            return True
    if isinstance(target, ast.Constant):
        return not re.match(r"/(?![/\\])|[\w-]+:[\w-]+$", str(target.value))
    return last(target) != "reverse"


def shadows_auth(node: ast.AST) -> bool:
    """`auth` is a package of ours and one of Django's: neither is ever bound to that bare name."""
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] == "auth" and alias.asname is None for alias in node.names)
    return isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == "auth" for a in node.names)


def is_naive(node: ast.AST) -> bool:
    """A time without a zone."""
    if not isinstance(node, ast.Call):
        return False
    zoned = {"now": 1, "fromtimestamp": 2}
    given = len(node.args) + len(node.keywords)
    name = last(node)
    return (
        name in ("utcnow", "utcfromtimestamp")
        or dotted(node.func) in ("date.today", "datetime.today")
        or (
            dotted(node.func) in ("datetime.now", "datetime.fromtimestamp", "datetime.datetime.now")
            and given < zoned[name]
        )
    )


def opens_a_view(node: ast.AST) -> bool:
    """`permission_classes` without IsAuthenticated, or any `authentication_classes`: the settings decide that."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return False
    targets = {dotted(t) for t in (node.targets if isinstance(node, ast.Assign) else [node.target])}
    if "authentication_classes" in targets:
        return True
    inside = {last(item) for item in ast.walk(node.value)}
    return "permission_classes" in targets and "IsAuthenticated" not in inside


def assembles_sql(node: ast.AST) -> bool:
    """`execute()` with anything but a constant."""
    return calls(".execute", ".executemany")(node) and not isinstance(node.args[0], ast.Constant)  # type: ignore[attr-defined]


BANS = [
    Ban(
        "csrf_exempt",
        names("csrf_exempt"),
        ("@csrf_exempt\ndef v(): ...", "from x import csrf_exempt"),
        allowed={"auth/oidc/backchannel.py": "asked by a provider's server, whose signature counts, not a cookie"},
    ),
    Ban(
        "markup that is not escaped",
        names("mark_safe", "SafeText", "__html__", "html_safe"),
        ("mark_safe('<b>')", "from django.utils.safestring import mark_safe"),
        fine=("format_html('<b>{}</b>', name)",),
    ),
    Ban(
        "TLS without verification",
        either(says("verify", False), says("check_hostname", False), names("CERT_NONE", "_create_unverified_context")),
        ("get(url, verify=False)", "context.check_hostname = False", "context.verify_mode = ssl.CERT_NONE"),
        {"portal/embedded/probes.py": "our own gateway by its loopback address: does it answer?"},
    ),
    Ban(
        "a shell",
        either(says("shell", True), calls("os.system", "os.popen", ".create_subprocess_shell", "subprocess.getoutput")),
        ("run(line, shell=True)", "os.system('ls')", "await asyncio.create_subprocess_shell(line)"),
    ),
    Ban(
        "formats that run code",
        either(imports("pickle", "marshal", "shelve", "dill", "jsonpickle"), calls("yaml.load", "yaml.unsafe_load")),
        ("import pickle", "from pickle import loads", "yaml.load(text)"),
        fine=("yaml.safe_load(text)",),
    ),
    Ban(
        "XML parsers that expand entities",
        imports("xml", "lxml", "xmlrpc"),
        ("import xml.etree.ElementTree", "from xml.dom import minidom"),
        fine=("import defusedxml.ElementTree",),
    ),
    Ban(
        "archives, which name their own paths",
        either(imports("tarfile", "zipfile"), calls(".unpack_archive")),
        ("import tarfile", "shutil.unpack_archive(name)"),
        {"instances/providers/kubernetes/build.py": "packs an image, and unpacks none"},
    ),
    Ban(
        "code made from text",
        calls("eval", "exec", "compile", "__import__"),
        ("eval(text)", "exec(text)", "__import__(name)"),
        fine=("re.compile(text)", "asyncio.create_subprocess_exec(*argv)"),
    ),
    Ban(
        "AllowAny",
        names("AllowAny"),
        ("permission_classes = [AllowAny]", "x = 'rest_framework.permissions.AllowAny'"),
        {"portal/settings.py": "the API's own description is public"},
    ),
    Ban(
        "an API view open to visitors",
        opens_a_view,
        ("permission_classes = [HasScope]", "permission_classes = []", "authentication_classes = []"),
        {"experiments/api.py": "open experiments need no account; visible_to() decides row by row"},
        fine=("permission_classes = [IsAuthenticated, HasScope]",),
    ),
    Ban(
        "SQL by hand",
        either(calls(".raw", ".extra", ".cursor"), names("RawSQL"), assembles_sql),
        ("Row.objects.raw(text)", "rows.extra(where=[text])", "RawSQL(text, [])", "c.execute(f'SELECT {x}')"),
        {
            "portal/lib/clock.py": "clock_timestamp()",
            "portal/health.py": "SELECT 1",
            "auth/restored.py": "what PostgreSQL itself says of cluster, database and table",
            "auth/export.py": "how PostgreSQL writes a duration, for one transaction",
            "instances/measures.py": "one INSERT … ON CONFLICT of many rows from arrays, which the ORM cannot say",
            "instances/usage.py": "one UPDATE of many rows from arrays, which the ORM cannot say",
        },
    ),
    Ban(
        "a redirect to what somebody sent",
        redirects_somewhere,
        (
            "redirect(request.GET['next'])",
            "HttpResponseRedirect(request.path)",
            "redirect(url)",
            "HttpResponseRedirect(f'{url}/x')",
            "redirect('https://example.org')",
            "redirect('//example.org')",
        ),
        {
            "auth/views.py": "what safe_next() let through",
            "auth/account/policies.py": "what safe_next() let through",
            "experiments/views.py": "the address of a row that visible_to() returned",
        },
        fine=("redirect('instances:list')", "HttpResponseRedirect(f\"{reverse('x')}?{urlencode(query)}\")"),
    ),
    Ban(
        "two packages named auth",
        shadows_auth,
        ("import auth", "import auth.urls", "from django.contrib import auth"),
        fine=("from auth import roles", "import auth.urls as account_urls"),
    ),
    Ban(
        "a time without a zone",
        is_naive,
        ("datetime.now()", "datetime.utcnow()", "datetime.fromtimestamp(0)", "date.today()"),
        fine=("datetime.now(UTC)", "datetime.fromtimestamp(0, UTC)", "clock.now()"),
    ),
    Ban(
        "randomness that can be guessed",
        imports("random"),
        ("import random", "from random import choice"),
        fine=("import secrets",),
    ),
    Ban(
        "calls to other hosts",
        either(imports("requests", "urllib.request", "urllib3", "httpx", "http.client", "aiohttp"), calls(".urlopen")),
        ("import requests", "from urllib.request import urlopen", "import http.client"),
        {
            "auth/oidc/http.py": "identity providers of the settings, with deadline, size and address checked",
            "portal/embedded/probes.py": "is what we started ourselves up?",
            "portal/embedded/stack.py": "is what we started ourselves up?",
            "instances/providers/kubernetes/client.py": "the API server of a provider's kubeconfig, by worker alone",
            "deploy/images/agent/agent.py": "asks and answers within a pod, where it has the standard library alone",
        },
        fine=("from urllib.parse import quote",),
    ),
    Ban(
        "waiting while a request waits",
        calls("time.sleep", "sleep"),
        ("time.sleep(1)",),
        {
            "portal/embedded/": "the parent of the processes serves no request",
            "instances/providers/kubernetes/trial.py": "an operator's command",
            "instances/providers/kubernetes/provider.py": "a worker's reboot, until the controller has noticed",
            "deploy/images/agent/agent.py": "a pod's first process, on threads of its own",
        },
        fine=("await asyncio.sleep(1)", "event.wait(1)"),
    ),
]


# ---- looking ----


@functools.cache
def sources(ending: str) -> list[tuple[str, str]]:
    """Every file of ours with that ending: (path, text)."""
    folders = ("portal", "auth", "experiments", "instances", "deploy", "frontend/static")
    found = [path for folder in folders for path in (ROOT / folder).rglob(f"*{ending}")]
    found += [ROOT / "manage.py", ROOT / "frontend/vendor.py"] if ending == ".py" else []
    kept = [path for path in found if not {"node_modules", "demo"} & set(path.relative_to(ROOT).parts)]
    return [(str(path.relative_to(ROOT)), path.read_text()) for path in sorted(kept)]


@functools.cache
def syntax(text: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(text)))


def lines_of(ban: Ban, text: str) -> list[int]:
    return sorted({getattr(node, "lineno", 0) for node in syntax(text) if ban.sees(node)})


def may_have(place: str, name: str) -> bool:
    return name == place or (place.endswith("/") and name.startswith(place))


NAMED = pytest.mark.parametrize("ban", BANS, ids=lambda ban: ban.name)


@NAMED
def test_it_is_nowhere_but_where_it_may_be(ban: Ban) -> None:
    found = {name: lines for name, text in sources(".py") if (lines := lines_of(ban, text))}
    assert {name: lines for name, lines in found.items() if not any(may_have(p, name) for p in ban.allowed)} == {}
    assert [place for place in ban.allowed if not any(may_have(place, name) for name in found)] == [], "not needed"


@NAMED
def test_a_planted_sample_is_found(ban: Ban) -> None:
    assert [sample for sample in ban.samples if not lines_of(ban, sample)] == []
    assert [sample for sample in ban.fine if lines_of(ban, sample)] == []


def test_there_is_code_to_look_at() -> None:
    assert len(sources(".py")) > 100
    assert len(sources(".html")) > 15


# ---- templates and scripts ----

#: what is banned → (what it looks like, a sample)
TEMPLATES = {
    "escaping switched off": (r"\{%\s*autoescape|\|\s*safe(?:seq)?\b", "{{ title|safe }}"),
    "script in the page": (r"<script(?![^>]*\bsrc=)|<[^>]*\son\w+\s*=|javascript:|hx-on|[\"']js:", "<a onclick='x()'>"),
    "style in the page": (r"<style|<[^>]*\sstyle\s*=", "<p style='color: red'>"),
    "a filter of htmx, which needs eval": (r"hx-trigger=\"[^\"]*\[", '<i hx-trigger="click[x]">'),
    "a link that leaks where one was": (r"<a(?=[^>]*target=)(?![^>]*noopener)", '<a target="_blank" href="x">'),
    "something from another host": (
        r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(?:https?:)?//",
        '<img src="//x">',
    ),
}
SCRIPTS = {
    "markup or code made from text": (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|DOMParser",
        "box.innerHTML = text",
    ),
    "something kept for other pages": (r"\blocalStorage\b|\bdocument\.cookie\b|\bindexedDB\b", "localStorage.x = 1"),
    "talking to any window": (r"postMessage\([^)]*[\"']\*[\"']", "window.postMessage(x, '*')"),
}
#: what → scripts that may: the button that was pressed last is nobody's secret
SCRIPTS_THAT_MAY = {"something kept for other pages": ["frontend/static/beamport/sign-in.js"]}


@pytest.mark.parametrize("what", TEMPLATES)
def test_no_template_has(what: str) -> None:
    pattern, sample = TEMPLATES[what]
    assert re.search(pattern, sample)
    assert [name for name, text in sources(".html") if re.search(pattern, text)] == []


@pytest.mark.parametrize("what", SCRIPTS)
def test_no_script_has(what: str) -> None:
    pattern, sample = SCRIPTS[what]
    assert re.search(pattern, sample)
    ours = [(name, text) for name, text in sources(".js") if name.startswith("frontend/static/")]
    assert ours
    assert {name for name, text in ours if re.search(pattern, text)} == {*SCRIPTS_THAT_MAY.get(what, ())}


def unprotected(text: str) -> list[str]:
    """Forms that post without the token that says they are ours."""
    forms = re.findall(r"<form[^>]*method=\"?post.*?</form>", text, re.S | re.I)
    return [form[:80] for form in forms if "{% csrf_token %}" not in form]


def test_every_form_that_posts_carries_the_token() -> None:
    assert unprotected('<form method="post"><button></button></form>')
    assert [name for name, text in sources(".html") if unprotected(text)] == []
    assert sum("csrf_token" in text for _, text in sources(".html")) > 5
