"""The report on a data set: its classes, counts and sizes, and every file that is not read, with the reason."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from shared.datasets.decode import BadImage, DecodedImage, decode, read_bytes
from shared.datasets.layouts import ImageFile, Kind, Layout, Split, scan
from shared.datasets.pixels import Channels, is_grey
from shared.datasets.text import counted, listed
from shared.datasets.walk import SkippedFile
from shared.errors import escape

AHEAD = 64  # files that are decoded before their turn, so that a slow one does not stop the others

OnProgress = Callable[[int, int], None]  # (files read, files in total)
Item = TypeVar("Item")
Result = TypeVar("Result")


class DatasetReport(BaseModel):
    """What Kiln understands of a data set's folder. Counts are of images that can be read."""

    model_config = ConfigDict(frozen=True)

    layout: Kind
    conditional: bool  # whether there is more than one class
    classes: tuple[str, ...]
    counts: dict[Split, dict[str, int]]  # by split and class
    resolutions: dict[str, int]  # images by upright size, "<width>x<height>"; the most frequent comes first
    channels: Channels  # 1 if every image is grey
    damaged: tuple[SkippedFile, ...]  # images that cannot be read
    ignored: tuple[SkippedFile, ...]  # hidden files, files that are no images, second links to a file
    warnings: tuple[str, ...]
    held_out: str | None  # how the test split was drawn; None if the folder decides it
    digest: str  # SHA-256 of the classes and of every image's split, class and bytes

    @property
    def images(self) -> int:
        return sum(sum(counts.values()) for counts in self.counts.values())


@dataclass(frozen=True)
class FileFacts:
    """What the report says of a file that can be read."""

    size: tuple[int, int]  # width and height, upright
    is_grey: bool
    notes: tuple[str, ...]
    digest: bytes  # SHA-256 of the file


def report(folder: Path, on_progress: OnProgress | None = None) -> DatasetReport:
    """Decodes every image of the folder. Raises BadDataset if the folder has none of the known layouts; OSError."""
    layout = scan(folder)

    def examine(file: ImageFile) -> FileFacts | BadImage:
        try:
            data = read_bytes(layout.folder / file.name)
            return facts_of(data, decode(data))
        except BadImage as problem:
            return problem
        except OSError as error:
            return BadImage(f"cannot be read: {error.strerror}")

    builder = ReportBuilder(layout)
    with ThreadPoolExecutor() as pool:
        for count, (file, facts) in enumerate(in_order(pool, examine, layout.files), 1):
            builder.add(file, facts)
            if on_progress is not None:
                on_progress(count, len(layout.files))
    return builder.build()


def facts_of(data: bytes, decoded: DecodedImage) -> FileFacts:
    return FileFacts(decoded.image.size, is_grey(decoded.image), decoded.notes, hashlib.sha256(data).digest())


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in order. Holds the results of AHEAD items at most, unlike `pool.map`."""
    pending: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        pending.append((item, pool.submit(function, item)))
        if len(pending) > AHEAD:
            first, future = pending.popleft()
            yield first, future.result()
    for item, future in pending:
        yield item, future.result()


class ReportBuilder:
    """Collects the facts on each file of a layout."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._counts: Counter[tuple[Split, int]] = Counter()
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._is_grey = True
        self._damaged: list[SkippedFile] = []
        self._notes: dict[str, list[str]] = {}  # names of files by note
        self._first: dict[bytes, ImageFile] = {}  # the first file with this digest
        self._copies: list[tuple[ImageFile, ImageFile]] = []  # a first file and one with the same bytes
        self._digest = hashlib.sha256(repr(layout.classes).encode())

    def add(self, file: ImageFile, facts: FileFacts | BadImage) -> None:
        """Call it with the files in the layout's order: the digest depends on it."""
        if isinstance(facts, BadImage):
            self._damaged.append(SkippedFile(path=escape(file.name), reason=str(facts)))
            return
        self._counts[file.split, file.label] += 1
        self._sizes[facts.size] += 1
        self._is_grey &= facts.is_grey
        for note in facts.notes:
            self._notes.setdefault(note, []).append(file.name)
        if (first := self._first.setdefault(facts.digest, file)) is not file:
            self._copies.append((first, file))
        self._digest.update(f"{file.split} {file.label} {facts.digest.hex()}\n".encode())

    def build(self) -> DatasetReport:
        layout = self._layout
        splits: list[Split] = list(dict.fromkeys(file.split for file in layout.files))
        return DatasetReport(
            layout=layout.kind,
            conditional=layout.conditional,
            classes=layout.classes,
            counts={
                split: {name: self._counts[split, label] for label, name in enumerate(layout.classes)}
                for split in splits
            },
            resolutions={f"{width}x{height}": count for (width, height), count in self._sizes.most_common()},
            channels=1 if self._is_grey and self._sizes else 3,
            damaged=tuple(self._damaged),
            ignored=layout.ignored,
            warnings=(*layout.warnings, *self._warnings()),
            held_out=layout.held_out,
            digest=self._digest.hexdigest(),
        )

    def _warnings(self) -> Iterator[str]:
        for note, names in sorted(self._notes.items()):
            yield f"{note}: {counted(len(names), 'file')} ({listed(names)})"
        mixed = [copy.name for first, copy in self._copies if first.label != copy.label]
        leaked = [copy.name for first, copy in self._copies if first.split != copy.split]
        if self._copies:
            copies = [copy.name for _, copy in self._copies]
            yield f"{counted(len(copies), 'file')} with the same bytes as another file ({listed(copies)})"
        if mixed:
            yield f"{counted(len(mixed), 'copy', 'copies')} of an image of another class ({listed(mixed)})"
        if leaked:
            yield f"{counted(len(leaked), 'test image')} with the same bytes as a training image ({listed(leaked)})"
