"""`python -m services.api` runs the API under uvicorn, on the host and port of the settings."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

from services.api.app import create_app
from services.api.server import DrainingServer, make_config
from shared.errors import InvalidInput
from shared.settings import read_settings

# How long a thread that returns from onnxruntime may wait for the interpreter lock. Python's default of 5 ms is
# several times the duration of a small batch.
SWITCH_S = 0.0005


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = read_settings()
    except InvalidInput as error:
        print(f"kiln: {error}", file=sys.stderr)
        return 2
    logging.getLogger("uvicorn.access").addFilter(_without_query)
    sys.setswitchinterval(SWITCH_S)
    app = create_app(settings)
    with suppress(KeyboardInterrupt):  # a second Ctrl-C
        DrainingServer(make_config(app, settings), app.state.drain).run()
    return os.EX_OK


def _without_query(record: logging.LogRecord) -> bool:
    """Removes the query string from access-log lines: a client may have put its key there by mistake."""
    if isinstance(record.args, tuple) and len(record.args) > 2:
        client, method, target, *rest = record.args
        record.args = (client, method, str(target).partition("?")[0], *rest)
    return True


if __name__ == "__main__":
    sys.exit(main())
