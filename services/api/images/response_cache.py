"""ETags of reproducible responses, and a cache of the most recently used ones."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from http import HTTPStatus
from typing import Any, Protocol

import numpy as np
import onnxruntime
import PIL

from services.generator.devices import processor_of

REVISION = 2  # increase it when a change of the code gives the same request other bytes


@dataclass(frozen=True)
class ImageResponse:
    """A body with its headers. Only a reproducible response has an `etag`."""

    body: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    etag: str | None = None
    is_immutable: bool = False  # the request names a model by its id, not by an alias, which may move
    status: HTTPStatus = HTTPStatus.OK

    @property
    def all_headers(self) -> dict[str, str]:
        if self.etag is None:
            return dict(self.headers)
        return {**self.headers, "ETag": self.etag, "Cache-Control": cache_control(is_immutable=self.is_immutable)}


class CacheableRequest(Protocol):
    """A fully resolved request for images: sampling and encoding depend on nothing else."""

    @property
    def etag(self) -> str | None: ...

    @property
    def is_immutable(self) -> bool: ...


def cache_control(*, is_immutable: bool) -> str:
    """`private`, because access depends on the key. A client must revalidate responses by alias, which may move."""
    return "private, max-age=31536000, immutable" if is_immutable else "private, no-cache"


def etag_of(provider: str, *parts: Any) -> str:
    """A strong ETag, known before any image is generated.

    It names everything that may change a bit of the file: the request's `parts`, the code, the libraries that sample
    and encode, and the processor.
    """
    text = json.dumps([_environment(provider), parts], sort_keys=True, default=str)
    return f'"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"'


@cache
def _environment(provider: str) -> str:
    versions = (onnxruntime.__version__, np.__version__, PIL.__version__, zlib.ZLIB_RUNTIME_VERSION)
    text = json.dumps([REVISION, versions, provider, processor_of(provider)])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def etag_matches(etag: str | None, if_none_match: str | None) -> bool:
    """Whether If-None-Match lists the ETag; weak comparison, as in RFC 9110, section 13.1.2."""
    if etag is None or if_none_match is None:
        return False
    listed = {part.strip().removeprefix("W/") for part in if_none_match.split(",")}
    return "*" in listed or etag in listed


class ResponseCache:
    """Up to `max_bytes` of responses; the least recently used ones leave first."""

    def __init__(self, max_bytes: int, count: Callable[[str], object]) -> None:
        """`count` receives `hit`, `miss` or `not_modified` for each request with an ETag."""
        self._max_bytes, self._count = max_bytes, count
        self._responses: OrderedDict[str, ImageResponse] = OrderedDict()
        self.bytes = 0

    def find(self, request: CacheableRequest, if_none_match: str | None) -> ImageResponse | None:
        """A 304 when the client has the response, else the cached response, else None."""
        if request.etag is None:
            return None
        if etag_matches(request.etag, if_none_match):
            self._count("not_modified")
            return ImageResponse(b"", "", {}, request.etag, request.is_immutable, HTTPStatus.NOT_MODIFIED)
        if cached := self._responses.get(request.etag):
            self._count("hit")
            self._responses.move_to_end(request.etag)
            return replace(cached, is_immutable=request.is_immutable)
        self._count("miss")
        return None

    def add(self, response: ImageResponse) -> None:
        """Stores a response that has an ETag, unless it would evict most of the others."""
        if response.etag is None or len(response.body) > self._max_bytes // 8 or response.etag in self._responses:
            return
        self._responses[response.etag] = response
        self.bytes += len(response.body)
        while self.bytes > self._max_bytes:
            _, evicted = self._responses.popitem(last=False)
            self.bytes -= len(evicted.body)
