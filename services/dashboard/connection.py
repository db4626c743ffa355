"""The dashboard's connection to the API, shared by all pages and browser tabs."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import httpx2

from kiln import ApiError, AsyncKiln
from kiln.settings import ClientSettings

REQUEST_ERRORS = (httpx2.TransportError, ApiError)  # what a request to the API can raise
CACHED_FILES = 200
OPENAPI_MAX_AGE_S = 30.0


class Connection:
    """One client, the API's OpenAPI document, and a cache of images that never change."""

    def __init__(self, settings: ClientSettings) -> None:
        self.url = settings.url.rstrip("/")
        # A short wait: pages show an error at once and retry by themselves.
        self.kiln = AsyncKiln(self.url, settings.api_key, timeout_s=30.0, max_wait_s=1.0)
        self._cache: OrderedDict[tuple[object, ...], httpx2.Response] = OrderedDict()
        self._openapi: dict[str, Any] = {}
        self._openapi_read_at_s = -OPENAPI_MAX_AGE_S

    async def openapi(self) -> dict[str, Any]:
        """The API's OpenAPI document, at most OPENAPI_MAX_AGE_S old. Raises REQUEST_ERRORS."""
        if time.monotonic() - self._openapi_read_at_s > OPENAPI_MAX_AGE_S:
            self._openapi = (await self.kiln.get("/openapi.json")).json()
            self._openapi_read_at_s = time.monotonic()
        return self._openapi

    async def has_route(self, path: str, method: str = "get") -> bool:
        """Whether the API has this route. False while the API is not responding."""
        try:
            return method in (await self.openapi())["paths"].get(path, {})
        except REQUEST_ERRORS:
            return False

    async def read_file(self, path: str, query: Mapping[str, str], accept: str = "image/png") -> httpx2.Response:
        """An image or a table from the API. An image with a model and a seed never changes, so it is cached."""
        key = (path, tuple(sorted(query.items())), accept)
        if (cached := self._cache.get(key)) is not None:
            self._cache.move_to_end(key)
            return cached
        response = await self.kiln.get(f"/{path}", query, accept=accept)
        if "seed" in query and "model" in query:
            self._cache[key] = response
            if len(self._cache) > CACHED_FILES:
                self._cache.popitem(last=False)
        return response

    async def close(self) -> None:
        await self.kiln.close()
