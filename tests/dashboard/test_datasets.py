"""The pages of data sets in a real browser: push an archive, read its report, and start a job on it."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.api.datasets.archives import as_zip
from tests.dashboard.test_pages import MODES
from tests.dashboard.visitor import Visitor
from tests.processes import Stack

DROP = """([data, name]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name));
    const area = document.querySelector('.drop');
    area.dispatchEvent(new DragEvent('dragover', {dataTransfer: transfer, cancelable: true}));
    area.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, cancelable: true}));
}"""


def photograph(hue: float, number: int) -> bytes:
    """A picture of a soft disc in front of a gradient."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:64, 0:64] / 64
    centre = rng.uniform(0.3, 0.7, 2)
    disc = np.clip(1.5 - 6 * np.hypot(x - centre[0], y - centre[1]), 0, 1)[..., None]
    colour = np.array([0.5 + 0.5 * np.cos(2 * np.pi * (hue + shift)) for shift in (0, 1 / 3, 2 / 3)])
    ground = 0.25 + 0.5 * np.stack([y, x, 1 - y], axis=-1)
    file = io.BytesIO()
    Image.fromarray((255 * (disc * colour + (1 - disc) * ground)).astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


def pavement() -> dict[str, bytes]:
    files = {
        f"train/{label}/{number:03d}.jpg": photograph(order / 3, 100 * order + number)
        for order, label in enumerate(("crack", "patch", "pothole"))
        for number in range(12 + 3 * order)
    }
    broken = files["train/crack/000.jpg"][:200]
    return files | {"train/crack/broken.jpg": broken, "train/crack/notes.txt": b"x", "train/.DS_Store": b"x"}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "pavement damage.zip"
    path.write_bytes(as_zip(pavement()))
    return path


def test_a_zip_is_pushed_its_report_read_and_a_job_started_on_it(visitor: Visitor, stack: Stack, archive: Path) -> None:
    page = visitor.open("/datasets")

    # When a ZIP is dropped on the page
    page.evaluate(DROP, [base64.b64encode(archive.read_bytes()).decode(), archive.name])

    # Then its report shows classes, counts, and each file that is not read
    page.wait_for_url("**/datasets/pavement-damage")
    expect(page.get_by_role("heading", level=1)).to_have_text("pavement damage")
    expect(page.get_by_role("row", name="pothole 18")).to_be_visible()
    expect(page.get_by_role("region", name="Damaged files").first).to_contain_text("train/crack/broken.jpg")
    expect(page.get_by_role("region", name="Ignored files").first).to_contain_text("notes.txt")
    preview = page.get_by_role("region", name="Preview").locator("img").first
    expect(preview).to_be_visible()
    page.wait_for_load_state("networkidle")
    for mode, (scheme, size) in MODES.items():
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(size)
        visitor.screenshot(f"pushed-dataset-{mode}")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], mode

    # And a link opens the form of a new job with this data set
    page.get_by_role("link", name="New job").click()
    expect(page.get_by_label("Data set", exact=True)).to_have_value("pavement-damage")
    visitor.button("Start training").click()
    page.wait_for_url("**/jobs/2*")
    job_id = page.url.rpartition("/")[2]
    assert stack.job(job_id)["dataset"] == "pavement-damage"

    # And it cannot be deleted while the job needs it
    page = visitor.open("/datasets/pavement-damage")
    visitor.button("Delete pavement damage").click()
    visitor.click_in_dialog("Delete")
    expect(page.locator(".banner")).to_contain_text(job_id)
    stack.http.post(f"/jobs/{job_id}/cancel")
    stack.wait_until_over(job_id)
    visitor.button("Delete pavement damage").click()
    visitor.click_in_dialog("Delete")
    page.wait_for_url("**/datasets")
    expect(page.get_by_role("article", name="Data set colors")).to_be_visible()
    expect(page.get_by_role("article", name="Data set pavement damage")).to_have_count(0)


def test_a_file_that_is_no_archive_is_refused_with_the_reason(visitor: Visitor, tmp_path: Path) -> None:
    (tmp_path / "letter.zip").write_bytes(b"Dear reader, " * 100)
    page = visitor.open("/datasets")

    page.get_by_label("Choose a ZIP or a tar").set_input_files(tmp_path / "letter.zip")

    expect(page.locator(".drop [role=status]")).to_contain_text("no archive that Kiln reads")
    visitor.browser_errors.clear()  # the browser logs the status 422


def test_a_job_that_is_over_can_be_deleted(visitor: Visitor, stack: Stack) -> None:
    job_id = stack.submit(preset="tiny", dataset="colors", name="not needed")
    stack.http.post(f"/jobs/{job_id}/cancel")
    stack.wait_until_over(job_id)
    page = visitor.open(f"/jobs/{job_id}")

    visitor.button("Delete: not needed").click()
    visitor.click_in_dialog("Delete job")

    page.wait_for_url("**/jobs")
    assert stack.http.get(f"/jobs/{job_id}").status_code == 404
