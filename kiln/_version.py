"""The version of the client, of the command and of the wheel."""

__version__ = "0.2.0"
