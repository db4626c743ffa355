"""Recognises the layout of a folder of images: which files are training and test images of which class.

Three layouts are recognised: `train/<class>/*` with an optional `test/<class>/*`; `<class>/*`; and one folder of
images. docs/reference/data-sets.md lists the rules.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from shared.datasets.text import counted, quoted
from shared.datasets.walk import Folder, FoundFile, SkippedFile, once_each, walk
from shared.errors import BadDataset, escape

Split = Literal["train", "test"]
Kind = Literal["train/<class>/*", "train/*", "<class>/*", "*"]

TEST_FOLDERS = ("test", "val", "valid", "validation")  # the first that exists is the test split
ONE_CLASS = "images"  # the class of images without classes
HELD_OUT_PART = 10  # without a `train` folder, every tenth image of a class is held out for testing
LAYOUTS = (
    "train/<class>/<images> with an optional test/<class>/<images>, or <class>/<images>, or a folder that holds only "
    "images"
)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file that is an image by its content, or claims to be one by its ending."""

    name: str  # path relative to the data set's folder, with forward slashes
    split: Split
    label: int  # index into the classes


@dataclass(frozen=True)
class Layout:
    """What the files of a data set are. Training images come before test images, and in a split they go by class."""

    folder: Path
    kind: Kind
    classes: tuple[str, ...]
    files: tuple[ImageFile, ...]
    ignored: tuple[SkippedFile, ...]
    warnings: tuple[str, ...]
    held_out: str | None  # how the test split was drawn; None if the folder decides it

    @property
    def conditional(self) -> bool:
        """Whether there are classes to tell apart."""
        return len(self.classes) > 1

    def of_split(self, split: Split) -> tuple[ImageFile, ...]:
        return tuple(file for file in self.files if file.split == split)


def scan(folder: Path) -> Layout:
    """Reads the names of all files, and the first bytes of those without an image's ending. Decodes nothing.

    Raises BadDataset if the folder is missing, has none of the three layouts, or has classes that cannot be used;
    OSError if it cannot be listed.
    """
    if not folder.is_dir():
        raise BadDataset(f"no data set at {folder}; expected {LAYOUTS}")
    tree, skipped = walk(folder.resolve())
    return _Scan(folder.resolve(), skipped).understand(tree)


class _Scan:
    """One folder being understood. Collects what its owner should know."""

    def __init__(self, root: Path, ignored: list[SkippedFile]) -> None:
        self.root, self.ignored = root, ignored
        self.warnings: list[str] = []

    def understand(self, tree: Folder) -> Layout:
        top = self._without_wrappers(tree)
        train, test = self._find_splits(top)
        classes = self._class_folders(train or top, is_split=train is not None)
        placed = self._place(train or top, classes, "train")
        if test is not None:
            placed += self._place(test, classes, "test")
        files = self._once_each(placed)
        self._check_every_class_has_images(classes, files)
        held_out = None
        if train is None:
            files, held_out = hold_out(files, top)
        kind = f"{'' if train is None else 'train/'}{'<class>/' if classes != (ONE_CLASS,) else ''}*"
        return Layout(
            folder=self.root,
            kind=cast(Kind, kind),
            classes=classes,
            files=tuple(files),
            ignored=tuple(self.ignored),
            warnings=tuple(self.warnings),
            held_out=held_out,
        )

    def _without_wrappers(self, folder: Folder) -> Folder:
        """The folder itself, or the one inside it that an archive was packed with."""
        while not folder.files and len(inner := _with_images(folder)) == 1:
            (only,) = inner
            if _is_train(only) or only.files or not _with_images(only):
                break
            names = quoted([child.name for child in _with_images(only)])
            self.warnings.append(
                f"the data set holds one folder, {quoted([only.name])}: it is opened, and its folders {names} are read"
            )
            folder = only
        return folder

    def _find_splits(self, top: Folder) -> tuple[Folder | None, Folder | None]:
        """The folders of the training and the test images. No training folder: the data set is not split."""
        folders = _with_images(top)
        tests = [folder for name in TEST_FOLDERS for folder in folders if folder.name.lower() == name]
        train = next((folder for folder in top.folders if _is_train(folder)), None)
        # `train` may be a class like any other, beside `car` and `plane`.
        if train is None or not (_with_images(train) or all(folder in (train, *tests) for folder in folders)):
            return None, None
        test = tests[0] if tests else None
        if test is not None and test.name.lower() != "test":
            self.warnings.append(f"there is no folder 'test': '{escape(test.name)}' is read as the test split")
        for folder in top.folders:
            if folder not in (train, test):
                self._ignore(folder.path, "beside the folders of the splits")
        for file in top.files:
            self._ignore(file.name, "beside the folders of the splits")
        return train, test

    def _class_folders(self, parent: Folder, *, is_split: bool) -> tuple[str, ...]:
        """The names of the classes. Raises BadDataset for names that are not UTF-8."""
        folders = _with_images(parent)
        if not folders and not parent.files:
            raise BadDataset(f"no images in data set {self.root / parent.path}; expected {LAYOUTS}")
        if not folders:
            return (ONE_CLASS,)
        if empty := [folder for folder in parent.folders if not folder.has_images]:
            names = quoted([folder.name for folder in empty])
            if is_split:
                raise BadDataset(
                    f"data set {self.root / parent.path}: no images for the classes {names}; put images into these "
                    "folders, or remove the folders"
                )
            self.warnings.append(f"no images in {names}: not read as classes")
        if unreadable := [folder.name for folder in folders if escape(folder.name) != folder.name]:
            # A model's manifest, events and URLs are UTF-8 and could not name this class.
            place = self.root / parent.path
            raise BadDataset(f"data set {place}: class names must be UTF-8; rename the folder {quoted(unreadable)}")
        if len(folders) == 1 and (inner := _with_images(folders[0])):
            self.warnings.append(
                f"{quoted([folders[0].name])} is the only class and holds the folders "
                f"{quoted([folder.name for folder in inner])}: all their images are of this class. If these folders "
                "are the classes, move them up by one level"
            )
        return tuple(folder.name for folder in folders)

    def _place(self, parent: Folder, classes: tuple[str, ...], split: Split) -> list[tuple[FoundFile, Split, int]]:
        """The files of a split with their labels. Raises BadDataset for a class that the training split lacks."""
        folders = _with_images(parent)
        if not folders or classes == (ONE_CLASS,):
            return [(file, split, 0) for file in parent.all_files()]
        if unknown := [folder.name for folder in folders if folder.name not in classes]:
            raise BadDataset(
                f"the test split of data set {self.root} has classes that its training split lacks: "
                f"{quoted(unknown)}. Rename or remove these folders; the training classes are {quoted(classes)}"
            )
        for file in parent.files:
            self._ignore(file.name, "beside the folders of the classes")
        if parent.files:
            self.warnings.append(
                f"{counted(len(parent.files), 'image')} beside the folders of the classes: not read, without a class"
            )
        return [(file, split, classes.index(folder.name)) for folder in folders for file in folder.all_files()]

    def _once_each(self, placed: Sequence[tuple[FoundFile, Split, int]]) -> list[ImageFile]:
        chosen = once_each([file for file, _, _ in placed])
        files = []
        for file, split, label in placed:
            if (original := chosen[file.identity]) is file:
                files.append(ImageFile(file.name, split, label))
            else:
                self._ignore(file.name, f"the same file as {escape(original.name)}")
        return files

    def _check_every_class_has_images(self, classes: tuple[str, ...], files: Sequence[ImageFile]) -> None:
        present = {file.label for file in files if file.split == "train"}
        if missing := [name for label, name in enumerate(classes) if label not in present]:
            names = quoted(missing)
            raise BadDataset(f"data set {self.root}: all images of {names} are links to images of other classes")

    def _ignore(self, name: str, reason: str) -> None:
        self.ignored.append(SkippedFile(path=escape(name), reason=reason))


def hold_out(files: Sequence[ImageFile], top: Folder) -> tuple[list[ImageFile], str]:
    """Moves the tenth of each class whose names have the smallest SHA-256 into the test split, and says so.

    A tenth is rounded down. It depends on the names below `top` alone: it is the same on every machine, in every run.
    """
    start = len(f"{top.path}/") if top.path else 0
    by_class: dict[int, list[ImageFile]] = {}
    for file in files:
        by_class.setdefault(file.label, []).append(file)
    chosen = set()
    for members in by_class.values():
        members.sort(key=lambda file: hashlib.sha256(os.fsencode(file.name[start:])).digest())
        chosen |= {file.name for file in members[: len(members) // HELD_OUT_PART]}
    train = [file for file in files if file.name not in chosen]
    test = [replace(file, split="test") for file in files if file.name in chosen]
    return train + test, (
        f"{len(test):,} of {len(files):,} images are held out for testing: in each class the tenth whose names have "
        "the smallest SHA-256"
    )


def _with_images(folder: Folder) -> list[Folder]:
    return [child for child in folder.folders if child.has_images]


def _is_train(folder: Folder) -> bool:
    return folder.name.lower() == "train"
