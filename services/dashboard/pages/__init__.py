"""One module per page; `register` adds it to the app."""
