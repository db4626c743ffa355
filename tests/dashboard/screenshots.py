"""`make screenshots`: takes the pictures of the dashboard in README and docs from a running Kiln.

KILN_URL and KILN_DASHBOARD_PORT select it. One picture shows its newest job that has curves.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import ViewportSize, sync_playwright

from kiln import Kiln
from services.dashboard.settings import read_dashboard_settings
from tests.dashboard.conftest import ARGUMENTS
from tests.dashboard.visitor import Visitor

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SIZE = ViewportSize(width=1280, height=860)
MIN_ROWS = 10  # of metrics, for curves worth showing


def main() -> int:
    with Kiln(max_wait_s=0) as kiln:
        jobs = [job for job in kiln.jobs.list(limit=20) if len(job.series()) > MIN_ROWS]
    if not jobs:
        print(f"none of the 20 newest jobs has more than {MIN_ROWS} rows of metrics; train one first", file=sys.stderr)
        return 1
    shots = {  # name -> path, and an element that is there once the page has loaded
        "dashboard-playground": ("/?class=ship&n=16&seed=7", "button.tile"),
        "dashboard-job": (f"/jobs/{jobs[0].id}", ".chart svg"),
    }
    url = f"http://127.0.0.1:{read_dashboard_settings().port}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGUMENTS))
        for name, (path, content) in shots.items():
            with browser.new_context(viewport=SIZE, color_scheme="light", reduced_motion="reduce") as context:
                page = Visitor(context.new_page(), url).open(path)
                page.locator(content).first.wait_for()
                page.wait_for_load_state("networkidle")
                page.screenshot(path=IMAGES / f"{name}.png")
            _shrink(IMAGES / f"{name}.png")
            print(IMAGES / f"{name}.png")
        browser.close()
    return 0


def _shrink(path: Path) -> None:
    """Reduces the picture to 256 colours, a quarter of the bytes."""
    with Image.open(path) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
