"""Assembles the dashboard: pages, static files, and the security headers of every response."""

from __future__ import annotations

from pathlib import Path

from nicegui import app, ui

from kiln.settings import ClientSettings
from services.dashboard import files, uploads
from services.dashboard.connection import Connection
from services.dashboard.pages import compare, datasets, job, jobs, models, playground, sweeps
from services.security_headers import SecurityHeaders

STATIC = Path(__file__).parent / "static"

HEADERS = {
    # Nothing is loaded from another host. NiceGUI needs inline scripts, and compiles its templates in the browser.
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


def register_pages(settings: ClientSettings) -> None:
    """Registers all pages with NiceGUI's app. Call it once per process, because NiceGUI has one app per process."""
    connection = Connection(settings)
    ui.add_head_html(HEAD, shared=True)
    app.add_static_files("/static", STATIC, max_cache_age=0)
    app.add_middleware(SecurityHeaders, headers=HEADERS)
    app.on_shutdown(connection.close)
    # Quasar shows a loading bar for each request, which has no accessible name; the pages show their own status.
    app.config.quasar_config["loadingBar"]["skipHijack"] = True
    app.get("/healthz")(healthz)
    for module in (files, uploads, playground, jobs, job, compare, models, datasets, sweeps):
        module.register(connection)


def healthz() -> dict[str, str]:
    """The process is running. It does not check the API."""
    return {"status": "ok"}
