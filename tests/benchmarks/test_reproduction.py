"""The reproduction covers every row of both reports, changes only the budget, and prints all results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reproduction.__main__ import BUDGETS, REPORTS, idempotency_key
from benchmarks.reproduction.page import Outcome, write_page
from shared.configs.presets import PRESETS, resolve

REPORT_VALUES: dict[str, Any] = json.loads(REPORTS.read_text())
ROWS = {"wgan-gp": "report_1"} | dict.fromkeys(REPORT_VALUES["report_2"]["rows"], "report_2")
AMOUNTS = {
    "total_nimg", "tick_nimg", "snapshot_nimg", "lr_step_nimg", "max_minutes", "eval_images",
}  # fmt: skip


def test_every_row_of_the_reports_is_a_preset_and_is_in_a_table() -> None:
    from_reports = {name for name, preset in PRESETS.items() if "report" in " ".join(preset.sources.values())}
    extensions = {"wgan-gp-conditional", "wgan-gp-per-class", "dcgan-per-class"}  # future work of the reports

    assert set(ROWS) == from_reports - extensions
    assert {row for table in REPORT_VALUES["report_2"]["tables"] for row in table["rows"]} == set(ROWS) - {"wgan-gp"}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("preset", ROWS)
def test_a_budget_changes_the_amount_of_training_and_nothing_else(budget: str, preset: str) -> None:
    config = PRESETS[preset].config.model_dump(mode="json")

    overrides = BUDGETS[budget].overrides(ROWS[preset], config)

    assert set(overrides) <= AMOUNTS
    assert resolve(preset, overrides).total_nimg <= config["total_nimg"]
    assert set(BUDGETS["full"].overrides(ROWS[preset], config)) <= {"eval_images"}


def test_the_same_row_is_the_same_job_and_another_budget_is_another_job() -> None:
    key = idempotency_key("hours", "dcgan", {"total_nimg": 5}, "cifar10")

    assert key == idempotency_key("hours", "dcgan", {"total_nimg": 5}, "cifar10")
    assert key != idempotency_key("hours", "dcgan", {"total_nimg": 6}, "cifar10")
    assert key != idempotency_key("hours", "dcgan", {"total_nimg": 5}, "other")


def test_the_page_prints_the_values_of_reports_and_jobs_including_failed_jobs(tmp_path: Path) -> None:
    # Given rows that succeeded, and one that failed
    outcomes = {name: outcome(name) for name in ROWS}
    outcomes["dcgan-softmax"] = outcome("dcgan-softmax", status="failed", error="loss_g is nan")

    page = tmp_path / "docs" / "explanation" / "page.md"
    write_page(page, tmp_path / "docs" / "images", REPORT_VALUES, outcomes, "smoke", "a little", "On a busy machine.")

    text = page.read_text()
    assert "REPRODUCE_BUDGET=smoke" in text
    assert "On a busy machine." in text
    assert "| FID | 12.05 | 345.68 |" in text
    assert "| `dcgan-lr-high` | 0.7149 / 0.5000 | 0.6991 / 0.4000 | 0.8411 / - |" in text
    assert "93% / 25%" in text
    assert "**failed**: loss_g is nan" in text
    assert "1,024 images seen of the report's 750,000" in text
    assert "unstable, mode collapse, G loss up to 6.49; the highest G loss of a tick here: 0.70" in text
    assert text.count("](../images/") == 2 + len(REPORT_VALUES["report_2"]["tables"])


def outcome(name: str, status: str = "succeeded", error: str | None = None) -> Outcome:
    row = {"images_seen": 1024, "initial_loss_d": 0.5, "final_loss_d": 0.4, "d_accuracy_real": 0.25, "seconds": 12.3}
    return Outcome(name, status, error, PRESETS[name].config.total_nimg, row, {"fid": 345.678}, 0.7)
