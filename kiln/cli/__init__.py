"""The command `kiln`."""
