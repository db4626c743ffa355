"""The command `kiln`: one module per group of commands."""
