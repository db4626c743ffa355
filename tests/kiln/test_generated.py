"""Data sets with both clients and with the command, made by a real worker process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kiln import AsyncKiln, InvalidInput, Kiln, NotFound
from services.trainer.worker.supervisor import Supervisor
from shared.jobs.record import JobStatus
from shared.jobs.store import RedisJobStore
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import CLASSES
from tests.kiln.command import Run, printed_json
from tests.processes import wait_for


@pytest.fixture
def kiln(url: str) -> Iterator[Kiln]:
    with Kiln(url) as kiln:
        yield kiln


@pytest.fixture
def worker(store: RedisJobStore, shared_settings: Settings) -> Supervisor:
    registry = ModelRegistry(ArtifactStore(shared_settings.artifact_url))
    return Supervisor(store, registry, shared_settings, threading.Event())


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_clients_queue_a_job_and_download_its_data_set(
    kiln: Kiln, url: str, worker: Supervisor, tmp_path: Path
) -> None:
    # Given a finished job
    job = kiln.jobs.generate(classes={"cat": 3, "dog": 2}, seed=4)
    assert (job.kind, job.status, job.progress.images_total) == ("generate", "queued", 5)
    with pytest.raises(NotFound):
        next(kiln.jobs.download(job.id, tmp_path / "early"))
    worker.supervise(job.id)
    assert kiln.jobs.get(job.id).status == "succeeded"

    # When both clients download it
    async def download() -> list[str]:
        async with AsyncKiln(url) as client:
            return [name async for name in client.jobs.download(job.id, tmp_path / "async")]

    names = list(kiln.jobs.download(job.id, tmp_path / "sync"))

    # Then both have the same files, and the server makes each image again
    assert names == asyncio.run(download()) == ["shard-00000.zip"]
    expected = {f"cat/4-00000{i}.png" for i in range(3)} | {f"dog/4-00000{i}.png" for i in range(2)} | {"manifest.json"}
    assert files_below(tmp_path / "sync") == files_below(tmp_path / "async") == expected
    assert json.loads((tmp_path / "sync" / "manifest.json").read_text())["classes"] == {"cat": 3, "dog": 2}
    assert kiln.verify((tmp_path / "sync" / "dog" / "4-000001.png").read_bytes()).reproduced
    assert len(b"".join(kiln.jobs.stream_dataset(job.id))) > 5 * 2000


def test_a_wrong_class_is_refused_with_its_name(kiln: Kiln) -> None:
    with pytest.raises(InvalidInput, match="unknown class"):
        kiln.jobs.generate(classes={"unicorn": 3})


def test_generate_many_waits_for_the_data_set_and_unpacks_it(
    command: Run, worker: Supervisor, store: RedisJobStore, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(command, "generate", "--many", "25", "--out", "set", "--seed", "1")
        queued = wait_for(lambda: store.list(JobStatus.QUEUED).jobs, bool)
        worker.supervise(queued[0].id)
        done = running.result()

    assert done.returncode == 0, done.stderr
    assert "25 images in set: 3 airplane" in done.stdout
    images = files_below(tmp_path / "set") - {"manifest.json"}
    assert len(images) == 25
    assert {name.partition("/")[0] for name in images} == set(CLASSES)


def test_download_gets_the_shards_of_a_webdataset(command: Run, kiln: Kiln, worker: Supervisor, tmp_path: Path) -> None:
    job = kiln.jobs.generate(n=20, format="webdataset")
    worker.supervise(job.id)

    manifest = printed_json(command("jobs", "download", job.id, "--out", "shards", "--json"))

    assert (manifest["images"], manifest["folder"]) == (20, "shards")
    assert files_below(tmp_path / "shards") == {"shard-00000.tar", "manifest.json"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--many", "5"), "--out: name the folder"),
        (("cat", "--balance", "mine", "--out", "x"), "leave out CLASS and --many"),
        (("unicorn", "--many", "5", "--out", "x"), "unknown class"),
    ],
)
def test_a_data_set_that_cannot_be_made_is_refused_in_one_line(
    command: Run, arguments: tuple[str, ...], words: str
) -> None:
    done = command("generate", *arguments)

    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
