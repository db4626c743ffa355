"""The artifact store, on the local disk and on a second file system of fsspec."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from shared.storage.artifacts import ArtifactStore
from tests.shared.conftest import LimitedDisk


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/store"
    else:
        root = f"/{uuid4()}"  # fsspec keeps one such filesystem for the whole process
        yield f"memory:/{root}"
        filesystem = fsspec.filesystem("memory")
        if filesystem.exists(root):
            filesystem.rm(root, recursive=True)


@pytest.fixture
def store(url: str) -> ArtifactStore:
    return ArtifactStore(url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def local(folder: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{folder}")


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# The contract


@pytest.mark.parametrize("data", [b"", b"\x00\xff\n", b"x" * 1_000_000], ids=["empty", "binary", "large"])
def test_a_written_object_can_be_read(store: ArtifactStore, data: bytes) -> None:
    store.write("models/tiny-1/generator.onnx", data)

    assert store.read("models/tiny-1/generator.onnx") == data
    assert store.exists("models/tiny-1/generator.onnx")


def test_a_second_write_replaces_the_first(store: ArtifactStore) -> None:
    store.write("a/b", b"a longer first text")
    store.write("a/b", b"second")

    assert store.read("a/b") == b"second"


def test_an_object_that_was_never_written_is_missing(store: ArtifactStore) -> None:
    store.write("a/b", b"x")

    assert not store.exists("a/c")
    assert not store.exists("z")
    with pytest.raises(FileNotFoundError):
        store.read("a/c")


def test_creating_succeeds_once_per_key(store: ArtifactStore) -> None:
    assert store.create("a/b", b"first")
    assert not store.create("a/b", b"second")
    assert store.read("a/b") == b"first"


def test_creating_does_not_replace_an_object(store: ArtifactStore) -> None:
    store.write("a/b", b"first")

    assert not store.create("a/b", b"second")
    assert store.read("a/b") == b"first"


def test_a_key_is_free_again_when_its_object_is_deleted(store: ArtifactStore) -> None:
    store.create("a/b", b"first")
    store.delete("a/b")

    assert not store.exists("a/b")
    assert store.create("a/b", b"second")
    assert store.read("a/b") == b"second"


def test_deleting_removes_one_object_only(store: ArtifactStore) -> None:
    store.write("a/b", b"x")
    store.write("a/c", b"y")

    store.delete("a/b")
    store.delete("a/b")  # deleting it again is no error
    store.delete("never/written")

    assert store.list("a") == ["c"]


def test_a_listing_has_the_sorted_names_directly_below_a_prefix(store: ArtifactStore) -> None:
    for key in ("models/b/manifest.json", "models/a/x/deep", "models/c.txt", "other/d"):
        store.write(key, b"x")

    assert store.list("models") == ["a", "b", "c.txt"]
    assert store.list("models/b") == ["manifest.json"]
    assert store.list("nothing") == []
    assert store.list("models/nothing") == []


def test_a_listing_is_never_out_of_date(store: ArtifactStore, url: str) -> None:
    store.write("a/one", b"x")
    assert store.list("a") == ["one"]

    ArtifactStore(url).write("a/two", b"x")

    assert store.list("a") == ["one", "two"]


CALLS: dict[str, Callable[[ArtifactStore, str], object]] = {
    "write": lambda store, key: store.write(key, b"x"),
    "create": lambda store, key: store.create(key, b"x"),
    "read": lambda store, key: store.read(key),
    "exists": lambda store, key: store.exists(key),
    "list": lambda store, key: store.list(key),
    "delete": lambda store, key: store.delete(key),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    "key",
    ["", ".", "..", "../outside", "/etc/passwd", "a//b", "a/", "a/../../outside", "a/..", ".hidden", "a/.hidden",
     "a\\b", "a b", "a\n", "ä", "a\x00", "~", "*", "\ud800"],
    ids=ascii,
)  # fmt: skip
def test_a_key_cannot_point_outside_the_store(
    store: ArtifactStore, tmp_path: Path, call: Callable[[ArtifactStore, str], object], key: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"not ours")

    with pytest.raises(ValueError, match="not an artifact key"):
        call(store, key)

    assert files_below(tmp_path) == ["outside"]
    assert outside.read_bytes() == b"not ours"


# The local disk


def test_a_key_is_a_path_below_the_folder(local: ArtifactStore, folder: Path) -> None:
    local.write("models/a/manifest.json", b"{}")

    assert files_below(folder) == ["models/a/manifest.json"]
    assert (folder / "models/a/manifest.json").read_bytes() == b"{}"


def test_other_users_may_read_the_files(local: ArtifactStore, folder: Path) -> None:
    local.write("written", b"x")
    local.create("created", b"x")

    assert [oct((folder / name).stat().st_mode & 0o777) for name in ("written", "created")] == ["0o644", "0o644"]


def test_a_write_that_fails_midway_leaves_the_old_object(
    local: ArtifactStore, folder: Path, limited_disk: LimitedDisk
) -> None:
    local.write("a/b", b"old")

    with limited_disk(1000), pytest.raises(OSError, match="File too large"):
        local.write("a/b", b"new" * 1000)

    assert local.read("a/b") == b"old"
    assert local.list("a") == ["b"]
    assert files_below(folder) == ["a/b"]


@pytest.mark.parametrize("method", ["write", "create"])
def test_a_first_write_that_fails_midway_leaves_nothing(
    local: ArtifactStore, folder: Path, limited_disk: LimitedDisk, method: str
) -> None:
    with limited_disk(1000), pytest.raises(OSError, match="File too large"):
        getattr(local, method)("a/b", b"new" * 1000)

    assert not local.exists("a/b")
    assert files_below(folder) == []
    assert local.create("a/b", b"second try")


def test_an_object_that_fits_is_written_on_a_small_disk(local: ArtifactStore, limited_disk: LimitedDisk) -> None:
    with limited_disk(1000):
        local.write("a/b", b"x" * 1000)

    assert len(local.read("a/b")) == 1000


def test_an_unfinished_file_is_not_listed(local: ArtifactStore, folder: Path) -> None:
    local.write("a/b", b"x")
    (folder / "a" / ".tmp1234").write_bytes(b"half")  # as a killed process leaves it

    assert local.list("a") == ["b"]


@pytest.mark.usefixtures("frequent_thread_switches")
def test_one_of_many_concurrent_creators_succeeds(local: ArtifactStore, folder: Path) -> None:
    threads, keys = 16, [f"aliases/{n:02}" for n in range(50)]
    start = threading.Barrier(threads)

    def create(number: int) -> list[bool]:
        succeeded = []
        for key in keys:
            start.wait()
            succeeded.append(local.create(key, b"%d" % number))
        return succeeded

    with ThreadPoolExecutor(threads) as pool:
        by_thread = list(pool.map(create, range(threads)))

    for key, succeeded in zip(keys, zip(*by_thread, strict=True), strict=True):
        assert succeeded.count(True) == 1
        assert local.read(key) == b"%d" % succeeded.index(True)
    assert files_below(folder) == keys


@pytest.mark.usefixtures("frequent_thread_switches")
def test_concurrent_writers_leave_one_complete_object(local: ArtifactStore, folder: Path) -> None:
    threads, size = 8, 200_000
    start = threading.Barrier(threads)

    def write(number: int) -> None:
        start.wait()
        local.write("a/b", bytes([number]) * size)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(threads)))

    data = local.read("a/b")
    assert data == bytes([data[0]]) * size
    assert files_below(folder) == ["a/b"]


def test_old_files_of_a_killed_writer_are_removed(local: ArtifactStore, folder: Path) -> None:
    local.write("models/a/manifest.json", b"{}")
    old, young = folder / "models/a/.unfinished-old", folder / "models/a/.unfinished-young"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))

    local.sweep("models/a", older_than_s=3600)

    assert files_below(folder) == ["models/a/.unfinished-young", "models/a/manifest.json"]
    local.sweep("nothing/here", older_than_s=0)
