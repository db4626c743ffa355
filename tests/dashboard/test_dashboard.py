"""The dashboard as people use it: every page, in a real browser, against a real stack on real models."""

from __future__ import annotations

import io
from typing import Literal

import pytest
from PIL import Image
from playwright.sync_api import ViewportSize, expect

from tests.dashboard.visitor import Visitor
from tests.processes import Stack, small_overrides

NEVER_OVER = small_overrides(total_nimg=10**9)


def test_a_job_is_made_in_the_form_and_watched_to_its_end(visitor: Visitor, stack: Stack) -> None:
    # Given the form, opened by a link that fills it in
    fields = "&".join(f"{name}={value}".replace("[", "").replace("]", "") for name, value in FORM.items())
    page = visitor.go(f"/jobs?preset=tiny&dataset=colors&name=by+hand&{fields}")

    # When a value cannot be used, it is told in its place, and by what it must be
    page.get_by_label("lr", exact=True).fill("5")
    visitor.sees("Input should be less than or equal to 1")
    page.get_by_label("lr", exact=True).fill("0.001")
    visitor.sees("total_nimg")
    expect(page.get_by_text("What would be trained")).to_be_visible()

    # And when it is started
    visitor.button("Start training").click()

    # Then its page shows the curve as it grows, and the grids
    page.wait_for_url("**/jobs/2*")
    expect(page.get_by_role("heading", level=1)).to_have_text("by hand")
    job_id = page.url.rpartition("/")[2]
    stack.wait_for_job(job_id, lambda job: job["progress"]["images_seen"] > 0)
    some = visitor.sees_more_points_than(0)
    visitor.sees_more_points_than(some)
    grid = page.locator("img.grid-image")
    expect(grid).to_be_visible()
    assert page.wait_for_function("() => document.querySelector('img.grid-image').naturalWidth").json_value() == 320
    expect(page.locator(".pill")).to_have_text("running")

    # And a finish, asked for and confirmed, makes a model of it
    visitor.button("Finish now").click()
    visitor.says_yes("Finish now")
    visitor.sees("by hand: it finishes at its next step.")
    stack.wait_until_over(job_id)
    expect(page.locator(".pill")).to_have_text("succeeded")
    page.get_by_role("link", name="Try the model").click()
    expect(page.locator("button.tile").first).to_be_visible()


FORM = {**NEVER_OVER, "g_channels": "16,8,8", "d_channels": "8,8,16"}


def test_a_job_is_cancelled_in_the_list_after_a_question(visitor: Visitor, stack: Stack) -> None:
    job_id = stack.submit(preset="tiny", dataset="colors", name="one too many", overrides=NEVER_OVER)
    page = visitor.go("/jobs")
    row = page.locator("li.job", has_text=job_id)

    row.get_by_role("button", name="Cancel").click()
    visitor.says_yes("Not now")
    assert stack.job(job_id)["status"] in ("queued", "running")
    row.get_by_role("button", name="Cancel").click()
    visitor.says_yes("Cancel")
    visitor.sees("one too many: it is")

    stack.wait_until_over(job_id)
    expect(row.locator(".pill")).to_have_text("cancelled")
    assert stack.job(job_id)["reason"] == "cancelled_by_user"


def test_a_failure_says_what_happened_and_what_to_do(visitor: Visitor, stack: Stack) -> None:
    # Adam without a second moment takes steps of any size as soon as a gradient vanishes
    reckless = {"architecture": "resnet", "g_channels": [8, 8, 8, 8], "lr": 1.0, "adam_beta1": 0.9, "adam_beta2": 0.0}
    overrides = small_overrides(total_nimg=16_000, **reckless)
    job_id = stack.submit(preset="tiny", dataset="colors", overrides=overrides)
    assert stack.wait_until_over(job_id)["reason"] == "diverged"

    page = visitor.go(f"/jobs/{job_id}")

    expect(page.get_by_role("alert").filter(has_text="This job failed: diverged")).to_contain_text("learning rate")
    page.get_by_role("link", name="Again with half the learning rate").click()
    expect(page.get_by_label("lr", exact=True)).to_have_value("0.5")


def test_the_playground_draws_and_shows_where_an_image_comes_from(
    visitor: Visitor, stack: Stack, two_models: tuple[str, str]
) -> None:
    page = visitor.go("/?class=red&n=4&seed=7")
    tiles = page.get_by_role("region", name="Images").locator("button.tile")
    expect(tiles).to_have_count(4)
    assert page.url.endswith("&seed=7")

    # Another class, another seed: the address follows, so it can be kept
    page.get_by_role("radio", name="blue").check(force=True)
    page.wait_for_url("**class=blue**")
    visitor.button("Draw again").click()
    page.wait_for_url(lambda url: not url.endswith("&seed=7"))
    page.get_by_label("Seed", exact=True).fill("-1")
    visitor.sees("A seed is a whole number from 0 on.")
    page.get_by_label("Seed", exact=True).fill("11")
    page.wait_for_url("**&seed=11")
    expect(page.locator("pre", has_text="curl")).to_contain_text(f"{stack.http.base_url}")

    # One of them, looked at closely
    tiles.nth(2).click()
    dialog = page.locator("dialog[open]")
    expect(dialog.get_by_text("2 of this seed")).to_be_visible()
    with page.expect_download() as download:
        dialog.get_by_role("link", name="Download PNG").click()
    sheet = stack.http.get("/generate", params={"class": "blue", "n": 4, "seed": 11, "columns": 4}).content
    with Image.open(download.value.path()) as alone, Image.open(io.BytesIO(sheet)) as all_four:
        assert alone.tobytes() == all_four.crop((64, 0, 96, 32)).tobytes()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_a_model_is_promoted_after_a_question(visitor: Visitor, stack: Stack, two_models: tuple[str, str]) -> None:
    def default() -> str:
        models = stack.http.get("/models").json()["data"]
        return next(str(model["manifest"]["id"]) for model in models if "default" in model["aliases"])

    other = next(model_id for job in two_models if (model_id := stack.job(job)["model_id"]) != default())
    page = visitor.go("/models")

    card = page.get_by_role("article", name=f"Model {other}")
    card.get_by_role("button", name="Promote").click()
    visitor.says_yes("Promote")

    expect(card.locator(".pill.default")).to_be_visible()
    assert default() == other


def test_jobs_are_compared(visitor: Visitor, two_models: tuple[str, str]) -> None:
    first, second = two_models
    page = visitor.go(f"/compare?jobs={first}")

    page.get_by_role("checkbox", name="second firing").check()

    expect(page.get_by_role("table").locator("tbody tr")).to_have_count(2)
    expect(page.locator("figure img")).to_have_count(2)
    assert second in page.url
    assert visitor.points() > 0
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert download.value.path().read_text().count("\n") == 3


MODES: dict[str, tuple[Literal["light", "dark"], ViewportSize]] = {
    f"{device}-{scheme}": (scheme, size)
    for device, size in (
        ("desktop", ViewportSize(width=1280, height=900)),
        ("phone", ViewportSize(width=390, height=844)),
    )
    for scheme in ("light", "dark")
}
PAGES = {  # name -> path, and what is to be seen there once all is loaded
    "playground": ("/?class=red&seed=7", "button.tile"),
    "jobs": ("/jobs", "li.job"),
    "new-job": ("/jobs?preset=tiny&lr=5", ".is-wrong"),
    "job": ("/jobs/{first}", ".chart svg"),
    "compare": ("/compare?jobs={first},{second}", ".chart svg"),
    "models": ("/models", ".heat .cell"),
    "sweeps": ("/sweeps", ".empty"),
    "unknown-job": ("/jobs/nothing", ".empty"),
}


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_accessible_fits_and_keeps_to_itself(
    name: str, visitor: Visitor, axe: str, two_models: tuple[str, str], judged_model: str
) -> None:
    """On a desk and on a phone, by day and by night. Leaves a picture of each in build/screenshots."""
    path, content = PAGES[name]
    page = visitor.go(path.format(first=two_models[0], second=two_models[1]))
    expect(page.locator(content).first).to_be_visible()
    page.wait_for_load_state("networkidle")
    for mode, (scheme, size) in MODES.items():
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(size)
        visitor.shoot(f"{name}-{mode}")

        assert visitor.serious_violations(axe) == [], mode
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], mode
    assert visitor.foreign_hosts == set()


def test_the_keyboard_is_enough(visitor: Visitor, two_models: tuple[str, str]) -> None:
    page = visitor.go("/models")
    expect(page.get_by_role("article").first).to_be_visible()

    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")

    assert page.evaluate("document.activeElement.closest('main') !== null")
