"""`python -m services.api`: the API under uvicorn, where the settings say."""

from __future__ import annotations

import logging
import os
import sys

import uvicorn

from services.api.app import create_app
from shared.errors import InvalidInput
from shared.settings import read_settings

DRAIN_S = 20  # how long answers under way may take after SIGTERM


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = read_settings()
    except InvalidInput as error:
        print(f"kiln: {error}", file=sys.stderr)
        return 2
    app = create_app(settings)
    # `log_config=None`: uvicorn's lines go through the logging set up above, with everybody else's.
    uvicorn.run(app, host=settings.host, port=settings.port, log_config=None, timeout_graceful_shutdown=DRAIN_S)
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
