"""Where the API is and which key the client sends: KILN_URL and KILN_API_KEY."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import httpx2

from kiln.errors import InvalidSetting

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class ClientSettings:
    url: str
    api_key: str | None = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


def read_client_settings(url: str | None = None, api_key: str | None = None) -> ClientSettings:
    """The arguments, or the environment where they are None; an empty variable is unset. Raises InvalidSetting."""
    url = url or os.environ.get("KILN_URL") or DEFAULT_URL
    api_key = api_key or os.environ.get("KILN_API_KEY") or None
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise InvalidSetting(f"KILN_URL is {url!r}: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidSetting(f"KILN_URL is {url!r}; expected an address such as {DEFAULT_URL}")
    if api_key and not (api_key.isascii() and api_key.isprintable()):
        raise InvalidSetting("KILN_API_KEY has characters that an HTTP header cannot carry")
    return ClientSettings(url, api_key)
