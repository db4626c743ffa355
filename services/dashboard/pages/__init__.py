"""One module a page; each has `register(site)`, which tells NiceGUI of it."""
