"""A browser without scripts, for pages that were not written for us: cookies, redirects, pages that move on, forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.cookies import get_cookie_header

MOST_STEPS = 20


class Stuck(AssertionError):
    """There is no way on from this page."""


@dataclass
class Form:
    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)


class _Forms(HTMLParser):
    """Collects the forms of a page; a control may name the form it belongs to (`form=`)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Form] = []
        self._by_id: dict[str, Form] = {}
        self._open: Form | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._open = Form(given.get("action", ""), given.get("method", "get").upper())
            self._by_id[given.get("id", "")] = self._open
            self.found.append(self._open)
        elif tag in ("input", "button"):
            form = self._by_id.get(given["form"]) if "form" in given else self._open
            if form is not None:
                _add(form, tag, given)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None


def _add(form: Form, tag: str, given: dict[str, str]) -> None:
    name, value = given.get("name", ""), given.get("value", "")
    kind = given.get("type", "submit" if tag == "button" else "text")
    if kind in ("submit", "image", "button"):
        form.buttons.append((name, value))
    elif name and (kind not in ("checkbox", "radio") or "checked" in given):
        form.fields[name] = value


@dataclass
class Page:
    """Where the visitor has come to rest."""

    url: str
    status: int
    text: str
    forms: list[Form]

    def asks_for(self, name: str) -> bool:
        return any(name in form.fields for form in self.forms)


class Visitor:
    def __init__(self, authority: Path) -> None:
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = str(authority)
        # as browsers do for this machine itself: cookies that are `Secure` travel over http too
        self.session.cookies.set_policy(DefaultCookiePolicy(secure_protocols=("https", "http")))
        #: every address that was asked for, in order
        self.trail: list[str] = []

    def open(self, url: str) -> Page:
        return self._go("GET", url)

    def fill_in(self, page: Page, **values: str) -> Page:
        """Fill in the form that has all these fields and send it off by its first button."""
        form = self._find(page, lambda form: values.keys() <= form.fields.keys(), f"no form for {sorted(values)}")
        pressed = [(name, value) for name, value in form.buttons[:1] if name]
        return self._send(page, form, {**dict(pressed), **values})

    def press(self, page: Page, *, to: str = "", button: tuple[str, str] | None = None) -> Page:
        """Send the form off that leads to this path, or has this button (name, value)."""

        def is_meant(form: Form) -> bool:
            return to in urlsplit(form.action).path and (button is None or button in form.buttons)

        form = self._find(page, is_meant, f"no form to {to!r} with the button {button}")
        return self._send(page, form, dict([button] if button else []))

    def ask(self, method: str, url: str, form: dict[str, str] | None = None, **headers: str) -> requests.Response:
        """One request, wherever its answer leads."""
        # Requests would choose the cookies by a policy of its own
        cookies = get_cookie_header(self.session.cookies, requests.Request(method, url).prepare())
        if cookies:
            headers["Cookie"] = cookies
        return self.session.request(method, url, data=form, headers=headers, allow_redirects=False, timeout=30)

    def _find(self, page: Page, is_meant: Any, complaint: str) -> Form:
        for form in page.forms:
            if is_meant(form):
                return form
        raise Stuck(f"{complaint} at {page.url} ({page.status}):\n{page.text[:3000]}")

    def _send(self, page: Page, form: Form, values: dict[str, str]) -> Page:
        target = urljoin(page.url, form.action)
        filled = {**form.fields, **values}
        if form.method == "GET":
            return self._go("GET", requests.Request("GET", target, params=filled).prepare().url or target)
        return self._go("POST", target, filled, origin=_origin(page.url))

    def _go(self, method: str, url: str, form: dict[str, str] | None = None, origin: str = "") -> Page:
        for _ in range(MOST_STEPS):
            self.trail.append(url)
            answer = self.ask(method, url, form, **({"Origin": origin} if origin else {}))
            onward = _onward(answer)
            if onward is None:
                forms = _Forms()
                forms.feed(answer.text)
                return Page(url, answer.status_code, answer.text, forms.found)
            method, url, form, origin = "GET", urljoin(url, onward), None, ""
        raise Stuck(f"it never ends: {self.trail[-MOST_STEPS:]}")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _onward(answer: requests.Response) -> str | None:
    """Where the answer itself leads: a redirect, or a page that moves on by `Refresh`."""
    if answer.is_redirect:
        assert answer.status_code not in (307, 308), "a redirect that repeats the form"
        return answer.headers["Location"]
    delay, found, url = answer.headers.get("Refresh", "").partition("; url=")
    return url if found and delay == "0" else None
