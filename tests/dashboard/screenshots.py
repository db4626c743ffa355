"""`make screenshots`: takes the README's pictures of the dashboard from a running Kiln.

KILN_URL and KILN_DASHBOARD_PORT select it. The pictures show its newest jobs that have curves.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from kiln import Kiln
from services.dashboard.settings import read_dashboard_settings
from tests.dashboard.conftest import ARGUMENTS
from tests.dashboard.visitor import Visitor

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 780}


def main() -> int:
    with Kiln(max_wait_s=0) as kiln:
        jobs = [job for job in kiln.jobs.list(limit=20) if len(job.series()) > 10]
    if not jobs:
        print(
            "none of the 20 newest jobs has more than 10 rows of metrics; train one, then run this again",
            file=sys.stderr,
        )
        return 1
    compared = ",".join(job.id for job in jobs[:3])
    shots = {
        "dashboard-playground": ("/?class=ship&n=16&seed=7", WIDE, "light"),
        "dashboard-job": (f"/jobs/{jobs[0].id}", WIDE, "light"),
        "dashboard-compare": (f"/compare?jobs={compared}", WIDE, "dark"),
        "dashboard-models": ("/models", WIDE, "light"),
        "dashboard-phone": ("/", PHONE, "dark"),
    }
    url = f"http://127.0.0.1:{read_dashboard_settings().port}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGUMENTS))
        for name, (path, size, scheme) in shots.items():
            with browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce") as context:  # type: ignore[arg-type]
                page = Visitor(context.new_page(), url).open(path)
                if path.startswith("/?") or path == "/":
                    page.locator("button.tile").first.wait_for()
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
