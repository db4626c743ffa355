"""Training configs: their fields, the table of presets, and overrides. Nothing here reads or writes files."""
