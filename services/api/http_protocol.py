"""uvicorn's HTTP/1.1 parser, with problem documents for requests that it cannot parse or whose head is too large."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import JSONResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.api.errors import SECURITY_HEADERS, problem

MAX_HEAD_BYTES = (1 << 16) - 1  # URL and headers; httptools cannot parse longer URLs
ABORT_BYTES = 1 << 20  # a larger head is not read to its end: the client may see a reset instead of the response


class ProblemProtocol(HttpToolsProtocol):
    """Replaces uvicorn's plain-text response to such requests, which never reach any middleware."""

    _url_bytes = 0
    _head_bytes = 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._url_bytes = self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url_bytes += len(url)
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._check(MAX_HEAD_BYTES)
        super().on_headers_complete()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        self._check(ABORT_BYTES)

    def _check(self, limit: int) -> None:
        """Raises ValueError, at which httptools stops parsing and uvicorn calls `send_400_response`."""
        if self._head_bytes > limit:
            raise ValueError("URL and headers are too large")

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's text says less than ours
        response = self._problem()
        status = HTTPStatus(response.status_code)
        headers = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() + head + b"\r\n" + response.body)
        self.transport.close()

    def _problem(self) -> JSONResponse:
        limit = f"the limit is {MAX_HEAD_BYTES:,} bytes"
        if self._url_bytes > MAX_HEAD_BYTES:
            detail = f"URL too long; {limit}. POST /generate takes its parameters as JSON in the body"
            return problem(HTTPStatus.REQUEST_URI_TOO_LONG, detail, headers=SECURITY_HEADERS)
        if self._head_bytes > MAX_HEAD_BYTES:
            detail = f"URL and headers too large; {limit}"
            return problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail, headers=SECURITY_HEADERS)
        detail = "not a valid HTTP/1.1 request; percent-encode spaces and bytes outside of ASCII in the URL"
        return problem(HTTPStatus.BAD_REQUEST, detail, headers=SECURITY_HEADERS)
