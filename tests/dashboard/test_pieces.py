"""What the pages are made of, without a browser: the form's fields, curves, words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from kiln import InvalidInput, Unauthorized
from services.api.app import create_app
from services.dashboard import sentences
from services.dashboard.curves import chart, search_chart, smooth, thin
from services.dashboard.form import GROUPS, Spec, read_specs
from services.dashboard.sheets import Sheet
from shared.configs.presets import PRESETS
from shared.jobs.record import Reason
from shared.settings import Settings


@pytest.mark.parametrize("preset", PRESETS)
def test_the_form_has_a_field_for_everything_in_a_preset(preset: str, settings: Settings) -> None:
    description = create_app(settings).openapi()
    config = PRESETS[preset].config.model_dump(mode="json")

    specs = {spec.name: spec for spec in read_specs(description, config)}

    assert set(specs) == set(config)
    assert all(spec.help for spec in specs.values())
    assert {spec.group for spec in specs.values()} <= {"Other", *GROUPS.values()}


@pytest.mark.parametrize(
    ("kind", "is_optional", "written", "value"),
    [("integer", False, "64", 64), ("number", False, "1e-4", 1e-4), ("boolean", False, "yes", True),
     ("array", False, "64, 32,16", [64, 32, 16]), ("array", False, "[64]", [64]), ("string", False, "hinge", "hinge"),
     ("number", True, "", None), ("integer", False, "many", "many"), ("integer", False, "", "")],
)  # fmt: skip
def test_what_is_written_is_what_json_has(kind: str, is_optional: bool, written: str, value: object) -> None:
    assert Spec("x", kind, is_optional, (), "", "").parse(written) == value


def test_units_come_from_names() -> None:
    units = {
        name: Spec(name, "integer", False, (), "", "").unit for name in ("total_nimg", "checkpoint_every_s", "seed")
    }

    assert units == {"total_nimg": "images", "checkpoint_every_s": "seconds", "seed": ""}


def test_smoothing_begins_without_bias() -> None:
    # After two points: (0.5 * 0.5 * 1 + 0.5 * 4) / (1 - 0.5^2) = 2.25 / 0.75 = 3
    assert smooth([(0, 1.0), (1, 4.0)], 0.5) == [(0, 1.0), (1, 3.0)]
    assert smooth([(0, 1.0), (1, 4.0)], 0.0) == [(0, 1.0), (1, 4.0)]


def test_thinning_keeps_the_last_point() -> None:
    curve = [(float(x), 0.0) for x in range(1001)]

    assert thin(curve, 100)[-1] == (1000.0, 0.0)
    assert 90 <= len(thin(curve, 100)) <= 101
    assert thin([], 100) == []


def test_a_logarithmic_scale_leaves_out_what_has_no_logarithm() -> None:
    options = chart({"g": [(0, -1.0), (1, 2.0)]}, "losses", is_log=True)

    assert options["series"][0]["data"] == [(1, 2.0)]
    assert options["yAxis"]["type"] == "log"


def test_the_best_so_far_never_gets_worse() -> None:
    options = search_chart([(0, 3.0), (1, 5.0), (2, 1.0)], "fid", is_min=True)

    assert [y for _, y in options["series"][2]["data"]] == [3.0, 3.0, 1.0]


def test_a_sheet_knows_where_its_tiles_are() -> None:
    sheet = Sheet.generated({"class": "cat", "seed": "7", "n": "6", "columns": "3"}, 6, 3)

    assert "--x: 100.0000%; --y: 100.0000%" in sheet.window(5)
    assert "--x: 50.0000%; --y: 0.0000%" in sheet.window(1)
    assert sheet.url_of(5) == "/files/generate?class=cat&seed=7&n=1&columns=1&first_index=5"


def test_errors_are_sentences() -> None:
    url = "http://there"
    invalid = {"errors": [{"field": "overrides.lr", "value": 5, "message": "must be at most 1"}]}

    assert sentences.of_error(InvalidInput(422, invalid), url) == "Overrides.lr: must be at most 1 (it was 5)."
    assert "KILN_API_KEY" in sentences.of_error(Unauthorized(401, {"detail": "no key"}), url)
    assert url in sentences.of_error(httpx2.ConnectError("refused"), url)
    assert set(sentences.ADVICE) == set(Reason)


def test_numbers_and_times_are_written_as_people_write_them() -> None:
    now = datetime.now(UTC)

    assert [sentences.duration(s) for s in (None, 7, 250, 7380)] == ["", "7 s", "4 min 10 s", "2 h 03 min"]
    assert [sentences.count(n) for n in (12, 3400, 1_234_567)] == ["12", "3,400", "1.2 M"]
    assert sentences.ago(now - timedelta(hours=3)) == "3 hours ago"
    assert sentences.value([0.25, None, True]) == "0.25, –, yes"
