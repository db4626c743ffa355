"""Chromium, and a running stack (Redis, worker, API, dashboard) with a data set of two colours."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from services.dev import free_port
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import Memorisation, ModelMetrics, ModelRegistry
from tests.api.conftest import CLASSES, publish
from tests.dashboard.visitor import AXE, Visitor
from tests.processes import ROOT, Stack, running_stack, small_overrides, wait_for, write_color_dataset

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


COPYING = Memorisation(
    images=1000, authenticity=0.1, copied_share=0.9, nearer_share=0.98, reference="test", reference_images=1000,
    reference_authenticity=0.7, warning="the model copies training images: 90% of them",
)  # fmt: skip


def skip(reason: str) -> None:
    """Skips the test. Under CI, which installs these programs, it fails instead."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Closed after each file: Playwright's event loop runs in this thread, and other files' tests need their own."""
    program = shutil.which("chromium")
    if program is None:
        skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, a checker for accessibility. npm installs it into a folder that git ignores."""
    if not AXE.exists():
        npm = shutil.which("npm")
        if npm is None:
            skip("needs axe-core: npm is not installed")
        subprocess.run(
            [str(npm), "install", "--prefix", "build/axe", "--no-audit", "--no-fund", "--silent", "axe-core@4"],
            cwd=ROOT, check=True, timeout=120,
        )  # fmt: skip
    return AXE.read_text()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole stack, the dashboard included."""
    folder = tmp_path_factory.mktemp("dashboard")
    write_color_dataset(folder / "datasets")
    port = free_port()
    with running_stack(folder / "data", folder / "datasets", KILN_DASHBOARD_PORT=str(port)) as stack:
        stack.dashboard_url = f"http://127.0.0.1:{port}"
        wait_for(lambda: Visitor.is_live(stack.dashboard_url), bool)
        yield stack


@pytest.fixture(scope="module")
def two_models(stack: Stack) -> tuple[str, str]:
    """The ids of two succeeded jobs. The model of the first is the default."""
    first = stack.submit(preset="tiny", dataset="colors", name="first run", overrides=small_overrides(eval_images=20))
    second = stack.submit(preset="tiny", dataset="colors", name="second run", overrides=small_overrides(lr=1e-3))
    for job_id in (first, second):
        assert stack.wait_until_over(job_id)["status"] == "succeeded"
    return first, second


@pytest.fixture(scope="module")
def evaluated_model(stack: Stack, two_models: tuple[str, str]) -> str:
    """The id of a model whose class accuracies go from 0 to 1. It is not the default."""
    shares = {label: number / (len(CLASSES) - 1) for number, label in enumerate(CLASSES)}
    metrics = ModelMetrics(class_accuracy=0.5, protocol={"images": 100, "class_accuracy": shares})
    registry = ModelRegistry(ArtifactStore(Settings(data=stack.data).artifact_url))
    picture = io.BytesIO()
    Image.new("RGB", (320, 64), "teal").save(picture, "PNG")
    return publish(
        registry, "evaluated", metrics=metrics, memorisation=COPYING, more={"neighbours.png": picture.getvalue()}
    ).id


@pytest.fixture
def visitor(browser: Browser, stack: Stack) -> Iterator[Visitor]:
    """A user at desktop width. Errors in the browser fail the test. Its jobs are cancelled afterwards."""
    with browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce") as context:
        visitor = Visitor(context.new_page(), stack.dashboard_url)
        yield visitor
        for job in stack.http.get("/jobs").json()["data"]:
            stack.http.post(f"/jobs/{job['id']}/cancel")
        assert visitor.browser_errors == []
