"""Refuses requests with a foreign `Host` header, so that web pages cannot reach a local API by DNS rebinding."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from services.api.errors import problem
from shared.errors import printable

LOCAL_SUFFIXES = (".localhost", ".local", ".internal")  # no public DNS resolves them


class AllowedHosts:
    """ASGI middleware: 421 unless the host is local or matches `allowed`: names, `*.example.org`, or `*` for all.

    Local hosts are IP addresses, names without a dot (`localhost`, a service of docker compose) and LOCAL_SUFFIXES: an
    attacker's page has none of these names.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app, self._allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_allowed(header := Headers(scope=scope).get("host", "")):
            detail = (
                f"host {printable(header)!r} is not allowed; if clients use this name, add it to KILN_ALLOWED_HOSTS"
            )
            await problem(HTTPStatus.MISDIRECTED_REQUEST, detail)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_allowed(self, header: str) -> bool:
        if "*" in self._allowed:
            return True
        host = host_of(header)
        return host is not None and (is_local(host) or any(matches(host, pattern) for pattern in self._allowed))


def host_of(header: str) -> str | None:
    """`Example.org:8000` -> `example.org`, `[::1]:8000` -> `::1`; None for a malformed header."""
    try:
        parts = urlsplit(f"//{header}")
        return (parts.hostname or "").removesuffix(".") if parts.netloc == header and "@" not in header else None
    except ValueError:
        return None


def is_local(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(LOCAL_SUFFIXES)
    return True


def matches(host: str, pattern: str) -> bool:
    """`*.example.org` matches all hosts below example.org; any other pattern matches itself."""
    pattern = pattern.lower()
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
