"""Lists the image files below a folder. Hidden and system files, loops of links and second links are left out."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from shared.errors import escape

IMAGE_ENDINGS = frozenset({
    ".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpe",
    ".jpeg", ".jpg", ".jpx", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
})  # fmt: skip
# By their first bytes these are TIFF, but Pillow would read only the small preview inside.
CAMERA_RAW_ENDINGS = frozenset({
    ".3fr", ".arw", ".cr2", ".dng", ".erf", ".nef", ".nrw", ".orf", ".pef", ".raw", ".rw2", ".srw",
})  # fmt: skip
SYSTEM_NAMES = frozenset({
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir", "lost+found",
})  # fmt: skip

_SIGNATURES = (  # the first bytes of a format, at their offset
    (0, b"\xff\xd8\xff"),  # JPEG
    (0, b"\x89PNG\r\n\x1a\n"),
    (0, b"GIF87a"),
    (0, b"GIF89a"),
    (0, b"II*\0"),  # TIFF, little-endian
    (0, b"MM\0*"),  # TIFF, big-endian
    (0, b"\xff\x4f\xff\x51"),  # JPEG 2000, the bare code stream
    (0, b"\0\0\0\x0cjP  "),  # JPEG 2000, a file
    (8, b"WEBP"),
)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
_SNIFFED_BYTES = 32

Identity = tuple[int, int]  # device and inode: the same for all links to one file or folder


class SkippedFile(BaseModel):
    """A file or folder that is not read, and why."""

    model_config = ConfigDict(frozen=True)

    path: str  # relative to the data set's folder, with forward slashes
    reason: str


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that is an image by its ending or by its first bytes."""

    name: str  # path relative to the root, with forward slashes; bytes that are not UTF-8 as lone surrogates
    identity: Identity
    is_linked: bool  # the file, or a folder above it, is a symbolic link


@dataclass(slots=True)
class Folder:
    """A folder with its image files and sub-folders, each in the order of their names."""

    path: str  # relative to the root; "" for the root itself
    files: list[FoundFile] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def all_files(self) -> list[FoundFile]:
        """The files at any depth, folder after folder by path: the order of torchvision's ImageFolder."""
        return [file for folder in sorted(self._below(), key=lambda folder: folder.path) for file in folder.files]

    @property
    def has_images(self) -> bool:
        return any(folder.files for folder in self._below())

    def _below(self) -> Iterator[Folder]:
        yield self
        for folder in self.folders:
            yield from folder._below()


def walk(root: Path) -> tuple[Folder, list[SkippedFile]]:
    """The tree of image files below `root`, and what was left out. Raises OSError if a folder cannot be listed."""
    walker = _Walker(root)
    return walker.read("", (_identity(root.stat()),), is_linked=False), walker.skipped


class _Walker:
    def __init__(self, root: Path) -> None:
        self.skipped: list[SkippedFile] = []
        self._root = root
        self._followed: set[Identity] = set()  # folders that a link has led to: each is followed once

    def read(self, path: str, ancestors: tuple[Identity, ...], *, is_linked: bool) -> Folder:
        folder = Folder(path)
        with os.scandir(self._root / path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = f"{path}/{entry.name}" if path else entry.name
                reason = _why_hidden(entry.name) or self._add(folder, entry, name, ancestors, is_linked=is_linked)
                if reason:
                    self.skipped.append(SkippedFile(path=escape(name), reason=reason))
        return folder

    def _add(
        self, folder: Folder, entry: os.DirEntry[str], name: str, ancestors: tuple[Identity, ...], *, is_linked: bool
    ) -> str | None:
        """Adds a file or a folder, or returns the reason why not."""
        is_link = entry.is_symlink()
        try:
            status = entry.stat()
        except OSError as error:
            return f"a link that leads nowhere: {error.strerror}"
        identity = _identity(status)
        if stat.S_ISDIR(status.st_mode):
            if is_link and (identity in ancestors or identity in self._followed):
                return "a link to a folder that is read already"
            if is_link:
                self._followed.add(identity)
            folder.folders.append(self.read(name, (*ancestors, identity), is_linked=is_linked or is_link))
            return None
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"
        if (reason := _why_no_image(Path(entry.path))) is None:
            folder.files.append(FoundFile(name, identity, is_linked or is_link))
        return reason


def once_each(files: Sequence[FoundFile]) -> dict[Identity, FoundFile]:
    """The one file to read of all links to it: the file itself rather than a symbolic link, the first hard link."""
    chosen: dict[Identity, FoundFile] = {}
    for file in sorted(files, key=lambda file: file.is_linked):  # stable: the order of `files` otherwise
        chosen.setdefault(file.identity, file)
    return chosen


def is_image(start: bytes) -> bool:
    """Whether these first bytes of a file are those of a format that Kiln reads."""
    if any(start.startswith(signature, offset) for offset, signature in _SIGNATURES):
        return True
    if start[4:8] == b"ftyp":
        return start[8:12] in _HEIF_BRANDS
    is_portable_map = start[:1] == b"P" and start[1:2] in b"123456" and start[2:3].isspace()
    is_bitmap = start[:2] == b"BM" and start[6:10] == b"\0\0\0\0"
    return is_portable_map or is_bitmap


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _why_hidden(name: str) -> str | None:
    if name.startswith("."):
        return "hidden: its name starts with a dot"
    return "a file of the operating system" if name.lower() in SYSTEM_NAMES else None


def _why_no_image(path: Path) -> str | None:
    """Why this file is no image, or None. A file with an image's ending is one, if perhaps a damaged one."""
    ending = path.suffix.lower()
    if ending in CAMERA_RAW_ENDINGS:
        return "a camera's raw file: convert it to TIFF or JPEG"
    if ending in IMAGE_ENDINGS:
        return None
    try:
        with path.open("rb") as file:
            start = file.read(_SNIFFED_BYTES)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if is_image(start) else "not an image"
