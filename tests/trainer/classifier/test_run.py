"""`train-classifier`, from a data set to the files of a classifier."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from services.trainer.__main__ import main
from services.trainer.classifier.files import load_classifier
from services.trainer.classifier.run import ClassifierSpec, train_classifier
from services.trainer.commands.display import describe
from shared.configs.classifier import ClassifierConfig
from shared.errors import BadConfig, BadDataset
from shared.jobs.trainer_messages import EXIT_LEFT, ProgressLine, StopSignal, TrainerLine
from shared.settings import Settings
from shared.storage.classifier_files import GRAPH_FILE, MANIFEST_FILE, WEIGHTS_FILE, read_manifest
from tests.processes import write_color_dataset

CONFIG = ClassifierConfig(width=8, epochs=4, batch_size=8, tick_nimg=40)
FILES = [GRAPH_FILE, WEIGHTS_FILE, MANIFEST_FILE]


def collect(lines: list[str]) -> Callable[[TrainerLine], None]:
    """Collects the messages of a run as text, except its progress."""
    return lambda line: None if isinstance(line, ProgressLine) else lines.append(describe(line, 0))


def never() -> None:
    return None


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("user")
    write_color_dataset(folder / "datasets", per_class=20)
    shutil.copytree(folder / "datasets/colors/train", folder / "datasets/colors/test")
    return Settings(data=folder / "data", datasets=folder / "datasets", threads=1)


@pytest.fixture(scope="module")
def undisturbed(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a classifier of two colours, and the messages of its run."""
    lines: list[str] = []
    folder = tmp_path_factory.mktemp("whole") / "out"
    spec = ClassifierSpec("whole", CONFIG, "colors", folder, ("python", "-m", "a b"))
    assert train_classifier(spec, settings, collect(lines), never) == read_manifest(folder)
    return folder, lines


def test_a_run_writes_a_classifier_with_its_accuracy(undisturbed: tuple[Path, list[str]]) -> None:
    folder, lines = undisturbed
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    manifest = read_manifest(folder)
    assert (manifest.classes, manifest.feature_dim, manifest.test_images) == (("blue", "red"), 32, 40)
    assert (manifest.images_seen, manifest.config, manifest.command) == (160, CONFIG, "python -m 'a b'")
    assert (manifest.test_accuracy, manifest.class_accuracy) == (1.0, {"blue": 1.0, "red": 1.0})
    assert manifest.wall_seconds > 0
    assert manifest.images_per_second == pytest.approx(160 / manifest.wall_seconds, rel=0.1)
    # And the log has a line for each tick
    assert [line.split()[1] for line in lines if line.startswith("nimg")] == ["40", "80", "120", "160"]


def test_a_resumed_run_ends_with_the_same_classifier(
    settings: Settings, undisturbed: tuple[Path, list[str]], tmp_path: Path
) -> None:
    # Given a run that stops after its second tick
    lines: list[str] = []

    def should_leave() -> StopSignal | None:
        return "leave" if sum(line.startswith("nimg") for line in lines) == 2 else None

    spec = ClassifierSpec("left", CONFIG, "colors", tmp_path / "out")
    assert train_classifier(spec, settings, collect(lines), should_leave) is None
    assert not (tmp_path / "out").exists()
    # When it resumes, then it ends with the weights of the undisturbed one
    assert train_classifier(spec, settings, collect(lines), never) is not None
    assert "resuming after 80 images" in lines
    assert (tmp_path / "out" / WEIGHTS_FILE).read_bytes() == (undisturbed[0] / WEIGHTS_FILE).read_bytes()


def test_a_run_is_not_resumed_with_another_config(settings: Settings, tmp_path: Path) -> None:
    def train(config: ClassifierConfig) -> None:
        lines: list[str] = []
        train_classifier(ClassifierSpec("other", config, "colors", tmp_path), settings, collect(lines), lambda: "leave")

    train(CONFIG)
    train(CONFIG)
    with pytest.raises(BadConfig, match="trained with another config"):
        train(CONFIG.model_copy(update={"lr": 0.01}))


def write_images(folder: Path, *classes: str) -> None:
    """Eight dark images per class, the first class the darkest."""
    for shade, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (32, 32), (30 * shade, 10, i)).save(folder / name / f"{i}.png")


@pytest.mark.parametrize(
    ("test_classes", "message"),
    [
        ((), r"data set birds has no test split, .*: put images .* into .*birds/test/<class>"),
        (("crow", "finches"), r"its training split lacks: 'finches'"),
        (("crow", "finch", "owl"), r"its training split lacks: 'owl'"),
    ],
    ids=["none", "renamed", "extra"],
)
def test_a_test_split_that_cannot_measure_the_classes_is_refused_before_training(
    settings: Settings, tmp_path: Path, test_classes: tuple[str, ...], message: str
) -> None:
    write_images(tmp_path / "birds/train", "crow", "finch")
    write_images(tmp_path / "birds/test", *test_classes)
    lines: list[str] = []
    here = settings.model_copy(update={"datasets": tmp_path})
    with pytest.raises(BadDataset, match=message):
        train_classifier(ClassifierSpec("x", CONFIG, "birds", tmp_path / "out"), here, collect(lines), never)
    assert not [line for line in lines if line.startswith("nimg")]


def test_a_class_without_test_images_is_trained_and_its_accuracy_left_out(settings: Settings, tmp_path: Path) -> None:
    # Given test images of the second of two classes only
    write_images(tmp_path / "birds/train", "crow", "finch")
    (tmp_path / "birds/test").mkdir()
    shutil.copytree(tmp_path / "birds/train/finch", tmp_path / "birds/test/finch")
    lines: list[str] = []
    here = settings.model_copy(update={"datasets": tmp_path})
    manifest = train_classifier(ClassifierSpec("y", CONFIG, "birds", tmp_path / "out"), here, collect(lines), never)
    # Then its accuracy is that of this class, under its own label
    assert manifest is not None
    assert (manifest.classes, list(manifest.class_accuracy)) == (("crow", "finch"), ["finch"])
    assert manifest.test_accuracy == manifest.class_accuracy["finch"]
    assert "the test split has no images of crow; their accuracy is not measured" in lines


def test_damaged_files_end_a_classifiers_job_unless_it_skips_them(settings: Settings, tmp_path: Path) -> None:
    write_images(tmp_path / "birds/train", "crow", "finch")
    write_images(tmp_path / "birds/test", "crow", "finch")
    (tmp_path / "birds/train/crow/damaged.png").write_bytes(b"no image")
    here = settings.model_copy(update={"datasets": tmp_path})
    spec = ClassifierSpec("z", CONFIG, "birds", tmp_path / "out")
    with pytest.raises(BadDataset, match=r"train/crow/damaged\.png"):
        train_classifier(spec, here, collect([]), never)
    skipping = replace(spec, config=CONFIG.model_copy(update={"on_bad_file": "skip"}))
    assert train_classifier(skipping, here, collect([]), never) is not None


def test_the_command_stops_on_sigterm_and_trains_to_the_end(settings: Settings, tmp_path: Path) -> None:
    """The whole command in a process of its own: options, signals, exit statuses."""
    command = [sys.executable, "-m", "services.trainer", "train-classifier", "--width", "8", "--run", "typed",
               "-o", "batch_size=8", "-o", "tick_nimg=40", "--dataset", "colors", "--out", str(tmp_path)]  # fmt: skip
    environment = os.environ | {
        "KILN_DATA": str(settings.data), "KILN_DATASETS": str(settings.dataset_root), "KILN_THREADS": "1"
    }  # fmt: skip
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [*command, "--epochs", "1000"], env=environment, cwd=root, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("nimg"):
                process.send_signal(signal.SIGTERM)
        assert process.wait() == EXIT_LEFT
    assert line == "stopped with a checkpoint; resume with --run typed\n"
    done = subprocess.run(
        [*command, "--epochs", "2", "--run", "again"],
        env=environment, cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("% of 40 test images\n")
    _, manifest = load_classifier(tmp_path)
    options = "--width 8 --epochs 2 -o batch_size=8 -o tick_nimg=40 --dataset colors"
    assert manifest.command == f"python -m services.trainer train-classifier {options}"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--width", "4"], "overrides.width: Input should be greater than or equal to 8 (got 4)"),
        (["-o", "lrr=1"], "overrides.lrr: unknown override; did you mean 'lr'? (got 1)"),
        (["-o", "lr"], "override: expected FIELD=VALUE (got 'lr')"),
        (["--run", "../elsewhere"], "run: use 1 to 64 characters of a-z, 0-9"),
    ],
)
def test_wrong_values_are_named_with_exit_status_2(
    capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    assert main(["train-classifier", *options]) == 2
    assert capsys.readouterr().err.startswith(complaint)
