"""The starter model, which ships with Kiln and is served until the first model is trained."""

from __future__ import annotations

import logging
from pathlib import Path

from shared.errors import CorruptArtifact
from shared.storage.model_registry import MANIFEST_FILE, ModelRegistry, read_folder

log = logging.getLogger("kiln.starter")


def publish_starter(registry: ModelRegistry, folder: Path) -> None:
    """Publishes the model of the folder, as the alias `default`, in a registry that has no model yet.

    Does nothing without the folder. A damaged starter model is an error in the log.
    """
    if registry.has_models() or not (folder / MANIFEST_FILE).is_file():
        return
    try:
        manifest, files = read_folder(folder)
    except CorruptArtifact as error:
        log.error("the starter model cannot be published: %s", error)
        return
    registry.publish(manifest, files)
    log.info("the registry was empty; published model %s from %s", manifest.id, folder)
