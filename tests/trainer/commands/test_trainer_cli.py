"""`python -m services.trainer train` as a user runs it: as a process, with files and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from services.trainer.__main__ import main
from shared.configs.presets import PRESETS
from shared.errors import UnknownModel
from shared.jobs.trainer_messages import EXIT_LEFT
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import GENERATOR_FILE, PREVIEW_FILE, ModelRegistry

SMALL = ["latent_dim=8", "g_channels=[8,8,8]", "d_channels=[8,8,8]", "batch_size=8", "tick_nimg=16"]
ROOT = Path(__file__).parents[3]
ENDLESS = [*SMALL, "total_nimg=1000000000", "snapshot_nimg=1000000000"]


@dataclass(frozen=True)
class Workplace:
    """A user's folders: a data set of two classes, and the output folder."""

    folder: Path

    def start(
        self, run: str, overrides: list[str], *, dataset: str = "shades", **environment: str
    ) -> subprocess.Popen[str]:
        options = [option for override in overrides for option in ("-o", override)]
        return subprocess.Popen(
            [sys.executable, "-m", "services.trainer", "train", "--run", run, "--dataset", dataset, *options],
            env=self.environment | environment,
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        folders = {"KILN_DATA": str(self.folder / "data"), "KILN_DATASETS": str(self.folder / "datasets")}
        return os.environ | folders | {"KILN_THREADS": "1"}

    @property
    def artifacts(self) -> ArtifactStore:
        return ArtifactStore(f"file://{self.folder / 'data' / 'artifacts'}")

    @property
    def registry(self) -> ModelRegistry:
        return ModelRegistry(self.artifacts)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("user")
    rng = np.random.default_rng(0)
    for name, low in (("bright", 128), ("dark", 0)):
        images = folder / "datasets" / "shades" / "train" / name
        images.mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(low, low + 128, (36, 40, 3), dtype=np.uint8)).save(images / f"{i}.png")
    return Workplace(folder)


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def ending(process: subprocess.Popen[str], heard: str = "") -> Ended:
    # Not communicate(): it would miss text that the stream has already buffered.
    assert process.stderr is not None
    assert process.stdout is not None
    err = heard + process.stderr.read()
    out = process.stdout.read()  # at most one line, so the pipe never fills up
    return Ended(process.wait(), out, err)


def signal_at_first_row(process: subprocess.Popen[str], number: signal.Signals) -> Ended:
    """Lets a run train until it reports metrics, then sends it a signal and waits for its end."""
    assert process.stderr is not None
    heard = ""
    for line in process.stderr:
        heard += line
        if line.startswith("nimg "):
            process.send_signal(number)
            break
    return ending(process, heard)


@pytest.fixture(scope="module")
def runs(workplace: Workplace) -> dict[str, Ended]:
    """Three runs, as parallel as possible, because most of their time goes into imports."""
    complete, left = workplace.start("whole", [*SMALL, "total_nimg=64"]), workplace.start("left", ENDLESS)
    with complete, left:
        after_leaving = signal_at_first_row(left, signal.SIGTERM)
        saved = workplace.artifacts.list("jobs/left/checkpoints")
        assert len(saved) == 1, after_leaving.err
        with pytest.raises(UnknownModel):
            workplace.registry.get("tiny-left")
        with workplace.start("left", ENDLESS) as resumed:
            after_resuming = signal_at_first_row(resumed, signal.SIGUSR1)
        return {"whole": ending(complete), "left": after_leaving, "resumed": after_resuming}


def test_a_run_trains_and_publishes_a_model(runs: dict[str, Ended], workplace: Workplace) -> None:
    # Given a run of 64 images
    assert runs["whole"].code == 0, runs["whole"].err
    # Then it prints only the model's id to standard output, and the registry has the model
    assert runs["whole"].out == "tiny-whole\n"
    model = workplace.registry.get("tiny-whole")
    assert (model.preset, model.dataset, model.classes) == ("tiny", "shades", ("bright", "dark"))
    assert (model.images_seen, model.config.total_nimg, model.conditional) == (64, 64, True)
    assert set(model.files) == {GENERATOR_FILE, PREVIEW_FILE}
    # And the model generates images
    session = onnxruntime.InferenceSession(
        workplace.registry.read_file(model, GENERATOR_FILE), providers=["CPUExecutionProvider"]
    )
    (images,) = session.run(None, {"z": np.zeros((3, 8), np.float32), "labels": np.zeros(3, np.int64)})
    assert np.asarray(images).shape == (3, 3, 32, 32)
    # And the sample grids of the start and the end, ten by ten, are stored
    grids = workplace.artifacts.list("jobs/whole/samples")
    assert grids == ["000000000000.png", "000000000064.png"]
    with Image.open(workplace.folder / "data/artifacts/jobs/whole/samples" / grids[1]) as grid:
        assert grid.size == (320, 320)


def test_a_run_prints_its_progress(runs: dict[str, Ended]) -> None:
    log = runs["whole"].err
    assert "40 images of 2 classes, on CPU" in log
    assert "loss_d" in log
    assert "100.0%" in log
    assert "model tiny-whole: parity" in log


def test_sigterm_leaves_a_checkpoint_and_says_how_to_resume(runs: dict[str, Ended]) -> None:
    assert runs["left"].code == EXIT_LEFT == 75
    assert runs["left"].err.endswith("stopped with a checkpoint; resume with --run left\n")
    assert runs["left"].out == ""


def test_the_same_run_resumes_where_it_stopped(runs: dict[str, Ended]) -> None:
    # Given the checkpoint of the run that left
    (left_at,) = {line for line in runs["left"].err.splitlines() if line.startswith("checkpoint after")}
    nimg = left_at.removeprefix("checkpoint after ").removesuffix(" images")
    # Then the next run started there, and sent the earlier metrics again
    assert f"resuming after {nimg} images" in runs["resumed"].err
    first_row = next(line for line in runs["left"].err.splitlines() if line.startswith("nimg "))
    assert first_row in runs["resumed"].err.splitlines()


def test_sigusr1_publishes_the_model_so_far(runs: dict[str, Ended], workplace: Workplace) -> None:
    assert runs["resumed"].code == 0, runs["resumed"].err
    assert runs["resumed"].out == "tiny-left\n"
    assert 16 <= workplace.registry.get("tiny-left").images_seen < 1_000_000_000


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--preset", "huge"], f"preset: unknown preset; choose one of {', '.join(PRESETS)} (got 'huge')"),
        (["-o", "lr=fast"], "overrides.lr: Input should be a valid number (got 'fast')"),
        (["-o", "lrr=1"], "overrides.lrr: unknown override; did you mean 'lr'? (got 1)"),
        (["-o", "lr"], "override: expected FIELD=VALUE (got 'lr')"),
        (["-o", "g_channels=[8]"], "overrides.g_channels: "),
        (["--run", "../elsewhere"], "run: use 1 to 64 characters of a-z, 0-9"),
        (["--run", "My_Run"], "run: use 1 to 64 characters of a-z, 0-9"),  # the registry accepts no such model id
    ],
)
def test_wrong_values_are_named_with_exit_status_2(
    capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    assert main(["train", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(complaint)
    assert len(err.splitlines()) == 1


def test_a_wrong_value_ends_the_process_before_it_writes_anything(workplace: Workplace) -> None:
    with workplace.start("wrong", ["lr=-1"]) as process:
        ended = ending(process)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "overrides.lr: Input should be greater than 0 (got -1)\n"
    assert workplace.artifacts.list("jobs/wrong") == []


CAPTURE_ON_A_CPU = """
import sys
if "train" in sys.orig_argv:
    from dataclasses import replace
    from services.trainer.training import runtime
    choose = runtime.choose_runtime
    runtime.choose_runtime = lambda device, settings: replace(
        choose(device, settings), capture="-capture" not in settings.fast_paths
    )
"""


def test_a_training_step_that_cannot_be_recorded_is_trained_without_a_cuda_graph(workplace: Workplace) -> None:
    # Given a trainer that tries to record a CUDA graph on a machine where that raises
    (workplace.folder / "sitecustomize.py").write_text(CAPTURE_ON_A_CPU)
    overrides, path = [*SMALL, "total_nimg=32", "snapshot_nimg=16"], f"{workplace.folder}:{ROOT}"
    with workplace.start("recorded", overrides, PYTHONPATH=path) as process:
        ended = ending(process)
    # Then it warns, restarts without the graph, and publishes the model
    assert ended.code == 0, ended.err
    assert ended.err.count("could not be recorded as a CUDA graph") == 1
    assert "-capture" in ended.err
    assert ended.out.strip() == "tiny-recorded"
    assert workplace.registry.get("tiny-recorded").images_seen == 32


RESTARTED_AFTER_SIGTERM = """
import os, signal, sys
from services.trainer.commands.restart import restart_without_capture
from services.trainer.commands.signals import StopFlag
from shared.settings import read_settings
stop = StopFlag(signal.SIGTERM, signal.SIGUSR1)
os.kill(os.getpid(), signal.SIGTERM)
restart_without_capture(read_settings(), sys.argv[1:], stop)
"""


def test_a_stop_signal_survives_the_restart(workplace: Workplace) -> None:
    # Given a trainer that got SIGTERM before it restarts, and a run without end
    options = [option for override in ENDLESS for option in ("-o", override)]
    arguments = ["train", "--run", "restarted", "--dataset", "shades", *options]
    done = subprocess.run(
        [sys.executable, "-c", RESTARTED_AFTER_SIGTERM, *arguments],
        env=workplace.environment, cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    # Then the restarted program writes a checkpoint and exits
    assert done.returncode == EXIT_LEFT, done.stderr
    assert workplace.artifacts.list("jobs/restarted/checkpoints")
