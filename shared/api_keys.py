"""API keys: who may do what. A key is kept as its SHA-256 only; its text is in no object, log line or error."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from shared.errors import InvalidInput

# RFC 6750's b64token: what can stand in `Authorization: Bearer <key>`. Shorter keys could be guessed.
_KEY = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FORM = (
    "must be `name:scope+scope:key`, the scopes being read, generate, train, and the key 16 or more of A-Za-z0-9._~+/-"
)


class Scope(StrEnum):
    READ = "read"  # look at jobs, models and presets
    GENERATE = "generate"  # make images
    TRAIN = "train"  # submit and steer jobs, move aliases


@dataclass(frozen=True)
class ApiKey:
    name: str
    scopes: frozenset[Scope]
    digest: bytes


def parse_keys(entries: Iterable[str], source: str) -> tuple[ApiKey, ...]:
    """Entries `name:scope+scope:key` -> keys. Raises InvalidInput that says which entry it was, not its text."""
    keys: list[ApiKey] = []
    for number, entry in enumerate(entries, 1):
        name, _, rest = entry.strip().partition(":")
        scopes, _, text = rest.partition(":")
        names = set(scopes.split("+"))
        if not (_NAME.fullmatch(name) and names <= set(Scope) and _KEY.fullmatch(text)):
            raise InvalidInput.of(source, f"entry {number}", _FORM)
        key = ApiKey(name, frozenset(Scope(scope) for scope in names), _digest(text))
        if any(other.name == key.name or other.digest == key.digest for other in keys):
            raise InvalidInput.of(source, f"entry {number}", "has the name or the key of one before it")
        keys.append(key)
    if not keys:
        # Whoever sets it means to close the door; none at all would leave it open.
        raise InvalidInput.of(source, None, "holds no key")
    return tuple(keys)


def find_key(keys: Sequence[ApiKey], presented: str) -> ApiKey | None:
    """The key with that text. Takes equally long whichever it is, and if it is none."""
    digest = _digest(presented)
    found = None
    for key in keys:  # all of them, always
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
