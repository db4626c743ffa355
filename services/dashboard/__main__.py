"""`python -m services.dashboard`: serves the pages on KILN_DASHBOARD_PORT, for the API at KILN_URL."""

from __future__ import annotations

import sys

from nicegui import ui

from services.dashboard.app import STATIC, register_pages
from shared.errors import InvalidInput
from shared.settings import read_client_settings, read_settings


def main() -> int:
    try:
        settings, client = read_settings(), read_client_settings()
    except InvalidInput as error:
        print(f"kiln: {error}", file=sys.stderr)
        return 1
    register_pages(client)
    ui.run(
        host=settings.host, port=settings.dashboard_port or 8080, title="Kiln", favicon=STATIC / "kiln.svg", dark=None,
        language="en-US", tailwind=False, reload=False, show=False, show_welcome_message=False,
        binding_refresh_interval=None, reconnect_timeout=10.0,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
