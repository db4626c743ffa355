"""The wording of errors and the formatting of numbers and times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx2

from kiln import InvalidInput, Unauthorized
from services.dashboard.text import (
    ADVICE,
    duration,
    error_message,
    format_count,
    format_parameter,
    format_value,
    time_ago,
)
from shared.jobs.record import Reason

URL = "http://kiln.example"


def test_an_invalid_value_is_named_with_its_field_and_problem() -> None:
    error = InvalidInput(422, {"errors": [{"field": "overrides.lr", "value": 5, "message": "must be at most 1"}]})

    assert error_message(error, URL) == "Overrides.lr: must be at most 1 (got 5)."


def test_a_missing_key_names_the_setting_to_change() -> None:
    assert "KILN_API_KEY" in error_message(Unauthorized(401, {"detail": "no key"}), URL)


def test_an_unreachable_api_is_named_by_its_address() -> None:
    assert URL in error_message(httpx2.ConnectError("refused"), URL)


def test_every_reason_for_a_failure_has_advice() -> None:
    assert set(ADVICE) == {str(reason) for reason in Reason}


def test_numbers_and_times_are_formatted_for_people() -> None:
    now = datetime.now(UTC)

    assert [duration(s) for s in (None, 7, 250, 7380)] == ["", "7 s", "4 min 10 s", "2 h 03 min"]
    assert [format_count(n) for n in (12, 3400, 1_234_567, 10**9)] == ["12", "3,400", "1.2 M", "1,000 M"]
    assert time_ago(now - timedelta(hours=3)) == "3 hours ago"
    assert format_value([0.25, None, True]) == "0.25, –, yes"


def test_a_parameter_of_a_sweep_is_shown_as_its_range_or_its_choices() -> None:
    logarithmic = {"type": "float", "low": 1e-4, "high": 2e-3, "log": True}
    stepped = {"type": "int", "low": 16, "high": 64, "step": 16, "log": False}

    assert format_parameter(logarithmic) == "0.0001 to 0.002, logarithmic"
    assert format_parameter(stepped) == "16 to 64, step 16"
    assert format_parameter({"type": "categorical", "choices": ["hinge", "bce"]}) == "hinge, bce"
