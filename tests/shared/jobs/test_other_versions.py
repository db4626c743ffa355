"""Records that another version of Kiln wrote: read where possible, otherwise named and left out of lists."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.configs.classifier import ClassifierConfig
from shared.configs.train import TrainConfig
from shared.errors import CorruptArtifact
from shared.jobs.record import Job, JobStatus
from shared.jobs.store import RedisJobStore
from shared.storage.redis import connect, key

RECORDS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "records-0.2.0.json").read_text())


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisJobStore]:
    store = RedisJobStore(redis_url)
    yield store
    store.close()


def write(redis_url: str, record: dict[str, Any]) -> None:
    """Stores a record as another version would."""
    redis = connect(redis_url)
    redis.set(key("job", record["id"]), json.dumps(record))
    for index in (key("jobs", "all"), key("jobs", record["status"]), key("jobs", "unsent")):
        redis.zadd(index, {record["id"]: 0})
    redis.close()


def test_a_gan_job_of_version_0_2_0_is_the_same_job() -> None:
    job = Job.model_validate_json(json.dumps(RECORDS["gan"]))
    assert isinstance(job.config, TrainConfig)
    assert (job.config.resolution, job.config.discriminator, job.config.g_batch) == (32, "own", "new")
    stored = RECORDS["gan"]["config"]
    assert {name: value for name, value in job.config.model_dump(mode="json").items() if name in stored} == stored


def test_a_classifier_job_of_version_0_2_0_loses_the_fields_that_are_gone(redis_url: str, store: RedisJobStore) -> None:
    write(redis_url, RECORDS["classifier"])
    job = store.get(RECORDS["classifier"]["id"])
    assert isinstance(job.config, ClassifierConfig)
    assert (job.config.width, job.config.epochs) == (16, 30)


def test_a_newer_versions_field_is_ignored(redis_url: str, store: RedisJobStore) -> None:
    newer = RECORDS["gan"] | {"priority": "high", "config": RECORDS["gan"]["config"] | {"r1_weight": 1.0}}
    write(redis_url, newer)
    assert [job.id for job in store.list().jobs] == [newer["id"]]
    assert store.get(newer["id"]).config == Job.model_validate_json(json.dumps(RECORDS["gan"])).config


def test_a_record_that_cannot_be_read_is_named_and_blocks_no_list(
    redis_url: str, store: RedisJobStore, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a readable job, and one whose architecture this version does not have
    bad, good = RECORDS["resnet-18"], RECORDS["gan"]
    write(redis_url, good)
    write(redis_url, bad)
    # Then every list has the readable one
    with caplog.at_level(logging.WARNING):
        assert [job.id for job in store.list().jobs] == [good["id"]]
    assert [job.id for job in store.list(JobStatus.QUEUED).jobs] == [good["id"]]
    assert [job.id for job in store.unsent()] == [good["id"]]
    assert [job.id for job in store.waiting(10)] == [good["id"]]
    # And the log and the error say which field is wrong
    expected = f"job {bad['id']} cannot be read by this version of Kiln: config"
    assert expected in caplog.text
    with pytest.raises(CorruptArtifact, match=expected):
        store.get(bad["id"])
