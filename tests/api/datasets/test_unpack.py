"""Archives of strangers: what is refused, and that nothing lands outside the folder."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from services.api.datasets import unpack as module
from services.api.datasets.unpack import unpack
from shared.errors import InvalidInput
from tests.api.datasets.archives import as_tar, as_zip, files_below, flowers

LIMIT = 1 << 20
FILES = flowers()


def unpacked(data: bytes, folder: Path, limit_bytes: int = LIMIT) -> dict[str, bytes]:
    archive = folder / "archive"
    archive.write_bytes(data)
    unpack(archive, folder / "files", limit_bytes)
    return files_below(folder / "files")


@pytest.mark.parametrize(
    "data",
    [as_zip(FILES), as_tar(FILES), as_tar(FILES, "gz"), as_tar(FILES, "bz2"), as_tar(FILES, "xz")],
    ids=["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"],
)
def test_every_format_gives_the_same_files(data: bytes, tmp_path: Path) -> None:
    assert unpacked(data, tmp_path) == FILES


def test_a_zip_from_windows_has_folders_too(tmp_path: Path) -> None:
    backslashes = {name.replace("/", "\\"): data for name, data in FILES.items()}

    assert unpacked(as_zip(backslashes), tmp_path) == FILES


ESCAPES = ["../evil.png", "train/../../evil.png", "/evil.png", "C:/evil.png"]


@pytest.mark.parametrize(
    ("make", "name"),
    [(as_zip, name) for name in [*ESCAPES, "..\\evil.png", "C:\\evil.png"]] + [(as_tar, name) for name in ESCAPES],
)
def test_an_entry_that_leads_out_of_the_folder_is_refused(make: object, name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="leads out of the data set"):
        unpacked(make({"train/a/1.png": b"x", name: b"evil"}), tmp_path)  # type: ignore[operator]

    assert not list(tmp_path.rglob("*evil*"))
    assert not list(tmp_path.parent.glob("evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_of_a_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        link = tarfile.TarInfo("train/a/link")
        link.type, link.linkname = kind, "/etc/passwd"
        archive.addfile(link)

    with pytest.raises(InvalidInput, match=r"link or a device.*train/a/link"):
        unpacked(file.getvalue(), tmp_path)


def test_links_of_a_zip_are_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        link = zipfile.ZipInfo("train/a/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")

    with pytest.raises(InvalidInput, match="link or a device"):
        unpacked(file.getvalue(), tmp_path)


def test_an_archive_may_not_unpack_to_more_than_the_limit(tmp_path: Path) -> None:
    big = {"train/a/1.png": bytes(LIMIT), "train/a/2.png": b"x"}

    for data in (as_zip(big), as_tar(big, "gz")):
        with pytest.raises(InvalidInput, match="KILN_MAX_DATASET_GB"):
            unpacked(data, tmp_path)
        assert sum(len(data) for data in files_below(tmp_path / "files").values()) <= LIMIT
        (tmp_path / "files" / "train" / "a" / "1.png").unlink()
        (tmp_path / "files" / "train" / "a" / "2.png").unlink()


def test_an_archive_that_grows_a_thousandfold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RATIO_APPLIES_ABOVE", 1 << 20)
    bomb = as_zip({"train/a/1.png": bytes(64 << 20)})
    assert len(bomb) < 100_000

    with pytest.raises(InvalidInput, match="100 times as large"):
        unpacked(bomb, tmp_path, limit_bytes=1 << 30)

    assert sum(len(data) for data in files_below(tmp_path / "files").values()) <= 100 * len(bomb)


def test_the_number_of_entries_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 5)
    for make in (as_zip, as_tar):
        with pytest.raises(InvalidInput, match="more than 5 entries"):
            unpacked(make({f"train/a/{n}.png": b"" for n in range(6)}), tmp_path)
        for path in (tmp_path / "files" / "train" / "a").iterdir():
            path.unlink()


def test_a_tar_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 32

    with pytest.raises(InvalidInput, match="a header of"):
        unpacked(header.tobuf(tarfile.USTAR_FORMAT) + bytes(1024), tmp_path)


@pytest.mark.parametrize("make", [as_zip, as_tar, lambda files: as_tar(files, "gz")], ids=["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_a_truncated_archive_is_refused(make: object, kept: float, tmp_path: Path) -> None:
    data = make({name: 200 * data for name, data in FILES.items()})  # type: ignore[operator]

    with pytest.raises(InvalidInput, match="truncated or damaged"):
        unpacked(data[: int(kept * len(data))], tmp_path)


def test_a_tar_that_was_cut_between_two_members_is_refused(tmp_path: Path) -> None:
    whole = as_tar(FILES)
    first = tarfile.BLOCKSIZE * 2  # a header, and a file of less than one block

    with pytest.raises(InvalidInput, match="truncated or damaged: its end is missing"):
        unpacked(whole[:first], tmp_path)


@pytest.mark.parametrize("data", [b"GIF89a" + bytes(600), b"x", b"PK" + bytes(100)], ids=["image", "short", "no zip"])
def test_other_files_are_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no archive that Kiln reads|truncated or damaged"):
        unpacked(data, tmp_path)


def test_an_entry_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    twice = as_tar({"train/a/1.png": b"first"})[:1024] + as_tar({"train/a/1.png": b"second"})

    with pytest.raises(InvalidInput, match="occurs twice"):
        unpacked(twice, tmp_path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(as_zip({"train/a/1.png": b"secret"}))
    data[6] |= 1  # the flag "encrypted", in the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and in the list of members

    with pytest.raises(InvalidInput, match="encrypted"):
        unpacked(bytes(data), tmp_path)
