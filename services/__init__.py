"""Kiln's processes: `api` serves, `trainer` trains, `dev` runs everything on one machine."""
