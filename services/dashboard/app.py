"""The pages, the files of the API that they show, and the headers of every answer."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
from fastapi import Request, Response
from nicegui import app, ui

from kiln import _requests as wire
from services.dashboard.pages import compare, job, jobs, models, playground, sweeps
from services.dashboard.site import Site
from services.security_headers import SecurityHeaders
from shared.settings import ClientSettings

STATIC = Path(__file__).parent / "static"

# What a browser may read of the API by way of the dashboard, which holds the key.
FILES = re.compile(
    r"generate|interpolate|compare|models/[\w.-]+/preview\.png|sweeps/[\w.-]+/\w+\.png"
    r"|jobs/[\w.-]+/(?:samples/\d+\.png|samples\.png|losses\.png|metrics)"
)
ACCEPTED = {"png": "image/png", "csv": "text/csv", "markdown": "text/markdown", "zip": "application/zip"}
PASSED_ON = ("content-type", "cache-control", "etag", "content-disposition")

HEADERS = {
    # Everything comes from here. NiceGUI brings inline scripts, and compiles its templates in the browser.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' ws: wss:; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}

HEAD = """
<link rel="stylesheet" href="/static/style.css">
<script>document.documentElement.dataset.theme = localStorage.getItem('kiln-theme') || 'auto';</script>
"""


def build(settings: ClientSettings) -> Site:
    """Tells NiceGUI of all pages. Once in a process, for NiceGUI has one app."""
    site = Site(settings)
    ui.add_head_html(HEAD, shared=True)
    app.add_static_files("/static", STATIC, max_cache_age=0)
    app.add_middleware(SecurityHeaders, headers=HEADERS)
    app.on_shutdown(site.close)
    # Quasar's bar over every request has no name for screen readers; the pages say themselves what they wait for.
    app.config.quasar_config["loadingBar"]["skipHijack"] = True
    app.get("/healthz")(healthz)
    _serve_files(site)
    for module in (playground, jobs, job, compare, models, sweeps):
        module.register(site)
    return site


def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


def _serve_files(site: Site) -> None:
    @app.get("/files/{path:path}")
    async def read(path: str, request: Request) -> Response:
        """A picture or a table of the API, as it comes; `as` says in which format."""
        if not FILES.fullmatch(path):
            return Response("there is no such file", 404, media_type="text/plain")
        params = {name: value for name, value in request.query_params.items() if name != "as"}
        accept = ACCEPTED.get(request.query_params.get("as", "png"), "*/*")
        try:
            answer = await site.read(path, params, accept)
        except wire.ApiError as error:
            return Response(str(error), error.status, media_type="text/plain")
        except httpx2.TransportError as error:
            return Response(str(error), 502, media_type="text/plain")
        headers = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
        return Response(answer.content, headers=headers)
