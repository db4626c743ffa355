"""Every page of the dashboard in a real browser, against a running stack with trained models."""

from __future__ import annotations

import io
import zipfile
from typing import Literal

import pytest
from PIL import Image
from playwright.sync_api import ViewportSize, expect

from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import publish
from tests.dashboard.visitor import Visitor
from tests.processes import Stack, small_overrides

ENDLESS = small_overrides(total_nimg=10**9)


def test_a_job_is_created_in_the_form_watched_and_finished(visitor: Visitor, stack: Stack) -> None:
    # Given a link that fills in the form
    fields = "&".join(f"{name}={value}".replace("[", "").replace("]", "") for name, value in FORM.items())
    page = visitor.open(f"/jobs?preset=tiny&dataset=colors&name=by+hand&{fields}")

    # When a value is out of range, then the error below its field names the limit
    page.get_by_label("lr", exact=True).fill("5")
    visitor.sees("Input should be less than or equal to 1")
    page.get_by_label("lr", exact=True).fill("0.001")
    visitor.sees("total_nimg")
    expect(page.locator("summary", has_text="Resolved config")).to_be_visible()

    # When training is started
    visitor.button("Start training").click()

    # Then the job page shows growing curves and a sample grid
    page.wait_for_url("**/jobs/2*")
    expect(page.get_by_role("heading", level=1)).to_have_text("by hand")
    job_id = page.url.rpartition("/")[2]
    stack.wait_for_job(job_id, lambda job: job["progress"]["images_seen"] > 0)
    count = visitor.sees_more_points_than(0)
    visitor.sees_more_points_than(count)
    grid = page.locator("img.grid-image")
    expect(grid).to_be_visible()
    assert page.wait_for_function("() => document.querySelector('img.grid-image').naturalWidth").json_value() == 320
    expect(page.locator(".pill")).to_have_text("running")

    # And after "Finish now" is confirmed, the job publishes a model
    visitor.button("Finish now").click()
    visitor.click_in_dialog("Finish now")
    visitor.sees("by hand: finishing after the current step.")
    stack.wait_until_over(job_id)
    expect(page.locator(".pill")).to_have_text("succeeded")
    page.get_by_role("link", name="Try the model").click()
    expect(page.locator("button.tile").first).to_be_visible()


FORM = {**ENDLESS, "g_channels": "16,8,8", "d_channels": "8,8,16"}


def test_a_job_is_cancelled_from_the_list_after_a_confirmation(visitor: Visitor, stack: Stack) -> None:
    job_id = stack.submit(preset="tiny", dataset="colors", name="one too many", overrides=ENDLESS)
    page = visitor.open("/jobs")
    row = page.locator("li.job", has_text=job_id)

    row.get_by_role("button", name="Cancel").click()
    visitor.click_in_dialog("Back")
    assert stack.job(job_id)["status"] in ("queued", "running")
    row.get_by_role("button", name="Cancel").click()
    visitor.click_in_dialog("Cancel job")
    expect(page.locator(".toast")).to_contain_text("one too many: ")

    stack.wait_until_over(job_id)
    expect(row.locator(".pill")).to_have_text("cancelled")
    assert stack.job(job_id)["reason"] == "cancelled_by_user"


def test_a_failed_job_shows_its_reason_and_a_remedy(visitor: Visitor, stack: Stack) -> None:
    # Adam without a second moment takes steps of any size as soon as a gradient vanishes
    reckless = {"architecture": "resnet", "g_channels": [8, 8, 8, 8], "lr": 1.0, "adam_beta1": 0.9, "adam_beta2": 0.0}
    overrides = small_overrides(total_nimg=16_000, **reckless)
    job_id = stack.submit(preset="tiny", dataset="colors", overrides=overrides)
    assert stack.wait_until_over(job_id)["reason"] == "diverged"

    page = visitor.open(f"/jobs/{job_id}")

    expect(page.get_by_role("alert").filter(has_text="Failed: diverged")).to_contain_text("learning rate")
    page.get_by_role("link", name="Retry with half the learning rate").click()
    expect(page.get_by_label("lr", exact=True)).to_have_value("0.5")


def test_the_playground_generates_images_and_shows_their_provenance(
    visitor: Visitor, stack: Stack, two_models: tuple[str, str]
) -> None:
    page = visitor.open("/?class=red&n=4&seed=7")
    tiles = page.get_by_role("region", name="Images").locator("button.tile")
    expect(tiles).to_have_count(4)
    assert page.url.endswith("&seed=7")

    # When the class or the seed changes, then the address changes with it
    page.get_by_role("radio", name="blue").check(force=True)
    page.wait_for_url("**class=blue**")
    visitor.button("New seed").click()
    page.wait_for_url(lambda url: not url.endswith("&seed=7"))
    page.get_by_label("Seed", exact=True).fill("-1")
    visitor.sees("Enter a whole number, 0 or greater.")
    page.get_by_label("Seed", exact=True).fill("11")
    page.wait_for_url("**&seed=11")
    expect(page.locator("pre", has_text="curl")).to_contain_text(f"{stack.http.base_url}")

    # When an image is enlarged, then it can be downloaded, pixel for pixel
    tiles.nth(2).click()
    dialog = page.locator("dialog[open]")
    expect(dialog.locator("dt", has_text="Index").locator("+ dd")).to_have_text("2")
    with page.expect_download() as download:
        dialog.get_by_role("link", name="Download PNG").click()
    grid = stack.http.get("/generate", params={"class": "blue", "n": 4, "seed": 11, "columns": 4}).content
    with Image.open(download.value.path()) as alone, Image.open(io.BytesIO(grid)) as all_four:
        assert alone.tobytes() == all_four.crop((64, 0, 96, 32)).tobytes()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_a_model_is_promoted_after_a_confirmation(visitor: Visitor, stack: Stack, two_models: tuple[str, str]) -> None:
    def default() -> str:
        models = stack.http.get("/models").json()["data"]
        return next(str(model["manifest"]["id"]) for model in models if "default" in model["aliases"])

    other = next(model_id for job in two_models if (model_id := stack.job(job)["model_id"]) != default())
    page = visitor.open("/models")

    card = page.get_by_role("article", name=f"Model {other}")
    card.get_by_role("button", name="Promote").click()
    visitor.click_in_dialog("Promote")

    expect(card.locator(".pill.default")).to_be_visible()
    assert default() == other


def test_two_jobs_are_compared(visitor: Visitor, two_models: tuple[str, str]) -> None:
    first, second = two_models
    page = visitor.open(f"/compare?jobs={first}")

    page.get_by_role("checkbox", name="second run").check()

    expect(page.get_by_role("table").locator("tbody tr")).to_have_count(2)
    expect(page.locator("figure img")).to_have_count(2)
    assert second in page.url
    assert visitor.count_points() > 0
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert download.value.path().read_text().count("\n") == 3


def test_a_generated_data_set_is_downloaded_from_the_page_of_its_job(visitor: Visitor, stack: Stack) -> None:
    registry = ModelRegistry(ArtifactStore(Settings(data=stack.data).artifact_url))
    publish(registry, "of-a-set")
    job_id = stack.submit(kind="generate", model="of-a-set", n=1500, name="more images")

    page = visitor.open(f"/jobs/{job_id}")

    expect(page.locator(".pill")).to_have_text("succeeded")
    visitor.sees("1,500 of 1,500 images")
    visitor.screenshot("generated-data-set")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the data set").click()
    assert download.value.suggested_filename == f"{job_id}.zip"
    with zipfile.ZipFile(download.value.path()) as archive:
        assert len([name for name in archive.namelist() if name.endswith(".png")]) == 1500


def test_a_model_that_copies_has_a_warning_and_shows_the_nearest_pairs(visitor: Visitor, evaluated_model: str) -> None:
    page = visitor.open("/models")
    card = page.get_by_role("article", name=f"Model {evaluated_model}")

    expect(card.get_by_role("alert")).to_contain_text("copies training images")
    card.locator("summary", has_text="Nearest training images").click()
    expect(card.get_by_alt_text(f"Ten pairs of {evaluated_model}")).to_be_visible()


MODES: dict[str, tuple[Literal["light", "dark"], ViewportSize]] = {
    f"{device}-{scheme}": (scheme, size)
    for device, size in (
        ("desktop", ViewportSize(width=1280, height=900)),
        ("phone", ViewportSize(width=390, height=844)),
    )
    for scheme in ("light", "dark")
}
PAGES = {  # name -> path, and an element that is there once the page has loaded
    "playground": ("/?class=red&seed=7", "button.tile"),
    "jobs": ("/jobs", "li.job"),
    "new-job": ("/jobs?preset=tiny&lr=5", ".is-invalid"),
    "job": ("/jobs/{first}", ".chart svg"),
    "compare": ("/compare?jobs={first},{second}", ".chart svg"),
    "models": ("/models", ".heat .cell"),
    "datasets": ("/datasets", "article img"),
    "dataset": ("/datasets/colors", "section img"),
    "sweeps": ("/sweeps", ".empty"),
    "unknown-job": ("/jobs/nothing", ".empty"),
}


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_accessible_fits_the_screen_and_loads_nothing_from_other_hosts(
    name: str, visitor: Visitor, axe: str, two_models: tuple[str, str], evaluated_model: str
) -> None:
    """At desktop and phone width, in both themes. Saves screenshots in build/screenshots."""
    path, content = PAGES[name]
    page = visitor.open(path.format(first=two_models[0], second=two_models[1]))
    expect(page.locator(content).first).to_be_visible()
    page.wait_for_load_state("networkidle")
    for mode, (scheme, size) in MODES.items():
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(size)
        visitor.screenshot(f"{name}-{mode}")

        assert visitor.serious_violations(axe) == [], mode
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], mode
    assert visitor.foreign_hosts == set()


def test_pages_can_be_used_with_the_keyboard(visitor: Visitor, two_models: tuple[str, str]) -> None:
    page = visitor.open("/models")
    expect(page.get_by_role("article").first).to_be_visible()

    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")

    assert page.evaluate("document.activeElement.closest('main') !== null")
