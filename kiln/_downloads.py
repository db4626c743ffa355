"""Unpacks the files of a generated data set into a folder, one after the other."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_shard(folder: Path, name: str, data: bytes) -> None:
    """Unpacks a ZIP; a tar stays a file, because programs read WebDataset shards as they are. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(folder)  # drops "..", drives and leading slashes from names
    else:
        (folder / Path(name).name).write_bytes(data)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Written last, so that a folder with a manifest is complete. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
