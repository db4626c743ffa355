"""Data sets from the client and the command line, against a real API process."""

from __future__ import annotations

import asyncio
import io
import tarfile
from pathlib import Path

import pytest

from kiln import AsyncKiln, Conflict, InvalidInput, Kiln, NotFound
from kiln._uploads import Upload
from tests.api.datasets.archives import as_zip, flowers, png
from tests.kiln.command import Run, printed_json


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    for name, data in (flowers() | {"train/rose/broken.png": png()[:40], "train/rose/notes.txt": b"x"}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_is_pushed_shown_and_deleted(url: str, photos: Path) -> None:
    sent: list[tuple[int, int]] = []
    with Kiln(url) as kiln:
        dataset = kiln.datasets.push(photos, on_progress=lambda *progress: sent.append(progress))

        assert (dataset.name, dataset.display_name, dataset.images) == ("my-photos", "my photos", 6)
        assert dataset.counts == {"train": {"daisy": 3, "rose": 3}}
        assert dataset.report is not None
        assert [file["path"] for file in dataset.report["damaged"]] == ["train/rose/broken.png"]
        assert sent[-1] == (sent[-1][1], sent[-1][1])
        assert kiln.datasets.get("my photos") == dataset
        assert "my-photos" in [listed.name for listed in kiln.datasets.list()]
        assert kiln.datasets.preview("my-photos").size == (788, 132)
        assert kiln.datasets.push(photos) == dataset
        job = kiln.jobs.create("tiny", dataset="my-photos")
        with pytest.raises(Conflict, match=job.id):
            kiln.datasets.delete("my-photos")
        job.cancel()
        kiln.datasets.delete("my-photos")
        with pytest.raises(NotFound, match="there is no data set 'my-photos'"):
            kiln.datasets.get("my-photos")


def test_the_async_client_pushes_the_same_bytes(url: str, photos: Path) -> None:
    async def push() -> tuple[str | None, int | None]:
        async with AsyncKiln(url) as kiln:
            first = await kiln.datasets.push(photos, "from asyncio")
            assert first in [await kiln.datasets.get(dataset.name) for dataset in await kiln.datasets.list()]
            assert (await kiln.datasets.preview(first.name)).width == 788
            await kiln.datasets.delete(first.name)
            return first.digest, first.images

    with Kiln(url) as kiln:
        dataset = kiln.datasets.push(photos, "from threads")
        kiln.datasets.delete("from-threads")

    assert asyncio.run(push()) == (dataset.digest, 6)


def test_a_folder_without_images_is_refused(url: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with Kiln(url) as kiln, pytest.raises(InvalidInput, match="no images in data set empty"):
        kiln.datasets.push(tmp_path / "empty")


def test_the_tar_of_a_folder_is_complete_and_leaves_hidden_files_out(photos: Path) -> None:
    (photos / ".cache").mkdir()
    (photos / ".cache" / "1.png").write_bytes(png())
    (photos / "train" / "rose" / ".DS_Store").write_bytes(b"x")
    (photos / "train" / "loop").symlink_to(photos)
    long = photos / "train" / "rose" / f"{'langer Name ü' * 9}.png"
    long.write_bytes(png(5))

    upload = Upload.of(photos)
    data = b"".join(upload.pieces(None))

    assert len(data) == upload.size
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
    assert len(files) == 9
    assert (file := files[f"train/rose/{long.name}"]) is not None
    assert file.read() == png(5)


def test_a_file_that_shrinks_while_it_is_sent_ends_the_upload(photos: Path) -> None:
    upload = Upload.of(photos)
    (photos / "train" / "daisy" / "0.png").write_bytes(b"")

    with pytest.raises(OSError, match="has become shorter"):
        list(upload.pieces(None))


def test_the_command_pushes_lists_shows_and_deletes(command: Run, photos: Path, tmp_path: Path) -> None:
    pushed = command("datasets", "push", str(photos))
    assert pushed.returncode == 0, pushed.stderr
    assert "damaged: train/rose/broken.png: not an image" in pushed.stdout
    assert "ignored: train/rose/notes.txt: not an image" in pushed.stdout

    assert command("datasets", "show", "my photos").stdout == pushed.stdout
    assert [row["name"] for row in printed_json(command("datasets", "--json"))] == ["cifar10", "my-photos"]
    assert "my photos" in command("datasets", "list").stdout
    assert printed_json(command("datasets", "delete", "my-photos", "--json")) == {"deleted": "my-photos"}
    assert command("datasets", "show", "my-photos").returncode == 3


def test_the_command_pushes_an_archive(command: Run, tmp_path: Path) -> None:
    (tmp_path / "flowers.zip").write_bytes(as_zip(flowers()))

    assert printed_json(command("datasets", "push", "flowers.zip", "--json"))["name"] == "flowers"
    assert command("datasets", "push", "nowhere").stderr == ("kiln: cannot read nowhere: No such file or directory\n")
    command("datasets", "delete", "flowers")
