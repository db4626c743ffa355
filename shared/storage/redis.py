"""What all records in Redis have in common: connection, keys, the one clock, requests that come twice, and errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError, WatchError
from redis.retry import Retry

from shared.errors import IdempotencyMismatch, StoreUnavailable

IDEMPOTENCY_TTL_S = 24 * 3600
TIMEOUT_S = 1.5  # a request that needs Redis is refused within 2 s when it does not answer

# Redis is up and takes no writes: its disk or its memory is full, it is a replica, or it still reads its file.
_REFUSALS = ("MISCONF", "MASTERDOWN", "NOREPLICAS")
_REFUSED = (OutOfMemoryError, ReadOnlyError)  # redis-py names these by class and cuts the word off


@dataclass(frozen=True)
class Idempotency:
    """A client's Idempotency-Key, and a digest of the request it came with."""

    key: str
    body_digest: str

    def check(self, known: Mapping[str, str]) -> None:
        """Compares with what was kept of the request that used the key before. Raises IdempotencyMismatch."""
        if known["body_digest"] != self.body_digest:
            raise IdempotencyMismatch(f"Idempotency-Key {self.key!r} was used before with another body")


def connect(url: str, timeout_s: float = TIMEOUT_S) -> Any:
    # Without redis-py's own repetitions: who calls knows better whether to wait, and a change must not run twice.
    return redis.Redis.from_url(
        url, decode_responses=True, socket_timeout=timeout_s, socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )  # fmt: skip


@contextmanager
def redis_errors() -> Iterator[None]:
    """Redis's troubles in the domain's word. Answers that mean a bug of ours stay what they are."""
    try:
        yield
    except WatchError:
        raise
    except ResponseError as error:
        what = str(error).rpartition("caused error: ")[2]  # redis-py quotes the command, and so the job, before that
        if not isinstance(error, _REFUSED) and not what.startswith(_REFUSALS):
            raise
        raise StoreUnavailable(f"the job store takes no writes: {what}") from error
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"the job store does not answer: {error}") from error


def key(*parts: str) -> str:
    return ":".join(("kiln", *parts))


def idempotency_key(kind: str, idempotency: Idempotency | None) -> str | None:
    """Where the note of a request is kept; jobs and other kinds of records do not share theirs."""
    return key(kind, hashlib.sha256(idempotency.key.encode()).hexdigest()) if idempotency else None


def from_redis(time: tuple[int, int]) -> datetime:
    """Redis's TIME: its clock is the only one that leases are measured by."""
    seconds, microseconds = time
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)
