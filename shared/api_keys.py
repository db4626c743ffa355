"""API keys and their scopes. Kiln stores only the SHA-256 of a key; no object, log line or error contains its text."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from shared.errors import InvalidInput

# The b64token of RFC 6750, which `Authorization: Bearer <key>` requires. Shorter keys could be guessed.
_KEY = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FORM = (
    "must be `name:scope+scope:key`, with the scopes read, generate and train, and a key of 16 or more characters from "
    "A-Za-z0-9._~+/-"
)


class Scope(StrEnum):
    READ = "read"  # view jobs, models and presets
    GENERATE = "generate"  # generate images
    TRAIN = "train"  # submit, control and delete jobs, move aliases


@dataclass(frozen=True)
class ApiKey:
    name: str
    scopes: frozenset[Scope]
    digest: bytes


def parse_keys(entries: Iterable[str], source: str) -> tuple[ApiKey, ...]:
    """Parses entries `name:scope+scope:key`. Raises InvalidInput, which names the entry by its number, not its text."""
    keys: list[ApiKey] = []
    for number, entry in enumerate(entries, 1):
        name, _, rest = entry.strip().partition(":")
        scopes, _, text = rest.partition(":")
        names = set(scopes.split("+"))
        if not (_NAME.fullmatch(name) and names <= set(Scope) and _KEY.fullmatch(text)):
            raise InvalidInput.of(source, f"entry {number}", _FORM)
        key = ApiKey(name, frozenset(Scope(scope) for scope in names), _digest(text))
        if any(other.name == key.name or other.digest == key.digest for other in keys):
            raise InvalidInput.of(source, f"entry {number}", "repeats the name or the key of an earlier entry")
        keys.append(key)
    if not keys:
        # The setting restricts access. An empty list would admit everyone.
        raise InvalidInput.of(source, None, "contains no key; add one, or unset it to admit everyone")
    return tuple(keys)


def find_key(keys: Sequence[ApiKey], presented: str) -> ApiKey | None:
    """The key with that text, or None. Takes the same time in every case, so that timing reveals nothing."""
    digest = _digest(presented)
    match = None
    for key in keys:  # no early exit
        if hmac.compare_digest(key.digest, digest):
            match = key
    return match


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
