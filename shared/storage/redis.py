"""The basis of all record stores in Redis: connection, keys, clock, atomic writes, idempotency keys and errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError, WatchError
from redis.retry import Retry

from shared.errors import EvictingStore, IdempotencyMismatch, StoreUnavailable

T = TypeVar("T")

IDEMPOTENCY_TTL_S = 24 * 3600
TIMEOUT_S = 1.5  # the API refuses a request within 2 s if Redis does not respond

# Redis runs but refuses writes: its disk or memory is full, it is a replica, or it still loads its file.
_REFUSAL_CODES = ("MISCONF", "MASTERDOWN", "NOREPLICAS")
_REFUSAL_ERRORS = (OutOfMemoryError, ReadOnlyError)  # redis-py has a class for these and strips their code


@dataclass(frozen=True)
class Idempotency:
    """A client's Idempotency-Key, and the digest of the request body that came with it."""

    key: str
    body_digest: str

    def check(self, first: Mapping[str, str]) -> None:
        """Compares with the note of the first request. Raises IdempotencyMismatch if the bodies differ."""
        if first["body_digest"] != self.body_digest:
            raise IdempotencyMismatch(
                f"Idempotency-Key {self.key!r} was used before with another body; send a new key with a new request"
            )


def connect(url: str, timeout_s: float = TIMEOUT_S) -> Any:
    # redis-py's own retries are off: the caller decides whether to wait, and no change may run twice.
    return redis.Redis.from_url(
        url, decode_responses=True, socket_timeout=timeout_s, socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )  # fmt: skip


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turns an outage of Redis into StoreUnavailable. Errors that mean a bug in this code pass unchanged."""
    try:
        yield
    except WatchError:
        raise
    except ResponseError as error:
        message = str(error).rpartition("caused error: ")[2]  # redis-py puts the command, which contains the job, first
        if not isinstance(error, _REFUSAL_ERRORS) and not message.startswith(_REFUSAL_CODES):
            raise
        raise StoreUnavailable(f"the job store takes no writes: {message}") from error
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"the job store does not answer: {error}") from error


def key(*parts: str) -> str:
    return ":".join(("kiln", *parts))


def from_redis(time: tuple[int, int]) -> datetime:
    """Redis's TIME as a datetime. Leases are measured by this clock only."""
    seconds, microseconds = time
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)


def require_no_eviction(client: Any) -> None:
    """Raises EvictingStore if Redis deletes keys when its memory is full. Does nothing if Redis hides its policy."""
    with redis_errors():
        try:
            policy = client.info("memory").get("maxmemory_policy", "noeviction")
        except ResponseError:  # this user may not run INFO
            return
    if policy != "noeviction":
        raise EvictingStore(
            f"Redis may lose accepted jobs: its maxmemory-policy is {policy}. "
            "Set it to noeviction, for example with `redis-cli CONFIG SET maxmemory-policy noeviction`"
        )


def transact(client: Any, watched: str, attempt: Callable[[Any], T]) -> T:
    """Runs `attempt(pipe)`: it reads, calls `pipe.multi()` and queues its writes, which then happen together.

    Another client may change the watched key between the reads and the writes. Then nothing is written and `attempt`
    runs again. An attempt that queues no write writes nothing. Raises StoreUnavailable.
    """
    with redis_errors():
        result: T = client.transaction(attempt, watched, value_from_callable=True)
        return result


def create_once(
    client: Any, kind: str, record_id: str, idempotency: Idempotency | None, write: Callable[[Any], None]
) -> str:
    """Stores a new record with `write(pipe)`, unless the Idempotency-Key has made one before.

    Returns the id of the record that belongs to the key: `record_id`, or that of the first request with the key.
    Raises IdempotencyMismatch if the first request had another body, StoreUnavailable, and EvictingStore.
    """
    require_no_eviction(client)
    record, note = key(kind, record_id), _note_key(kind, idempotency)

    def attempt(pipe: Any) -> str:
        if pipe.exists(record):  # an earlier EXEC succeeded and its reply was lost
            return record_id
        if idempotency and (text := pipe.get(note)):
            first = json.loads(text)
            idempotency.check(first)
            if pipe.exists(key(kind, first[f"{kind}_id"])):  # otherwise it was deleted since
                return str(first[f"{kind}_id"])
        pipe.multi()
        write(pipe)
        if idempotency:
            text = json.dumps({f"{kind}_id": record_id, "body_digest": idempotency.body_digest})
            pipe.set(note, text, ex=IDEMPOTENCY_TTL_S)
        return record_id

    return transact(client, note or record, attempt)


# Jobs and sweeps each have Idempotency-Keys of their own.
_NOTES = {"job": "idempotency", "sweep": "idempotency-of-sweeps"}


def _note_key(kind: str, idempotency: Idempotency | None) -> str:
    return key(_NOTES[kind], hashlib.sha256(idempotency.key.encode()).hexdigest()) if idempotency else ""
