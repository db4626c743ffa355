"""Reads stored records that another version of Kiln may have written.

Writers are strict; readers ignore fields that they do not know, and name a record that they cannot read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from shared.errors import CorruptArtifact

log = logging.getLogger("kiln.records")

Record = TypeVar("Record", bound=BaseModel)


def read_record(model: type[Record], text: str | bytes, name: str) -> Record:
    """The record, without fields that `model` does not have. Raises CorruptArtifact, which calls it `name`."""
    try:
        return model.model_validate_json(text, extra="ignore")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CorruptArtifact(f"{name} cannot be read by this version of Kiln: {field}: {first['msg']}") from error


def readable_records(model: type[Record], texts: Iterable[tuple[str, str | None]]) -> list[Record]:
    """The records of (name, text) that exist and can be read. The others are named in the log."""
    records = []
    for name, text in texts:
        if text is None:
            continue
        try:
            records.append(read_record(model, text, name))
        except CorruptArtifact as error:
            log.warning("left out: %s", error)
    return records
