"""Makes a data set of an archive that a client sends: receives, unpacks, examines and publishes it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from services.api.datasets.preview import draw_preview
from services.api.datasets.unpack import unpack
from services.api.datasets.users import require_unused
from services.api.middleware.disconnect import ClientDisconnected
from shared.datasets.layouts import scan
from shared.datasets.report import report
from shared.errors import DISK_FULL, BadDataset, BodyTooLarge, BodyTooSlow, Conflict, InvalidInput, StorageFull
from shared.jobs.store import JobStore
from shared.settings import Settings
from shared.storage.datasets import CIFAR10, PushedDataset, PushedDatasets, find_folder, new_version, pack, slug
from shared.sweeps.store import SweepStore

WRITTEN_BYTES = 1 << 20  # at a time, so that a thread is used once per megabyte
LEFTOVER_AGE_S = 24 * 3600.0  # an upload of this age belongs to no live request
MAX_DISPLAY_NAME = 200  # characters


@dataclass(frozen=True)
class Pusher:
    """Publishes pushed data sets, one at a time: reading all images of a set uses every core already."""

    settings: Settings
    pushed: PushedDatasets
    store: JobStore
    sweeps: SweepStore
    lock: threading.Lock

    @property
    def limit_bytes(self) -> int:
        return int(self.settings.max_dataset_gb * (1 << 30))

    async def push(
        self, display_name: str, body: AsyncIterator[bytes], declared_bytes: int | None
    ) -> tuple[PushedDataset, bool]:
        """-> the data set, and whether its name is new. The same files as before change nothing.

        Raises InvalidInput for an archive or images that cannot be used, Conflict if the name is taken or in use,
        BodyTooLarge, BodyTooSlow, StorageFull, ClientDisconnected. Then the data set of before is still there.
        """
        name = slug(display_name)
        await run_in_threadpool(self._check, name, display_name)
        if declared_bytes is not None and declared_bytes > self.limit_bytes:
            raise self._too_large(declared_bytes)
        try:
            folder = await run_in_threadpool(self._new_folder)
            try:
                await self._receive(body, folder / "archive")
                return await run_in_threadpool(self._publish, name, display_name, folder)
            finally:
                await run_in_threadpool(shutil.rmtree, folder, ignore_errors=True)
        except OSError as error:
            if error.errno in DISK_FULL:
                message = f"no room for data set {name} on the disk of the server: {error.strerror}"
                raise StorageFull(message) from None
            raise

    def delete(self, name: str) -> None:
        """Raises UnknownDataset; Conflict for a folder, and while a job needs the data set."""
        name = slug(name)
        if name == CIFAR10 or (not self.pushed.exists(name) and find_folder(self.settings.dataset_root, name).is_dir()):
            raise Conflict(f"data set {name} is a folder in KILN_DATASETS; delete the folder itself")
        self.pushed.get(name)
        require_unused(name, "deleted", self.store, self.sweeps)
        with self.lock:
            self.pushed.delete(name)

    def _check(self, name: str, display_name: str) -> None:
        if len(display_name) > MAX_DISPLAY_NAME:
            raise InvalidInput.of("name", display_name, f"at most {MAX_DISPLAY_NAME} characters")
        if name == CIFAR10 or find_folder(self.settings.dataset_root, name).is_dir():
            raise Conflict(f"data set {name} is a folder in KILN_DATASETS already; push under another name")

    async def _receive(self, body: AsyncIterator[bytes], archive: Path) -> None:
        """Writes the body to a file, piece by piece: it may be larger than the memory."""
        size, pieces, waiting = 0, body.__aiter__(), bytearray()
        with archive.open("wb") as file:
            while (piece := await self._next_piece(pieces)) is not None:
                size += len(piece)
                if size > self.limit_bytes:
                    raise self._too_large(size)
                waiting += piece
                if len(waiting) >= WRITTEN_BYTES:
                    await run_in_threadpool(file.write, bytes(waiting))
                    waiting.clear()
            await run_in_threadpool(file.write, bytes(waiting))
        if size == 0:
            raise InvalidInput.of("archive", "", "the body of the request is empty; send a ZIP or a tar")

    async def _next_piece(self, pieces: AsyncIterator[bytes]) -> bytes | None:
        timeout_s = self.settings.body_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await anext(pieces, None)
        except TimeoutError:
            raise BodyTooSlow(f"no part of the archive arrived for {timeout_s:g} s") from None
        except ClientDisconnect:
            raise ClientDisconnected from None

    def _publish(self, name: str, display_name: str, folder: Path) -> tuple[PushedDataset, bool]:
        archive, files = folder / "archive", folder / "files"
        with self.lock:
            unpack(archive, files, self.limit_bytes)
            archive.unlink()
            files.mkdir(exist_ok=True)  # of an archive without files
            try:
                layout = scan(files)
                facts = report(files)
            except BadDataset as error:
                raise InvalidInput.of("archive", display_name, str(error).replace(str(files), name)) from None
            digest = pack(files, [file.name for file in layout.files], archive)
            preview = draw_preview(layout)
            shutil.rmtree(files)
            previous = self.pushed.get(name) if self.pushed.exists(name) else None
            if previous is not None and previous.digest == digest:
                return previous, False
            if previous is not None:
                require_unused(name, "replaced", self.store, self.sweeps)
            dataset = PushedDataset(
                name=name, display_name=display_name, pushed_at=datetime.now(UTC), digest=digest,
                size_bytes=archive.stat().st_size, version=new_version(), report=facts,
            )  # fmt: skip
            self.pushed.publish(dataset, archive, preview)
            return dataset, previous is None

    def _new_folder(self) -> Path:
        uploads = self.settings.data / "uploads"
        uploads.mkdir(parents=True, exist_ok=True)
        for leftover in uploads.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > LEFTOVER_AGE_S:
                    shutil.rmtree(leftover, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=uploads))

    def _too_large(self, size: int) -> BodyTooLarge:
        return BodyTooLarge(
            f"the archive has at least {size:,} bytes; the limit is {self.limit_bytes:,} bytes, set by "
            "KILN_MAX_DATASET_GB"
        )
