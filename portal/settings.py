"""Django settings. Everything that differs between sites comes from the environment; see docs/reference/settings.md."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.backoff import NoBackoff
from redis.retry import Retry

from portal import env, stores
from portal.lib import hsts

BASE_DIR = Path(__file__).resolve().parent.parent

# ---- where things lie ----
STATE_DIR = Path(env.text("BEAMPORT_STATE", "/var/lib/beamport" if os.geteuid() == 0 else str(BASE_DIR / "var")))
RUN_DIR = STATE_DIR / "run"
SECRETS_DIR = STATE_DIR / "secrets"
#: touched each second by a worker that works (portal.lib.beat)
WORKER_BEAT = Path(env.text("WORKER_BEAT", str(RUN_DIR / "back" / "worker.beat")))
DEMO = env.flag("BEAMPORT_DEMO")


def _secret(name: str, default: str | None = None) -> str:
    """The environment's value or file, else the file that `manage.py up` made under secrets/."""
    return env.text(name, default, made=SECRETS_DIR)


SECRET_KEY = _secret("SECRET_KEY")
INSTANCE_KEY = _secret("INSTANCE_KEY").encode()
GATEWAY_TOKEN = _secret("GATEWAY_TOKEN")
DEPLOYMENT_ID = _secret("DEPLOYMENT_ID")

# ---- addresses ----
PORTAL_URL = env.text("PORTAL_URL", f"http://localhost:{env.number('PORT', 8000)}").rstrip("/")
_portal = urlsplit(PORTAL_URL)
APPS_DOMAIN = env.text("APPS_DOMAIN", f"apps.{_portal.netloc}")  # with port, without scheme
ALLOWED_HOSTS = [_portal.hostname or ""]
CSRF_TRUSTED_ORIGINS: list[str] = []
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
# the gateway is the only way in and sets the address it saw (it drops what clients send)
USE_X_FORWARDED_HOST = False

DEBUG = False
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-gb"
USE_I18N = True
ROOT_URLCONF = "portal.urls"
ASGI_APPLICATION = "portal.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
APPEND_SLASH = True

INSTALLED_APPS = [
    "auth.apps.AccountsConfig",
    "experiments.apps.ExperimentsConfig",
    "instances.apps.InstancesConfig",
    "portal.apps.PortalConfig",
    "django.contrib.admin.apps.SimpleAdminConfig",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "rest_framework",
    "drf_spectacular",
    "django_filters",
    "django_htmx",
    "channels",
]

MIDDLEWARE = [
    "portal.middleware.SecurityHeaders",
    "csp.middleware.CSPMiddleware",
    "portal.middleware.RequestId",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "portal.middleware.Utf8Only",
    "portal.middleware.FetchMetadataGate",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "auth.middleware.SessionPolicy",
    "django.contrib.messages.middleware.MessageMiddleware",
    "auth.policies.AcceptedPolicies",
    "portal.middleware.Problems",
    "django_htmx.middleware.HtmxMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "portal" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "portal.context.portal",
                "auth.context.sign_in",
            ],
        },
    }
]
FORM_RENDERER = "django.forms.renderers.DjangoTemplates"


# ---- stores ----
DATABASES = {"default": stores.database(env.text("DATABASE_URL", ""), RUN_DIR / "back")}
DATABASE_ROUTERS: list[str] = []

REDIS_URL = env.text("REDIS_URL", "") or f"unix://{RUN_DIR}/back/redis.sock"
CELERY_BROKER_URL = stores.broker(REDIS_URL)
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_timeout": 5,
    "socket_connect_timeout": 0.5,
    "visibility_timeout": 3600,
}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = False  # the database is the queue: a lost task costs one sweep
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_REDIRECT_STDOUTS = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # the worker's ticker needs no broker: never give up for want of one
CELERY_WORKER_PREFETCH_MULTIPLIER = 1

CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        # once: what the cache would spare is not worth more than half a second of somebody's time
        "OPTIONS": {"socket_timeout": 0.5, "socket_connect_timeout": 0.5, "retry": Retry(NoBackoff(), 0)},
    }
}

# ---- people ----
AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["auth.backends.PortalOIDCBackend"]
LOGIN_URL = "accounts:sign-in"
LOGIN_REDIRECT_URL = "/"
SESSION_ENGINE = "auth.sessions"
SESSION_COOKIE_NAME = "__Host-sid"
SESSION_COOKIE_SECURE = True
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_IDLE = timedelta(hours=2)
SESSION_ABSOLUTE = timedelta(hours=12)
SESSION_ABSOLUTE_PRIVILEGED = timedelta(hours=4)  # of admins and operators
#: accounts that nobody uses lose what providers said of them, and are forgotten (auth/unused.py); 0: never
UNUSED_LAPSE = timedelta(days=env.number("UNUSED_LAPSE_DAYS", 396))
UNUSED_FORGET = timedelta(days=env.number("UNUSED_FORGET_DAYS", 730))
CSRF_COOKIE_NAME = "__Host-csrf"
CSRF_COOKIE_SECURE = True
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "portal.views.csrf_failure"
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"

#: the OpenID providers that people sign in with (auth/providers_file.py)
PROVIDERS_FILE = env.text("BEAMPORT_PROVIDERS", "")
DEMO_PROVIDER: dict[str, Any] = (
    {
        "slug": "demo",
        "title": "Demo account",
        "description": "Made-up people of this demo: scientist, pi, colleague, operator.",
        "issuer": f"http://127.0.0.1:{env.number('PORT', 8000) + 1}",
        "client_id": "beamport",
        "client_secret": _secret("OIDC_CLIENT_SECRET", ""),
        "facility_claims": {"facility_person_id": "xfel"},
    }
    if DEMO
    else {}
)
#: the demo only, `<facility>/<person's id>=<role>`: its made-up people bring their roles
PERSON_ROLES = env.words("PERSON_ROLES", "xfel/X-1003=operator") if DEMO else []

# ---- administration ----
#: networks from which /admin/ may be opened; none named: everywhere
ADMIN_NETWORKS = env.words("ADMIN_NETWORKS")
#: what a provider may say of how somebody signed in (`acr`), for /admin/ to open; none named: anything
ADMIN_ACR = env.words("ADMIN_ACR")

# ---- transport and content ----
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = 0 if DEMO else hsts.SECONDS
X_FRAME_OPTIONS = "DENY"
SECURE_HSTS_INCLUDE_SUBDOMAINS = True
#: W001, W002: portal.middleware.SecurityHeaders sets these headers, on errors too; the gateway ends plain http
SILENCED_SYSTEM_CHECKS = ["security.W001", "security.W002"]
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "object-src": ["'none'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
        # it governs all redirects after a form: sign-in therefore begins and ends with a page, not a redirect
        "form-action": ["'self'"],
    }
}

STATIC_URL = "static/"
STATIC_ROOT = Path(env.text("STATIC_ROOT", str(STATE_DIR / "static")))
STATICFILES_DIRS = [BASE_DIR / "portal" / "static", BASE_DIR / "frontend" / "static"] + (
    [("vendor", BASE_DIR / "frontend" / "vendor")] if (BASE_DIR / "frontend" / "vendor").is_dir() else []
)
STATICFILES_DIRS = [entry for entry in STATICFILES_DIRS if isinstance(entry, tuple) or entry.is_dir()]
WHITENOISE_USE_FINDERS = DEMO
if not DEMO:  # collected once; names that say what is in them may be kept for ever
    STORAGES = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
    }
WHITENOISE_ALLOW_ALL_ORIGINS = False

#: a form or a JSON body; ten times the longest that means something, and cheap to read whatever is in it
DATA_UPLOAD_MAX_MEMORY_SIZE = 262_144

# ---- API ----
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "auth.api.TokenAuthentication",
        "auth.api.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated", "auth.api.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["portal.api.StrictJSON"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_PAGINATION_CLASS": "portal.api.Page",
    "EXCEPTION_HANDLER": "portal.problems.drf_handler",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Beamport",
    "DESCRIPTION": "Instances, experiments and plans of a remote analysis portal.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
}

# ---- experiments ----
#: the Python that European XFEL runs are opened with once, at import: the analysis image's
EXTRA_DATA_PYTHON = env.text("EXTRA_DATA_PYTHON", str(STATE_DIR / "images" / "jupyter" / "bin" / "python"))

# ---- instances ----
PROVIDER_KINDS = {
    "local": "instances.providers.local.LocalProvider",
    "kubernetes": "instances.providers.kubernetes.KubernetesProvider",  # with the extra of this name
}
if DEMO:  # machines that are nothing but a row: for the tests
    PROVIDER_KINDS["memory"] = "instances.providers.memory.MemoryProvider"
SUPERVISOR_SOCKET = env.text("SUPERVISOR_SOCKET", str(RUN_DIR / "supervisor" / "supervisor.sock"))
INTERNAL_URL = env.text("INTERNAL_URL", f"unix://{RUN_DIR}/front/internal.sock")
HOME_LIMIT = env.number("HOME_LIMIT_GIB", 10) * 2**30
INSTANCE_DEADLINE = timedelta(seconds=env.number("INSTANCE_DEADLINE_SECONDS", 180))

# ---- logs ----
LOG_LEVEL = env.text("LOG_LEVEL", "INFO")
LOGGING_CONFIG = "portal.logs.configure"
LOGGING: dict[str, object] = {"version": 1}  # Django calls LOGGING_CONFIG only with something in it
