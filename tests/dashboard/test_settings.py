"""The dashboard's settings from the environment."""

from __future__ import annotations

import pytest

from kiln import InvalidSetting
from services.dashboard.settings import DashboardSettings, read_dashboard_settings


def test_defaults_apply_to_unset_and_empty_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KILN_HOST", raising=False)
    monkeypatch.setenv("KILN_DASHBOARD_PORT", "")

    assert read_dashboard_settings() == DashboardSettings("127.0.0.1", 8080)


def test_host_and_port_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_HOST", "0.0.0.0")
    monkeypatch.setenv("KILN_DASHBOARD_PORT", "9000")

    assert read_dashboard_settings() == DashboardSettings("0.0.0.0", 9000)


@pytest.mark.parametrize("port", ["70000", "-1", "http"])
def test_an_invalid_port_is_named_with_its_variable_and_value(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_DASHBOARD_PORT", port)

    with pytest.raises(InvalidSetting, match=f"KILN_DASHBOARD_PORT is '{port}'; expected a port"):
        read_dashboard_settings()
