"""`kiln.datasets`, synchronous and asyncio: push, list, show and delete data sets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from kiln import _requests
from kiln._uploads import OnProgress, Upload
from kiln.types import DatasetData

if TYPE_CHECKING:
    from kiln.async_client import AsyncKiln
    from kiln.client import Kiln


class Datasets:
    """`kiln.datasets`"""

    def __init__(self, kiln: Kiln) -> None:
        self._kiln = kiln

    def push(self, folder: Path | str, name: str | None = None, on_progress: OnProgress | None = None) -> DatasetData:
        """Sends a folder of images, a ZIP or a tar, and returns the server's report. The default name is the folder's.

        Calls `on_progress(bytes_sent, bytes_in_total)` after each piece. Raises InvalidInput for images that cannot be
        used, Conflict while a job needs the data set that would be replaced, OSError if a file cannot be read.
        """
        upload = Upload.of(Path(folder))
        call = _requests.push_dataset(
            name or default_name(Path(folder)), lambda: upload.pieces(on_progress), upload.size
        )
        return self._kiln.send(call)

    def push_stream(self, name: str, pieces: Callable[[], Iterator[bytes]], size: int) -> DatasetData:
        """Sends an archive of `size` bytes that is made or received while it is sent. It is not sent twice.

        Raises as `push` does, and Unavailable without a second attempt.
        """
        call = _requests.push_dataset(name, pieces, size, is_repeatable=False)
        return self._kiln.send(call)

    def list(self) -> Sequence[DatasetData]:
        """In the order of their names, without reports."""
        return self._kiln.send(_requests.list_datasets())

    def get(self, name: str) -> DatasetData:
        """With its report: classes, counts, sizes, and each file that is not read."""
        return self._kiln.send(_requests.get_dataset(name))

    def preview(self, name: str) -> Image.Image:
        """A row of up to ten training images for each class. Raises NotFound for CIFAR-10."""
        return _requests.decode_image(self._kiln.send(_requests.dataset_preview_png(name)))

    def delete(self, name: str) -> None:
        """Deletes a pushed data set. Raises Conflict while a job needs it, and for a folder of the server."""
        self._kiln.send(_requests.delete_dataset(name))


class AsyncDatasets:
    """`kiln.datasets`"""

    def __init__(self, kiln: AsyncKiln) -> None:
        self._kiln = kiln

    async def push(
        self, folder: Path | str, name: str | None = None, on_progress: OnProgress | None = None
    ) -> DatasetData:
        """Sends a folder of images, a ZIP or a tar, and returns the server's report. The default name is the folder's.

        Calls `on_progress(bytes_sent, bytes_in_total)` after each piece. Raises InvalidInput for images that cannot be
        used, Conflict while a job needs the data set that would be replaced, OSError if a file cannot be read.
        """
        upload = Upload.of(Path(folder))
        call = _requests.push_dataset(
            name or default_name(Path(folder)), lambda: upload.async_pieces(on_progress), upload.size
        )
        return await self._kiln.send(call)

    async def push_stream(self, name: str, pieces: Callable[[], AsyncIterator[bytes]], size: int) -> DatasetData:
        """Sends an archive of `size` bytes that is made or received while it is sent. It is not sent twice.

        Raises as `push` does, and Unavailable without a second attempt.
        """
        call = _requests.push_dataset(name, pieces, size, is_repeatable=False)
        return await self._kiln.send(call)

    async def list(self) -> Sequence[DatasetData]:
        """In the order of their names, without reports."""
        return await self._kiln.send(_requests.list_datasets())

    async def get(self, name: str) -> DatasetData:
        """With its report: classes, counts, sizes, and each file that is not read."""
        return await self._kiln.send(_requests.get_dataset(name))

    async def preview(self, name: str) -> Image.Image:
        """A row of up to ten training images for each class. Raises NotFound for CIFAR-10."""
        return _requests.decode_image(await self._kiln.send(_requests.dataset_preview_png(name)))

    async def delete(self, name: str) -> None:
        """Deletes a pushed data set. Raises Conflict while a job needs it, and for a folder of the server."""
        await self._kiln.send(_requests.delete_dataset(name))


def default_name(path: Path) -> str:
    """The name of a folder, or of an archive without its endings."""
    name = path.resolve().name
    if path.is_dir():
        return name
    for ending in (".zip", ".gz", ".tgz", ".bz2", ".xz", ".tar"):
        name = name.removesuffix(ending)
    return name
