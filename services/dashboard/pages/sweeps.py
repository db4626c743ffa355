"""Stub."""

from services.dashboard.site import Site


def register(site: Site) -> None:
    pass
