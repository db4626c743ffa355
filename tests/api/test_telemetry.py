"""Prometheus metrics of models come and go with the models."""

from __future__ import annotations

from services.api.telemetry import Telemetry


def text_of(telemetry: Telemetry) -> str:
    return telemetry.text().decode()


def test_metrics_of_a_model_that_left_memory_are_scraped_once_more_and_then_removed() -> None:
    telemetry = Telemetry()
    evicted, served = telemetry.of_model("evicted", "CPU"), telemetry.of_model("served", "CPU")
    evicted.ran(4, 0.0)
    served.ran(2, 0.0)

    del evicted

    assert 'kiln_images_total{model="evicted",provider="CPU"} 4.0' in text_of(telemetry)
    after = text_of(telemetry)
    assert "evicted" not in after
    assert 'kiln_images_total{model="served",provider="CPU"} 2.0' in after


def test_metrics_of_a_model_that_is_loaded_again_continue() -> None:
    telemetry = Telemetry()
    old, new = telemetry.of_model("model", "CPU"), telemetry.of_model("model", "CPU")
    old.ran(4, 0.0)

    del old
    text_of(telemetry)
    new.ran(3, 0.0)

    assert 'kiln_images_total{model="model",provider="CPU"} 7.0' in text_of(telemetry)
