"""Answers that stay the same for ever: their names (ETags), and those that were given lately."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Protocol

REVISION = 1  # of everything between the model's output and the file; another one, and old names are not ours any more


@dataclass(frozen=True)
class ImageResponse:
    """A body and how it is to be sent. `etag` is there if and only if the same question always gives this answer."""

    body: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    etag: str | None = None
    is_fixed: bool = False  # the question names a model, and not an alias that may move
    status: HTTPStatus = HTTPStatus.OK

    @property
    def all_headers(self) -> dict[str, str]:
        if self.etag is None:
            return dict(self.headers)
        # `private`: who may see it is decided by a key. An alias has to be asked again, which costs a 304.
        lasting = "private, max-age=31536000, immutable" if self.is_fixed else "private, no-cache"
        return {**self.headers, "ETag": self.etag, "Cache-Control": lasting}


class CacheableRequest(Protocol):
    """What is asked for, with nothing left open: an order of images, an interpolation."""

    @property
    def etag(self) -> str | None: ...

    @property
    def is_fixed(self) -> bool: ...

    async def answer(self) -> ImageResponse: ...


def etag_of(*parts: Any) -> str:
    """A strong ETag for what is made of these parts, known before anything is made."""
    text = json.dumps([REVISION, *parts], sort_keys=True, default=str)
    return f'"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"'


def is_known(etag: str | None, if_none_match: str | None) -> bool:
    """Whether the client has it already; RFC 9110, section 13.1.2, which compares weakly."""
    if etag is None or if_none_match is None:
        return False
    known = {part.strip().removeprefix("W/") for part in if_none_match.split(",")}
    return "*" in known or etag in known


class ResponseCache:
    """The answers that were given lately, the least recently asked for leaving first. 0 bytes: none are kept."""

    def __init__(self, max_bytes: int, count: Callable[[str], object]) -> None:
        """`count` is told what becomes of each question that has a name: `hit`, `miss` or `not_modified`."""
        self._max_bytes, self._count = max_bytes, count
        self._answers: OrderedDict[str, ImageResponse] = OrderedDict()
        self.bytes = 0

    async def answer(self, question: CacheableRequest, if_none_match: str | None) -> ImageResponse:
        """304 if the client has it, what was kept if it was asked before, and else what the question makes."""
        if question.etag is None:
            return await question.answer()
        if is_known(question.etag, if_none_match):
            self._count("not_modified")
            return ImageResponse(b"", "", {}, question.etag, question.is_fixed, HTTPStatus.NOT_MODIFIED)
        if kept := self._answers.get(question.etag):
            self._count("hit")
            self._answers.move_to_end(question.etag)
            return replace(kept, is_fixed=question.is_fixed)
        self._count("miss")
        answer = await question.answer()
        self._keep(answer)
        return answer

    def _keep(self, answer: ImageResponse) -> None:
        """Keeps it if it has a name, and is not so large that it would drive out most of the others."""
        if answer.etag is None or len(answer.body) > self._max_bytes // 8 or answer.etag in self._answers:
            return
        self._answers[answer.etag] = answer
        self.bytes += len(answer.body)
        while self.bytes > self._max_bytes:
            _, dropped = self._answers.popitem(last=False)
            self.bytes -= len(dropped.body)
