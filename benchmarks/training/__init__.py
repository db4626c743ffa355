"""Training speed: Kiln against the plain way, in turns."""
