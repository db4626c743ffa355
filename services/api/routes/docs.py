"""/docs: Swagger UI for /openapi.json."""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

CDN = "https://cdn.jsdelivr.net"

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs() -> HTMLResponse:
    page = get_swagger_ui_html(
        openapi_url="/openapi.json", title="Kiln", swagger_favicon_url="data:,",
    )  # fmt: skip
    page.headers["Content-Security-Policy"] = content_security_policy(bytes(page.body).decode())
    return page


def content_security_policy(page: str) -> str:
    """Allows the page's own inline script, by its digest, and Swagger UI from its CDN; forbids everything else."""
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src {CDN} 'sha256-{digest}'; style-src {CDN} 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
