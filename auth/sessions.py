"""Django's session engine over `Session` rows (settings.SESSION_ENGINE).

The database keeps only the SHA-256 of the key. A row that is gone, ended or expired is never written again: saving
it fails, so that a request in flight cannot bring a dead session back.
"""

from __future__ import annotations

from copy import deepcopy
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import VALID_KEY_CHARS, CreateError, SessionBase, UpdateError
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.crypto import get_random_string

from auth import access
from auth.models import LoginState, Session, UsedLogoutToken
from portal.lib.clock import Now
from portal.lib.hashing import digest

#: the session's entry that names the identity somebody signed in with
IDENTITY_KEY = "_identity"
#: ended and expired rows stay this long, so that every gateway hears of them
KEEP_ENDED = timedelta(days=1)


class SessionStore(SessionBase):
    row: Session | None = None
    #: what the row holds of this, as far as we know
    _written: dict[str, Any] | None = None

    if TYPE_CHECKING:  # what the base class has and its type stubs leave out
        _session: dict[str, Any]

        def _get_session(self, no_load: bool = False) -> dict[str, Any]: ...

    def load(self) -> dict[str, Any]:
        key = self.session_key
        self.row = access.live_session(digest(key)) if key is not None else None
        if self.row is None:
            self._session_key = None
            return {}
        self._written = deepcopy(self.row.data)
        return dict(self.row.data)

    def live_row(self) -> Session | None:
        """Return the row behind this browser's session, if there is one."""
        self._get_session()
        return self.row

    def ensure_row(self) -> Session:
        """Return the row, made when something has to be noted for a visitor."""
        row = self.live_row()
        if row is None:
            self.create()
            row = self.row
        assert row is not None  # noqa: S101  (create has just set it)
        return row

    def _get_new_session_key(self) -> str:
        """A key of 165 random bits; the constraint would say if there were one like it."""
        return get_random_string(32, VALID_KEY_CHARS)

    def exists(self, session_key: str) -> bool:
        return Session.objects.filter(key_hash=digest(session_key)).exists()

    def create(self) -> None:
        while True:
            self._session_key = self._get_new_session_key()
            try:
                self.save(must_create=True)
            except CreateError:
                continue
            self.modified = True
            return

    def save(self, must_create: bool = False, **columns: Any) -> None:
        """Write what has changed, and these columns of the row with it; what is written already is not again."""
        key = self.session_key
        if key is None:
            return self.create()
        data = dict(self._get_session(no_load=must_create))
        values = {"data": data, "user_id": data.get(SESSION_KEY), "identity_id": data.get(IDENTITY_KEY), **columns}
        if must_create:
            self.row = self._insert(digest(key), values)
        elif (columns or data != self._written) and not _live(key).update(**values):
            raise UpdateError
        self._written = deepcopy(data)
        return None

    @staticmethod
    def _insert(key_hash: str, values: dict[str, Any]) -> Session:
        try:
            with transaction.atomic():
                return Session.objects.create(key_hash=key_hash, expires_at=Now() + settings.SESSION_ABSOLUTE, **values)
        except IntegrityError as error:
            raise CreateError from error

    def cycle_key(self) -> None:
        """Change the key of the same row: what hangs on it stays, a key known before is worth nothing.

        What the browser has of a row that has died meanwhile is not carried into a new one.
        """
        data, old = self._session, self.session_key
        if old is None:
            self.create()
            self._session_cache = data
        elif not self._change_key(old):
            raise UpdateError

    def renew_key_if_due(self) -> None:
        """Change the key where a new role asks for it. Of several pages at once one does; the others are shown too."""
        row, old = self.live_row(), self.session_key
        if row is not None and row.key_due and old is not None:
            self._change_key(old)

    def _change_key(self, old: str) -> bool:
        """Return whether it was changed: of several at once by one, and never in a dead row."""
        new = self._get_new_session_key()
        if not _live(old).update(key_hash=digest(new), key_due=False):
            return False
        self._session_key = new
        self.modified = True
        return True

    def is_empty(self) -> bool:
        """Whether the browser is to drop its cookie: only when something ended here.

        A request that was on its way while the key changed must not take the new one from the browser.
        """
        return self.modified and super().is_empty()

    async def acycle_key(self) -> None:
        await sync_to_async(self.cycle_key)()

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            access.end(Session.objects.filter(key_hash=digest(key)))
            self.row = None

    def get_session_cookie_age(self) -> int:
        """The cookie lives as long as a session can; the row decides."""
        return int(settings.SESSION_ABSOLUTE.total_seconds())

    @classmethod
    def clear_expired(cls) -> None:
        forget_expired()


def _live(key: str) -> QuerySet[Session]:
    return access.live_sessions().filter(key_hash=digest(key))


def store_of(request: HttpRequest) -> SessionStore:
    store = request.session
    assert isinstance(store, SessionStore)  # noqa: S101  (settings.SESSION_ENGINE)
    return store


def forget_expired() -> None:
    """Delete rows that have lost all meaning; sessions a while later, so that every gateway hears of their end."""
    Session.objects.filter(expires_at__lt=Now() - KEEP_ENDED).delete()
    Session.objects.filter(ended_at__lt=Now() - KEEP_ENDED).delete()
    LoginState.objects.filter(created_at__lt=Now() - KEEP_ENDED).delete()
    UsedLogoutToken.objects.filter(expires_at__lt=Now()).delete()
