"""The dashboard's own settings. KILN_URL and KILN_API_KEY are read by the client."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kiln import InvalidSetting

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8080


@dataclass(frozen=True)
class DashboardSettings:
    host: str = DEFAULT_HOST  # address that the dashboard listens on
    port: int = DEFAULT_PORT


def read_dashboard_settings() -> DashboardSettings:
    """From KILN_HOST and KILN_DASHBOARD_PORT; an empty variable counts as unset. Raises InvalidSetting."""
    port = os.environ.get("KILN_DASHBOARD_PORT") or str(DEFAULT_PORT)
    if not (port.isdecimal() and int(port) <= 65535):
        raise InvalidSetting(f"KILN_DASHBOARD_PORT is {port!r}; expected a port from 1 to 65535")
    # 0 makes `python -m services.dev` leave the dashboard out; started by itself, the dashboard uses the default port.
    return DashboardSettings(os.environ.get("KILN_HOST") or DEFAULT_HOST, int(port) or DEFAULT_PORT)
