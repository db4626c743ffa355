"""Recognising the layout of a folder: which files are images of which class and split, and which are left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.datasets.layouts import Layout, scan
from shared.errors import BadDataset
from tests.shared.datasets.images import encoded, solid, write

PNG = encoded(solid((1, 2, 3), (4, 4)))


def make(root: Path, *names: str) -> Path:
    """A folder with a small image at each of these paths; a path that ends with a slash is an empty folder."""
    for name in names:
        if name.endswith("/"):
            (root / name).mkdir(parents=True)
        else:
            write(root / name, PNG)
    return root


def images_of(layout: Layout, split: str = "train") -> dict[str, list[str]]:
    """The names of the files by class."""
    files = [file for file in layout.files if file.split == split]
    return {
        name: [file.name for file in files if file.label == label]
        for label, name in enumerate(layout.classes)
        if any(file.label == label for file in files)
    }


def reasons(layout: Layout) -> dict[str, str]:
    return {file.path: file.reason for file in layout.ignored}


# --- the three layouts --------------------------------------------------------------------------------------------


def test_folders_of_splits_hold_folders_of_classes(tmp_path: Path) -> None:
    layout = scan(make(tmp_path, "train/dogs/b.png", "train/cats/a.png", "train/dogs/a.png", "test/dogs/c.png"))
    assert (layout.kind, layout.classes, layout.conditional) == ("train/<class>/*", ("cats", "dogs"), True)
    assert images_of(layout) == {"cats": ["train/cats/a.png"], "dogs": ["train/dogs/a.png", "train/dogs/b.png"]}
    assert images_of(layout, "test") == {"dogs": ["test/dogs/c.png"]}
    assert (layout.warnings, layout.ignored, layout.held_out) == ((), (), None)


def test_without_a_test_folder_no_training_image_is_held_out(tmp_path: Path) -> None:
    layout = scan(make(tmp_path, *(f"train/cats/{i}.png" for i in range(20))))
    assert (len(layout.of_split("train")), len(layout.of_split("test")), layout.held_out) == (20, 0, None)


def test_folders_of_classes_are_read_without_a_split(tmp_path: Path) -> None:
    layout = scan(make(tmp_path, "cats/a.png", "dogs/a.png"))
    assert (layout.kind, images_of(layout)) == ("<class>/*", {"cats": ["cats/a.png"], "dogs": ["dogs/a.png"]})


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_a_folder_of_images_is_one_class(tmp_path: Path, prefix: str) -> None:
    layout = scan(make(tmp_path, f"{prefix}a.png", f"{prefix}b.png"))
    assert (layout.kind, layout.classes, layout.conditional) == (f"{prefix}*", ("images",), False)
    assert images_of(layout) == {"images": [f"{prefix}a.png", f"{prefix}b.png"]}


def test_images_of_unsorted_splits_are_one_class(tmp_path: Path) -> None:
    layout = scan(make(tmp_path, "train/a.png", "test/b.png"))
    assert (images_of(layout), images_of(layout, "test")) == ({"images": ["train/a.png"]}, {"images": ["test/b.png"]})


def test_train_may_be_a_class_like_any_other(tmp_path: Path) -> None:
    layout = scan(make(tmp_path, "car/1.png", "train/1.png", "plane/1.png"))
    assert (layout.kind, layout.classes) == ("<class>/*", ("car", "plane", "train"))


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Test"])
def test_other_names_of_the_test_split_are_understood(tmp_path: Path, name: str) -> None:
    layout = scan(make(tmp_path, "Train/cats/1.png", f"{name}/cats/2.png"))
    assert images_of(layout, "test") == {"cats": [f"{name}/cats/2.png"]}
    expected = [] if name == "Test" else [f"there is no folder 'test': '{name}' is read as the test split"]
    assert list(layout.warnings) == expected


# --- the held-out split -------------------------------------------------------------------------------------------


def test_without_splits_a_tenth_of_each_class_is_held_out(tmp_path: Path) -> None:
    names = [f"{label}/{i}.png" for label, count in (("cats", 29), ("dogs", 9)) for i in range(count)]
    layout = scan(make(tmp_path / "pets", *names))
    # Then it is two of 29 cats, and none of nine dogs
    assert {name: len(files) for name, files in images_of(layout).items()} == {"cats": 27, "dogs": 9}
    assert {name: len(files) for name, files in images_of(layout, "test").items()} == {"cats": 2}
    assert layout.held_out == (
        "2 of 38 images are held out for testing: in each class the tenth whose names have the smallest SHA-256"
    )
    # And the same ones in every scan, wherever the folder is: `printf cats/1.png | sha256sum` gives 030c...
    assert images_of(layout, "test")["cats"] == ["cats/1.png", "cats/19.png"]
    (tmp_path / "archive").mkdir()
    (tmp_path / "pets").rename(tmp_path / "archive/pets")
    wrapped = scan(tmp_path / "archive")
    assert images_of(wrapped, "test")["cats"] == ["pets/cats/1.png", "pets/cats/19.png"]


# --- what is ambiguous --------------------------------------------------------------------------------------------


def test_the_only_class_with_folders_inside_is_one_class_and_a_warning_says_so(tmp_path: Path) -> None:
    layout = scan(make(tmp_path, "train/animals/cats/1.png", "train/animals/dogs/1.png"))
    assert images_of(layout) == {"animals": ["train/animals/cats/1.png", "train/animals/dogs/1.png"]}
    (warning,) = layout.warnings
    assert "'animals' is the only class and holds the folders 'cats', 'dogs'" in warning
    assert "If these folders are the classes, move them up by one level" in warning


def test_a_folder_around_the_data_set_is_opened_and_a_warning_says_so(tmp_path: Path) -> None:
    layout = scan(make(tmp_path, "flowers/rose/1.png", "flowers/daisy/1.png", "README.txt/"))
    assert images_of(layout) == {"daisy": ["flowers/daisy/1.png"], "rose": ["flowers/rose/1.png"]}
    (warning,) = layout.warnings
    assert warning == (
        "the data set holds one folder, 'flowers': it is opened, and its folders 'daisy', 'rose' are read"
    )


def test_a_folder_around_splits_is_opened(tmp_path: Path) -> None:
    layout = scan(make(tmp_path, "flowers/train/rose/1.png", "flowers/test/rose/2.png"))
    assert (layout.kind, images_of(layout, "test")) == ("train/<class>/*", {"rose": ["flowers/test/rose/2.png"]})


def test_images_in_folders_inside_a_class_belong_to_it(tmp_path: Path) -> None:
    layout = scan(make(tmp_path, "cats/2.png", "cats/2024/1.png", "dogs/1.png"))
    assert images_of(layout)["cats"] == ["cats/2.png", "cats/2024/1.png"]
    assert layout.warnings == ()


def test_images_and_folders_beside_the_classes_are_left_out(tmp_path: Path) -> None:
    layout = scan(make(tmp_path, "train/cats/1.png", "train/2.png", "extra/3.png", "4.png"))
    assert images_of(layout) == {"cats": ["train/cats/1.png"]}
    assert reasons(layout) == {
        "extra": "beside the folders of the splits",
        "4.png": "beside the folders of the splits",
        "train/2.png": "beside the folders of the classes",
    }
    assert layout.warnings == ("1 image beside the folders of the classes: not read, without a class",)


def test_a_folder_without_images_is_no_class(tmp_path: Path) -> None:
    layout = scan(make(tmp_path, "cats/1.png", "labels/"))
    assert (layout.classes, layout.warnings) == (("cats",), ("no images in 'labels': not read as classes",))


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_missing_folder_is_named_with_the_expected_layouts(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"no data set at .*pets; expected train/<class>.*, or <class>.*, or a folder"):
        scan(tmp_path / "pets")


@pytest.mark.parametrize("names", [("train/",), (), ("cats/", "dogs/"), (".hidden/1.png",)])
def test_a_folder_without_images_is_refused_with_the_expected_layouts(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(BadDataset, match=r"no images.*expected train/<class>.*, or <class>.*, or a folder"):
        scan(make(tmp_path, *names))


def test_training_classes_without_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="no images for the classes 'dragons', 'unicorns'; put images into"):
        scan(make(tmp_path, "train/cats/1.png", "train/unicorns/", "train/dragons/"))


def test_a_test_class_without_training_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"its training split lacks: 'kats'.*classes are 'bees', 'cats'"):
        scan(make(tmp_path, "train/bees/1.png", "train/cats/1.png", "test/kats/1.png"))


@pytest.mark.parametrize("name", [b"caf\xe9", b"\xff\xfe", b"\x93smart\x94"], ids=["latin-1", "utf-16", "cp1252"])
def test_a_class_whose_name_is_not_utf_8_is_refused_by_a_printable_name(tmp_path: Path, name: bytes) -> None:
    make(tmp_path, "train/cats/1.png", f"train/{os.fsdecode(name)}/1.png")
    with pytest.raises(BadDataset, match="class names must be UTF-8; rename the folder") as caught:
        scan(tmp_path)
    assert repr(name)[2:-1] in str(caught.value).encode().decode()


# --- files that are left out --------------------------------------------------------------------------------------


def test_hidden_and_system_files_are_no_images_and_no_classes(tmp_path: Path) -> None:
    layout = scan(
        make(tmp_path, "cats/1.png", ".ipynb_checkpoints/1.png", "__MACOSX/cats/._1.png", "cats/.DS_Store",
             "cats/Thumbs.db", "cats/._1.png", "@eaDir/cats/1.png")
    )  # fmt: skip
    assert images_of(layout) == {"cats": ["cats/1.png"]}
    hidden, system = "hidden: its name starts with a dot", "a file of the operating system"
    assert reasons(layout) == {
        ".ipynb_checkpoints": hidden, "@eaDir": system, "__MACOSX": system, "cats/.DS_Store": hidden,
        "cats/._1.png": hidden, "cats/Thumbs.db": system,
    }  # fmt: skip


def test_files_are_told_by_their_first_bytes(tmp_path: Path) -> None:
    # Given images without an image's ending, and files that are no images
    for ending, file_format in ((".txt", "JPEG"), ("", "WEBP"), (".dat", "GIF"), (".x", "TIFF"), (".y", "AVIF"),
                                (".z", "HEIF"), (".1", "BMP"), (".2", "PPM"), (".3", "JPEG2000")):  # fmt: skip
        write(tmp_path / f"cats/image{ending}", encoded(solid((1, 2, 3)), file_format))
    write(tmp_path / "cats/labels.csv", b"name,label\n")
    write(tmp_path / "cats/empty", b"")
    write(tmp_path / "cats/photo.CR2", encoded(solid((1, 2, 3)), "TIFF"))
    # And one that claims to be an image
    write(tmp_path / "cats/page.jpg", b"<!DOCTYPE html>")
    layout = scan(tmp_path)
    # Then each image is one, and so is the false one, which will be reported as damaged
    assert len(layout.files) == 10
    assert reasons(layout) == {
        "cats/labels.csv": "not an image", "cats/empty": "not an image",
        "cats/photo.CR2": "a camera's raw file: convert it to TIFF or JPEG",
    }  # fmt: skip


def test_each_real_file_is_read_once(tmp_path: Path) -> None:
    # Given a link to a file, a hard link, a link to a class and links that lead back to the data set
    make(tmp_path, "train/cats/b.png", "train/dogs/1.png")
    (tmp_path / "train/cats/a.png").symlink_to("b.png")
    (tmp_path / "train/dogs/2.png").hardlink_to(tmp_path / "train/cats/b.png")
    (tmp_path / "train/dogs/more").symlink_to("../cats")
    (tmp_path / "train/cats/loop").symlink_to("..")
    (tmp_path / "train/cats/self").symlink_to("self")
    (tmp_path / "train/cats/gone.png").symlink_to("missing.png")
    layout = scan(tmp_path)
    # Then each file is read where it is stored, and every other path to it has a reason
    assert images_of(layout) == {"cats": ["train/cats/b.png"], "dogs": ["train/dogs/1.png"]}
    assert reasons(layout) == {
        "train/cats/a.png": "the same file as train/cats/b.png",
        "train/cats/gone.png": "a link that leads nowhere: No such file or directory",
        "train/cats/loop": "a link to a folder that is read already",
        "train/cats/self": "a link that leads nowhere: Too many levels of symbolic links",
        "train/dogs/2.png": "the same file as train/cats/b.png",
        "train/dogs/more/a.png": "the same file as train/cats/b.png",
        "train/dogs/more/b.png": "the same file as train/cats/b.png",
        "train/dogs/more/gone.png": "a link that leads nowhere: No such file or directory",
        "train/dogs/more/loop": "a link to a folder that is read already",
        "train/dogs/more/self": "a link that leads nowhere: Too many levels of symbolic links",
    }


def test_classes_may_consist_of_links_to_images_elsewhere(tmp_path: Path) -> None:
    store = make(tmp_path / "store", "1.png", "2.png")
    data = make(tmp_path / "pets", "train/cats/", "all/3.png")
    for link, target in (("1", store / "1.png"), ("3", Path("../../all/3.png"))):
        (data / f"train/cats/{link}.png").symlink_to(target)
    (data / "train/dogs").symlink_to(store)
    layout = scan(data)
    assert images_of(layout) == {
        "cats": ["train/cats/1.png", "train/cats/3.png"],
        "dogs": ["train/dogs/2.png"],  # the other one is a cat already
    }


def test_what_is_neither_a_file_nor_a_folder_is_not_opened(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.png")
    os.mkfifo(tmp_path / "cats/pipe.png")
    assert reasons(scan(tmp_path)) == {"cats/pipe.png": "not a regular file"}
