"""`python -m services.api`: the API under uvicorn, where the settings say."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

import uvicorn

from services.api.app import create_app
from services.api.server import GRACE_S, DrainingServer
from shared.errors import InvalidInput
from shared.settings import read_settings

# A lane that comes back from onnxruntime waits so long for the interpreter while another thread has it. At
# Python's 5 ms, several times what an image takes, small batches would mostly wait.
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
    # `log_config=None`: uvicorn's lines go through the logging set up above, with everybody else's.
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        timeout_graceful_shutdown=GRACE_S,
        access_log=settings.access_log,
    )
    with suppress(KeyboardInterrupt):  # a second Ctrl-C
        DrainingServer(config, app.state.drain).run()
    return os.EX_OK


def _without_query(record: logging.LogRecord) -> bool:
    """Keys belong into a header; a client that puts one into the URL all the same shall not find it in the log."""
    if isinstance(record.args, tuple) and len(record.args) > 2:
        client, method, target, *rest = record.args
        record.args = (client, method, str(target).partition("?")[0], *rest)
    return True


if __name__ == "__main__":
    sys.exit(main())
