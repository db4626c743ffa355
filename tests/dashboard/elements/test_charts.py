"""Chart options: smoothing, thinning, logarithmic axes and the best trial so far."""

from __future__ import annotations

from services.dashboard.elements.charts import line_chart, smooth, thin, trials_chart


def test_smoothing_corrects_the_bias_of_the_first_points() -> None:
    # After two points: (0.5 * 0.5 * 1 + 0.5 * 4) / (1 - 0.5^2) = 2.25 / 0.75 = 3
    assert smooth([(0, 1.0), (1, 4.0)], 0.5) == [(0, 1.0), (1, 3.0)]
    assert smooth([(0, 1.0), (1, 4.0)], 0.0) == [(0, 1.0), (1, 4.0)]


def test_thinning_keeps_the_last_point() -> None:
    curve = [(float(x), 0.0) for x in range(1001)]

    assert thin(curve, 100)[-1] == (1000.0, 0.0)
    assert 90 <= len(thin(curve, 100)) <= 101
    assert thin([], 100) == []


def test_a_logarithmic_axis_leaves_out_values_that_are_not_positive() -> None:
    options = line_chart({"g": [(0, -1.0), (1, 2.0)]}, "losses", is_log=True)

    assert options["series"][0]["data"] == [(1, 2.0)]
    assert options["yAxis"]["type"] == "log"


def test_the_best_value_so_far_never_gets_worse() -> None:
    options = trials_chart([(0, 3.0), (1, 5.0), (2, 1.0)], "fid", is_min=True)

    assert [y for _, y in options["series"][2]["data"]] == [3.0, 3.0, 1.0]
