"""The model that ships with Kiln: what a fresh installation serves before it has trained one."""

from __future__ import annotations

import logging
from pathlib import Path

from shared.errors import CorruptArtifact
from shared.storage.model_registry import MANIFEST_FILE, ModelRegistry, read_folder

log = logging.getLogger("kiln.starter")


def publish_starter(registry: ModelRegistry, folder: Path) -> None:
    """Publishes the model of that folder, which makes it the alias `default`, where there is no model yet.

    An installation with models of its own is left alone, and so is one without the folder. A damaged one is told.
    """
    if registry.has_models() or not (folder / MANIFEST_FILE).is_file():
        return
    try:
        manifest, files = read_folder(folder)
    except CorruptArtifact as error:
        log.error("the starter model is not published: %s", error)
        return
    registry.publish(manifest, files)
    log.info("there was no model yet; published %s from %s", manifest.id, folder)
