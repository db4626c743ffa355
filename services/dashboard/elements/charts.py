"""ECharts options for line charts over the images seen. Colours and text are readable on light and dark backgrounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, float]  # one row of a job's metrics
Points = list[tuple[float, float]]

# Distinguishable with colour blindness (after Okabe and Ito).
COLORS = ("#e0702f", "#3f87d9", "#2fa37c", "#b86fc6", "#c29a1f", "#e0607e", "#5fb3c9", "#8a8f98")
GREY, GRID = "#8b8378", "rgba(139, 131, 120, 0.22)"
MAX_POINTS = 400  # more are not visible, and every update would send them

SHORT_NUMBER = """(n) => {
    const a = Math.abs(n);
    if (a >= 1e6) return +(n / 1e6).toFixed(2) + ' M';
    return a >= 1e4 ? +(n / 1e3).toFixed(1) + ' k' : String(+n.toPrecision(4));
}"""

LOSSES = ("loss_g", "loss_d")
ACCURACIES = ("d_accuracy_real", "d_accuracy_fake")
FIGURES = ("fid", "kid", "inception_score", "precision", "recall", "class_accuracy")
LABELS = {
    "loss_g": "generator", "loss_d": "discriminator", "d_accuracy_real": "real images",
    "d_accuracy_fake": "generated images", "fid": "FID", "kid": "KID", "inception_score": "Inception Score",
    "precision": "precision", "recall": "recall", "class_accuracy": "class accuracy",
}  # fmt: skip


def points(rows: Sequence[Row], name: str) -> Points:
    return [(row["nimg"], row[name]) for row in rows if name in row]


def smooth(curve: Points, weight: float) -> Points:
    """Exponential moving average with bias correction; `weight`, in [0, 1), is the weight of the past."""
    if not weight:
        return curve
    total, norm, smoothed = 0.0, 0.0, []
    for x, y in curve:
        total, norm = weight * total + (1 - weight) * y, weight * norm + (1 - weight)
        smoothed.append((x, total / norm))
    return smoothed


def thin(curve: Points, max_points: int = MAX_POINTS) -> Points:
    """Every k-th point, and always the last."""
    step = math.ceil(len(curve) / max_points) if curve else 1
    return curve if step <= 1 else [*curve[:-1:step], curve[-1]]


def line_chart(
    series: Mapping[str, Points],
    title: str,
    *,
    smoothing: float = 0.0,
    is_log: bool = False,
    x_label: str = "training images",
) -> dict[str, Any]:
    """Options of a line chart with one curve per name; smoothed curves have the raw ones faintly behind them."""
    drawn = []
    for number, (name, curve) in enumerate(series.items()):
        shown = [(x, y) for x, y in curve if y > 0] if is_log else curve
        color = COLORS[number % len(COLORS)]
        line = {"type": "line", "showSymbol": len(shown) < 30, "symbolSize": 5, "color": color, "animation": False}
        width = {"width": 2, "cap": "round", "join": "round"}
        drawn.append(line | {"name": name, "data": thin(smooth(shown, smoothing)), "lineStyle": width})
        faint = {"opacity": 0.28, "width": 1}
        raw = {"data": thin(shown) if smoothing else [], "lineStyle": faint, "showSymbol": False, "silent": True}
        drawn.append(line | raw | {"tooltip": {"show": False}})
    text = {"color": GREY, "fontSize": 11}
    axis = {"axisLabel": text | {":formatter": SHORT_NUMBER, "hideOverlap": True},
            "splitLine": {"lineStyle": {"color": GRID}}}  # fmt: skip
    return {
        "aria": {"enabled": True, "label": {"description": f"{title} by {x_label}: {', '.join(series)}"}},
        "textStyle": {"fontFamily": "system-ui, sans-serif"},
        "grid": {"left": 52, "right": 18, "top": 34, "bottom": 44},
        "legend": {"data": list(series), "top": 0, "left": 0, "icon": "roundRect", "itemWidth": 14, "itemHeight": 4,
                   "itemGap": 16, "type": "scroll", "textStyle": text | {"fontSize": 12}},
        "tooltip": {"trigger": "axis", "confine": True, "axisPointer": {"lineStyle": {"color": GREY}},
                    ":valueFormatter": "(v) => v === undefined ? '' : String(+Number(v).toPrecision(5))"},
        "xAxis": axis | {"type": "value", "name": x_label, "nameLocation": "middle", "nameGap": 26,
                         "nameTextStyle": text, "min": "dataMin", "max": "dataMax", "splitLine": {"show": False},
                         "axisLine": {"lineStyle": {"color": GRID}}},
        "yAxis": axis | {"type": "log" if is_log else "value", "scale": True},
        "series": drawn,
    }  # fmt: skip


def trials_chart(values: Points, metric: str, is_min: bool) -> dict[str, Any]:
    """Options of a chart of (trial number, value) and the best value so far."""
    best: Points = []
    for number, value in values:
        so_far = best[-1][1] if best else value
        best.append((number, min(so_far, value) if is_min else max(so_far, value)))
    options = line_chart({"trials": values, "best so far": best}, f"{metric} by trial", x_label="trial")
    trials, _, line, _ = options["series"]
    trials |= {"type": "scatter", "symbolSize": 8}
    line |= {"step": "end", "showSymbol": False}
    options["xAxis"] |= {"minInterval": 1}
    return options
