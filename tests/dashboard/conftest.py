"""A real Chromium on a real stack: redis, worker, API and dashboard, with a data set of two colours."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from services.dev import free_port
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelMetrics, ModelRegistry
from tests.api.conftest import CLASSES, publish
from tests.dashboard.visitor import AXE, Visitor
from tests.processes import ROOT, Stack, running_stack, small_overrides, wait_for, write_color_dataset

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def missing(what: str) -> None:
    """Skips; under CI, which installs it, that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """While it is open, an event loop of Playwright runs in this thread, where other files' tests need their own."""
    program = shutil.which("chromium")
    if program is None:
        missing("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, which judges accessibility; from npm, into a folder that git ignores."""
    if not AXE.exists():
        npm = shutil.which("npm")
        if npm is None:
            missing("needs axe-core: npm is not installed")
        subprocess.run(
            [str(npm), "install", "--prefix", "build/axe", "--no-audit", "--no-fund", "--silent", "axe-core@4"],
            cwd=ROOT, check=True, timeout=120,
        )  # fmt: skip
    return AXE.read_text()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Everything, the dashboard on a port of its own."""
    folder = tmp_path_factory.mktemp("dashboard")
    write_color_dataset(folder / "datasets")
    port = free_port()
    with running_stack(folder / "data", folder / "datasets", KILN_DASHBOARD_PORT=str(port)) as stack:
        stack.dashboard_url = f"http://127.0.0.1:{port}"
        wait_for(lambda: Visitor.is_live(stack.dashboard_url), bool)
        yield stack


@pytest.fixture(scope="module")
def two_models(stack: Stack) -> tuple[str, str]:
    """Ids of two jobs that made a model each; the first model is the default."""
    first = stack.submit(
        preset="tiny", dataset="colors", name="first firing", overrides=small_overrides(eval_images=20)
    )
    second = stack.submit(preset="tiny", dataset="colors", name="second firing", overrides=small_overrides(lr=1e-3))
    for job_id in (first, second):
        assert stack.wait_until_over(job_id)["status"] == "succeeded"
    return first, second


@pytest.fixture(scope="module")
def judged_model(stack: Stack, two_models: tuple[str, str]) -> str:
    """Id of a model that a classifier knew some classes of, from never to always. It is not the default."""
    shares = {label: number / (len(CLASSES) - 1) for number, label in enumerate(CLASSES)}
    metrics = ModelMetrics(class_accuracy=0.5, protocol={"images": 100, "class_accuracy": shares})
    registry = ModelRegistry(ArtifactStore(Settings(data=stack.data).artifact_url))
    return publish(registry, "judged", metrics=metrics).id


@pytest.fixture
def visitor(browser: Browser, stack: Stack) -> Iterator[Visitor]:
    """Somebody at a desk. What the browser complains of fails the test; no job is left over."""
    with browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce") as context:
        visitor = Visitor(context.new_page(), stack.dashboard_url)
        yield visitor
        for job in stack.http.get("/jobs").json()["data"]:
            stack.http.post(f"/jobs/{job['id']}/cancel")
        assert visitor.complaints == []
