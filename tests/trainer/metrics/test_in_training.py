"""Metrics during a run, at its end, and by the `evaluate` command."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from services.trainer.__main__ import main
from services.trainer.data.datasets import load_dataset
from services.trainer.metrics.collapse import is_collapsed
from services.trainer.metrics.in_training import open_evaluation
from services.trainer.runs.run import run
from services.trainer.runs.spec import RunSpec
from services.trainer.training.state import TrainState
from shared.configs.train import TrainConfig
from shared.errors import BadConfig, EnvironmentFailed, ParityFailed
from shared.jobs.trainer_messages import EventLine, MetricsLine, ResultLine, TrainerLine
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelManifest, ModelMetrics, ModelRegistry
from tests.processes import write_color_dataset
from tests.trainer.small import CPU, EventLog, small_classifier, small_config

EVERY_TICK: dict[str, Any] = {
    "total_nimg": 64,
    "tick_nimg": 16,
    "snapshot_nimg": 32,
    "eval_images": 20,
    "eval_every_nimg": 32,
}


@dataclass(frozen=True)
class Messages:
    """The messages of a run."""

    lines: list[TrainerLine]

    @property
    def rows(self) -> list[dict[str, float]]:
        return [line.row for line in self.lines if isinstance(line, MetricsLine)]

    @property
    def events(self) -> list[str]:
        return [line.event.message for line in self.lines if isinstance(line, EventLine)]

    @property
    def manifest(self) -> ModelManifest:
        (result,) = [line.manifest for line in self.lines if isinstance(line, ResultLine)]
        return result


def train(settings: Settings, config: TrainConfig, name: str, *, stop_after_rows: int | None = None) -> Messages:
    lines: list[TrainerLine] = []

    def send(line: TrainerLine) -> None:
        lines.append(line)
        if isinstance(line, ResultLine):
            ModelRegistry(ArtifactStore(settings.artifact_url)).publish(line.manifest, line.read_files())

    messages = Messages(lines)
    run(RunSpec(name, "tiny", config, "colors"), settings, send,
        lambda: "leave" if stop_after_rows is not None and len(messages.rows) >= stop_after_rows else None)  # fmt: skip
    return messages


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A data set of two colours with a test split, and an untrained classifier over its classes."""
    folder = tmp_path_factory.mktemp("user")
    write_color_dataset(folder / "datasets", per_class=20)
    shutil.copytree(folder / "datasets/colors/train", folder / "datasets/colors/test")
    small_classifier(folder / "classifier", ("blue", "red"))
    return Settings(data=folder / "data", datasets=folder / "datasets", classifier=folder / "classifier", threads=1)


@pytest.fixture(scope="module")
def undisturbed(settings: Settings) -> Messages:
    return train(settings, small_config(**EVERY_TICK), "whole")


def test_rows_have_metrics_every_eval_every_nimg_images(undisturbed: Messages) -> None:
    assert [row["nimg"] for row in undisturbed.rows] == [16, 32, 48, 64]
    assert ["fid" in row for row in undisturbed.rows] == [False, True, False, True]
    due = undisturbed.rows[1]
    assert due["fid"] > 0
    assert 1 <= due["inception_score"] <= 2
    assert 0 <= due["class_accuracy"] <= 1
    assert 0 <= due["recall"] <= 1
    assert due["diversity"] > 0
    assert due["class_coverage"] > 0
    # The networks are hardly trained; the event follows the same rule as the signals
    has_event = any("mode collapse after" in message for message in undisturbed.events)
    assert has_event == any(is_collapsed(row) for row in undisturbed.rows)


def test_a_model_has_all_metrics_and_they_agree_with_the_last_row(undisturbed: Messages) -> None:
    metrics = undisturbed.manifest.metrics
    assert None not in metrics.model_dump().values()
    assert metrics.fid == pytest.approx(undisturbed.rows[-1]["fid"])
    assert metrics.protocol is not None
    assert metrics.protocol["images"] == 20
    # Its test images are its training images, of which as many were measured as of generated ones
    real = metrics.protocol["real"]
    assert (real["images"], real["precision"], real["imagenet_precision"]) == (20, 1.0, 1.0)


def test_a_model_has_a_picture_of_its_nearest_training_images(settings: Settings, undisturbed: Messages) -> None:
    memorisation = undisturbed.manifest.memorisation
    assert memorisation is not None
    assert (memorisation.images, memorisation.reference, memorisation.warning) == (20, "train", None)
    registry = ModelRegistry(ArtifactStore(settings.artifact_url))
    picture = registry.read_file(registry.get("tiny-whole"), "neighbours.png")
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size == (10 * 32, 2 * 32)


def test_a_resumed_run_has_the_same_metrics_as_an_undisturbed_one(settings: Settings, undisturbed: Messages) -> None:
    # Given a run that stops after its second row and is resumed
    config = small_config(**EVERY_TICK)
    left = train(settings, config, "left", stop_after_rows=2)
    resumed = train(settings, config, "left")
    # Then its rows and metrics are those of the undisturbed run
    assert left.rows == undisturbed.rows[:2]
    assert resumed.rows == undisturbed.rows
    assert resumed.manifest.metrics == undisturbed.manifest.metrics


def test_evaluation_does_not_affect_training(settings: Settings, undisturbed: Messages) -> None:
    unmeasured = train(settings, small_config(**EVERY_TICK | {"eval_images": 0}), "unmeasured")
    figures = ("fid", "inception_score", "class_accuracy", "recall", "diversity", "class_coverage")
    assert unmeasured.rows == [{k: v for k, v in row.items() if k not in figures} for row in undisturbed.rows]
    assert unmeasured.manifest.metrics == ModelMetrics()
    assert unmeasured.manifest.memorisation is None
    assert not [event for event in unmeasured.events if "features" in event]
    registry = ModelRegistry(ArtifactStore(settings.artifact_url))
    assert registry.get("tiny-whole").digest == registry.get("tiny-unmeasured").digest


def evaluator_events(settings: Settings, config: TrainConfig) -> EventLog:
    """The events of opening the evaluation of a run on the two colours."""
    events = EventLog()
    dataset = load_dataset(settings.dataset_root, "colors")
    open_evaluation(TrainState(config, 2, CPU), settings, "colors", dataset, events)
    return events


def test_a_long_evaluation_sends_progress_events(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The supervisor kills a trainer that sends nothing for long.
    monkeypatch.setattr("services.trainer.metrics.in_training.HEARTBEAT_S", 0.0)
    monkeypatch.setattr("services.trainer.data.progress.LOADING_EVERY_S", 0.0)
    uncached = settings.model_copy(update={"data": tmp_path})
    events = evaluator_events(uncached, small_config(**EVERY_TICK))
    # Reading the images of both splits counts, too
    assert ("loading", "loading: 80 of 80 files") in events
    assert ("evaluation", "40 images measured") in events


def stop_on(metric: str, **overrides: Any) -> TrainConfig:
    return small_config(**EVERY_TICK | {"early_stop": {"metric": metric, "patience": 2}} | overrides)


def test_early_stop_on_class_accuracy_needs_a_classifier_of_the_same_classes(
    settings: Settings, classifier_folder: Path
) -> None:
    # Given a classifier over class-0 to class-9, and a data set of red and blue images
    other = settings.model_copy(update={"classifier": classifier_folder})
    # Then class accuracy is refused at the start, and the message lists the available metrics
    with pytest.raises(BadConfig, match=r"early_stop: class_accuracy .* set's blue, red\. .*one of fid, .*recall"):
        evaluator_events(other, stop_on("class_accuracy"))
    # And the other metrics are accepted
    for metric in ("fid", "inception_score", "recall"):
        evaluator_events(other, stop_on(metric))
    evaluator_events(settings, stop_on("class_accuracy"))


def test_early_stop_without_a_classifier_is_refused_and_can_be_resumed(settings: Settings, tmp_path: Path) -> None:
    elsewhere = settings.model_copy(update={"classifier": tmp_path / "none"})
    with pytest.raises(EnvironmentFailed, match=r"early_stop: fid cannot be measured: .*none"):
        evaluator_events(elsewhere, stop_on("fid"))


def test_early_stop_that_would_never_measure_is_refused(settings: Settings) -> None:
    with pytest.raises(BadConfig, match="early_stop: fid would never be measured: eval_every_nimg=65 is more than"):
        evaluator_events(settings, stop_on("fid", eval_every_nimg=65))


def test_a_manifest_names_the_data_it_was_trained_on(settings: Settings, undisturbed: Messages) -> None:
    assert undisturbed.manifest.data_digest == load_dataset(settings.dataset_root, "colors").digest


def test_an_export_that_cannot_work_fails_before_training(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[TrainerLine] = []
    spec = RunSpec("doomed", "tiny", small_config(**EVERY_TICK), "colors")
    # Given a folder for exports that cannot be created
    blocked = settings.model_copy(update={"data": tmp_path})
    (tmp_path / "work").write_text("a file")
    with pytest.raises(OSError, match="work"):
        run(spec, blocked, lines.append, lambda: None)
    # And an export that does not match
    monkeypatch.setattr("services.trainer.export.onnx.PARITY_LIMIT", -1.0)
    with pytest.raises(ParityFailed, match="half a step of an 8-bit pixel"):
        run(spec, settings, lines.append, lambda: None)
    # Then both runs fail before training
    assert not [line for line in lines if isinstance(line, MetricsLine)]
    assert ArtifactStore(settings.artifact_url).list("jobs/doomed") == []


def test_without_a_classifier_a_run_warns_and_trains(settings: Settings, tmp_path: Path) -> None:
    elsewhere = settings.model_copy(update={"classifier": tmp_path / "none"})
    messages = train(elsewhere, small_config(**EVERY_TICK | {"total_nimg": 16}), "blind")
    assert messages.manifest.metrics == ModelMetrics()
    expected = f"the model will have no metrics: there is no classifier in '{tmp_path / 'none'}'"
    assert expected in messages.events


def test_a_run_that_has_converged_stops_and_exports_its_best_model(settings: Settings) -> None:
    # Given a rule by which no later measurement can improve on the first
    rule = {"metric": "fid", "patience": 1, "minimum": 1e6}
    messages = train(settings, small_config(**EVERY_TICK | {"total_nimg": 6400}, early_stop=rule), "converged")
    # Then the run ends with the second measurement and exports the model of the first
    assert [row["nimg"] for row in messages.rows] == [16, 32, 48, 64]
    assert messages.manifest.images_seen == 32
    assert messages.manifest.metrics.fid == pytest.approx(messages.rows[1]["fid"])
    assert messages.manifest.metrics.fid != pytest.approx(messages.rows[3]["fid"])
    assert [message for message in messages.events if "exporting the model" in message] == [
        f"exporting the model after 32 images: fid {messages.rows[1]['fid']:.4g}"
    ]


# By command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    for name in ("data", "datasets", "classifier", "threads"):
        monkeypatch.setenv(f"KILN_{name.upper()}", str(getattr(settings, name)))
    yield settings
    torch.set_num_threads(1)


def places(settings: Settings) -> dict[str, str]:
    """Three ways to name one model."""
    return {
        "id": "tiny-whole",
        "folder": str(settings.data / "artifacts" / "models" / "tiny-whole"),
        "snapshot": str(settings.data / "artifacts/jobs/whole/weights/000000000064.safetensors"),
    }


@pytest.mark.parametrize("kind", ["id", "folder", "snapshot"])
def test_the_command_prints_the_metrics_of_the_manifest(
    environment: Settings, undisturbed: Messages, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["evaluate", places(environment)[kind], "-n", "20", "--dataset", "colors", "--json"])
    out, _ = capsys.readouterr()
    assert status == 0
    (record,) = json.loads(out)
    assert record["images_seen"] == 64
    expected = undisturbed.manifest.metrics.model_dump()
    for name in ("fid", "kid", "inception_score", "precision", "recall", "class_accuracy"):
        # ONNX and torch, and a batch statistic, differ in the last digits
        assert record["metrics"][name] == pytest.approx(expected[name], rel=1e-3, abs=1e-6), name
    assert record["metrics"]["protocol"]["extractor"] == expected["protocol"]["extractor"]


def test_the_command_prints_a_table(
    environment: Settings, undisturbed: Messages, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "tiny-whole", places(environment)["snapshot"], "-n", "20", "--dataset", "colors"]) == 0
    *blocks, protocol = capsys.readouterr().out.splitlines()
    # Then there is a block per judge: a row of as many real images, and one per model with its distance above them
    assert len(blocks) == 12
    metrics = undisturbed.manifest.metrics
    for judge, fid, block in (("classifier", metrics.fid, blocks[:6]), ("imagenet", metrics.imagenet_fid, blocks[6:])):
        title, head, real, first, second, blank = block
        assert (title, blank) == (f"Judge: {judge}", "")
        assert head.split()[:7] == ["model", "n", "trained", "on", "seconds", "FID", "x"]
        assert real.split()[:4] == ["real", "test", "images", "20"]
        assert real.split()[5] == "1.0"
        assert first.split()[:3] == ["tiny-whole", "20", "64"]
        assert float(first.split()[4]) == pytest.approx(fid, rel=2e-3)
        assert second.split()[:3] == ["000000000064", "20", "64"]
    assert ("IS" in blocks[1], "IS" in blocks[7]) == (True, False)
    assert json.loads(protocol)["images"] == 20


def test_the_command_adds_the_classification_accuracy_score(
    environment: Settings, undisturbed: Messages, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "tiny-whole", "-n", "20", "--judges", "classifier", "--cas", "40", "--cas-epochs", "2"]
    assert main([*arguments, "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    score = record["classification_accuracy_score"]
    assert (score["images"], score["classifier"]["epochs"]) == (40, 2)
    # The model, which is hardly trained, teaches less than real images of two colours
    assert score["score"] < score["real_score"] == 1.0
    # And the table has it beside the other figures
    assert main(arguments) == 0
    _, head, real, model, _, protocol = capsys.readouterr().out.splitlines()
    column = head.index("CAS")
    assert real[column - 2 : column + 3] == "1.000"
    assert model[column - 2 : column + 3] == f"{score['score']:.3f}"
    assert json.loads(protocol)["cas"]["images"] == 40


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["nobody"], 1, "UnknownModel: there is no model 'nobody'"),
        (["nobody", "-n", "9"], 2, "images: must be at least 10 (got 9)"),
        (["nobody", "--cas", "9"], 2, "cas: must be at least 10, or 0 for no score (got 9)"),
        (["nobody", "--judges", "vgg"], 2, "judges: must be classifier, imagenet or inception (got 'vgg')"),
        (["nobody", "--judges", "classifier,inception"], 2, "judges: must be imagenet, classifier or inception, or"),
        (["nobody", "--judges", "inception"], 2, "weights: expected a file: torch-fidelity's"),
        (["no.onnx"], 2, "MODEL: must be a model's id, its folder, or a run's weights/*.safetensors (got 'no.onnx')"),
        (["tests"], 2, "MODEL: the folder has no manifest.json (got 'tests')"),
    ],
)
def test_invalid_arguments_are_named(
    environment: Settings, arguments: list[str], status: int, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *arguments]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(complaint)


def test_damaged_models_and_snapshots_are_refused(
    environment: Settings, undisturbed: Messages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a folder whose generator is another, and a snapshot cut short
    manifest = undisturbed.manifest.model_copy(update={"files": {"generator.onnx": "0" * 64}})
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())
    (tmp_path / "generator.onnx").write_bytes(b"another")
    cut = tmp_path / "1.safetensors"
    cut.write_bytes(Path(places(environment)["snapshot"]).read_bytes()[:1000])
    for path, complaint in ((tmp_path, "lacks a generator.onnx"), (cut, "is not a snapshot of a run: ")):
        assert main(["evaluate", str(path), "-n", "20", "--dataset", "colors"]) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("CorruptArtifact")
        assert complaint in last
