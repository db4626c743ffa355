"""`python -m services.dashboard`: serves the pages on KILN_DASHBOARD_PORT, for the API at KILN_URL."""

from __future__ import annotations

import sys

from nicegui import ui

from kiln import InvalidSetting
from kiln.settings import read_client_settings
from services.dashboard.app import STATIC, register_pages
from services.dashboard.settings import read_dashboard_settings


def main() -> int:
    try:
        settings, client = read_dashboard_settings(), read_client_settings()
    except InvalidSetting as error:
        print(f"kiln: {error}", file=sys.stderr)
        return 1
    register_pages(client)
    ui.run(
        host=settings.host, port=settings.port, title="Kiln", favicon=STATIC / "kiln.svg", dark=None,
        language="en-US", tailwind=False, reload=False, show=False, show_welcome_message=False,
        binding_refresh_interval=None, reconnect_timeout=10.0,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
