"""Validates KILN_REDIS_URL, adds the password and the CA to it, and translates it for Celery.

redis-py and Celery disagree on URLs: unix sockets have different schemes and options, and Celery checks the certificate
of a `rediss://` server only if the URL says so. All services therefore use one URL, in redis-py's form, and this module
derives Celery's from it.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from shared.errors import InvalidInput

FORMS = "redis://host:6379/0, rediss://host:6379/0 or unix:///path/redis.sock?db=0"
_SCHEMES = ("redis", "rediss", "unix", "redis+socket")  # the last one is Celery's name for unix
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def read_redis_url(url: str, password: str | None = None, ca: Path | None = None) -> str:
    """The URL in the form that redis-py accepts, with the password, unless it has one, and the CA file.

    Raises InvalidInput, which quotes no password.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise _refused(url, f"is not a URL: {error}; use {FORMS}") from None
    if parts.scheme not in _SCHEMES or not url.startswith(f"{parts.scheme}://"):
        raise _refused(url, f"must be {FORMS}")
    options = _read_options(url, parts)
    if parts.scheme in ("unix", "redis+socket"):
        if parts.hostname or not parts.path.strip("/"):
            raise _refused(url, "a socket needs an absolute path, as in unix:///run/redis.sock")
        parts = parts._replace(scheme="unix")
    elif "db" in options:
        parts = parts._replace(path=f"/{options.pop('db')}")
    if ca is not None:
        options["ssl_ca_certs"] = _read_ca(ca, parts.scheme)
    if password is not None and not parts.password:
        user, _, address = parts.netloc.rpartition("@")
        parts = parts._replace(netloc=f"{user.rstrip(':')}:{quote(password, safe='')}@{address}")
    return _join(parts, options)


def celery_url(url: str) -> str:
    """The URL of `read_redis_url` in Celery's form. Celery then checks certificates as redis-py does."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if parts.scheme == "unix":
        return _join(parts._replace(scheme="redis+socket"), {"virtual_host": options.get("db", "0")})
    if parts.scheme == "rediss":
        return _join(parts, options | {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"})
    return url


def without_password(url: str) -> str:
    """The URL for logs and messages."""
    parts = urlsplit(url)
    return _join(parts._replace(netloc=parts.netloc.rpartition("@")[2]), {})


def _read_options(url: str, parts: SplitResult) -> dict[str, str]:
    """The query's options, with `db` for both names of the database. Raises InvalidInput."""
    is_socket = parts.scheme in ("unix", "redis+socket")
    database = "" if is_socket else parts.path.strip("/")
    options: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in ("db", "virtual_host"):
            if database or "db" in options:
                raise _refused(url, "names the database twice; keep one of the two")
            options["db"] = value
        elif name in _TLS_OPTIONS and parts.scheme == "rediss":
            options[name] = value
        elif name in ("ssl_cert_reqs", "ssl_check_hostname"):
            raise _refused(url, f"option {name!r} is not allowed: certificates are always checked; set KILN_REDIS_CA")
        else:
            raise _refused(url, f"option {name!r} is not supported; remove it")
    database = options.get("db", database)
    if database and not database.isdecimal():
        raise _refused(url, f"database {database!r} is not a number")
    return options


def _read_ca(ca: Path, scheme: str) -> str:
    if scheme != "rediss":
        raise InvalidInput.of("KILN_REDIS_CA", str(ca), f"KILN_REDIS_URL is {scheme}:// without TLS; use rediss://")
    try:
        ssl.create_default_context(cafile=str(ca))
    except OSError as error:  # ssl.SSLError is one
        reason = "it contains no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise InvalidInput.of("KILN_REDIS_CA", str(ca), f"cannot be read: {reason}") from None
    return str(ca)


def _join(parts: SplitResult, options: dict[str, str]) -> str:
    # SplitResult.geturl drops the slashes of a URL such as unix:///run/redis.sock.
    return f"{parts.scheme}://{parts.netloc}{parts.path}" + (f"?{urlencode(options)}" if options else "")


def _refused(url: str, message: str) -> InvalidInput:
    return InvalidInput.of("KILN_REDIS_URL", url.rpartition("@")[2], message)
