"""Presets and overrides: valid values are accepted, and every other one is refused with its field and value."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.configs.presets import PRESETS, find_preset, resolve
from shared.configs.train import TrainConfig
from shared.errors import FieldProblem, InvalidInput

NAN, INF = float("nan"), float("inf")
HUGE = 10**5000  # more digits than Python is willing to print


def problems_of(overrides: dict[str, Any], preset: str = "tiny") -> tuple[FieldProblem, ...]:
    with pytest.raises(InvalidInput) as caught:
        resolve(preset, overrides)
    return caught.value.problems


# The table


def test_the_presets_and_their_names() -> None:
    assert list(PRESETS) == [
        "wgan-gp", "wgan-gp-conditional",
        "dcgan", "dcgan-lr-high", "dcgan-lr-low", "dcgan-batchnorm", "dcgan-dropout", "dcgan-latent-50",
        "dcgan-latent-150", "dcgan-relu", "dcgan-softmax", "dcgan-epochs-10", "dcgan-epochs-50", "dcgan-batch-100",
        "dcgan-batch-400", "bndrhl", "dcgan-large-batch",
        "wgan-gp-per-class", "dcgan-per-class",
        "tiny", "cpu-hours", "cpu-hours-projected", "best",
        "own-images-64-cpu", "own-images-64", "own-images-128",
    ]  # fmt: skip
    assert all(find_preset(name).name == name for name in PRESETS)


def test_an_unknown_preset_gets_the_list_of_presets() -> None:
    with pytest.raises(InvalidInput) as caught:
        find_preset("wgan-pg")

    (problem,) = caught.value.problems
    assert (problem.field, problem.value) == ("preset", "wgan-pg")
    assert problem.message == f"unknown preset; choose one of {', '.join(PRESETS)}; did you mean 'wgan-gp'?"


def test_a_name_unlike_any_preset_gets_no_suggestion() -> None:
    with pytest.raises(InvalidInput, match=r"choose one of wgan-gp, .*, best, own-images-64-cpu, .* \(got 'x'\)"):
        resolve("x", {})


@pytest.mark.parametrize("preset", ["wgan-gp", "wgan-gp-conditional"])
def test_the_preset_of_report_1_has_its_values(preset: str) -> None:
    config = find_preset(preset).config

    assert (config.batch_size, config.latent_dim) == (64, 100)
    assert (config.lr, config.adam_beta1, config.adam_beta2) == (0.0002, 0.5, 0.999)
    assert config.lr_d is None
    assert (config.loss, config.gp_weight) == ("wasserstein", 10.0)
    assert config.total_nimg == 5_000_000  # 100 epochs of 50,000 images
    assert (config.lr_step_nimg, config.lr_step_factor) == (1_500_000, 0.1)  # every 30 epochs
    assert (config.flip, config.rotation_degrees, config.crop_padding) == (True, 10.0, 4)
    assert (config.ema_halflife_nimg, config.lr_tail) == (0, 0.0)


def test_the_conditional_preset_differs_from_report_1_in_its_conditioning_only() -> None:
    plain, conditional = PRESETS["wgan-gp"].config, PRESETS["wgan-gp-conditional"].config

    assert (plain.conditional, conditional.conditional) == (False, True)
    assert conditional.model_dump(exclude={"conditional"}) == plain.model_dump(exclude={"conditional"})


def test_the_preset_of_report_2_has_its_values() -> None:
    config = find_preset("dcgan").config

    assert (config.architecture, config.conditional, config.loss) == ("keras-dcgan", False, "bce")
    assert (config.latent_dim, config.batch_size, config.lr) == (100, 256, 0.0002)
    assert config.total_nimg == 750_000  # 30 epochs, in which D sees 25,000 real images each
    assert (config.batch_norm, config.dropout, config.g_activation, config.g_output) == (False, 0, None, "tanh")
    # Values of the tutorial that the report cites, which the report does not state
    assert (config.d_batch, config.pixel_range) == ("stacked_half", "unit")
    assert (config.frozen_norm, config.leaky_slope, config.adam_beta1) == ("running", 0.2, 0.5)
    unused = ("flip", "rotation_degrees", "crop_padding", "ema_halflife_nimg", "gp_weight", "lr_tail")
    assert not any(getattr(config, name) for name in unused)


VARIATIONS = {
    "dcgan-lr-high": {"lr": 0.002},
    "dcgan-lr-low": {"lr": 0.00002},
    "dcgan-batchnorm": {"batch_norm": True},
    "dcgan-dropout": {"dropout": 0.4},
    "dcgan-latent-50": {"latent_dim": 50},
    "dcgan-latent-150": {"latent_dim": 150},
    "dcgan-relu": {"g_activation": "relu"},
    "dcgan-softmax": {"g_activation": "relu", "g_output": "softmax"},
    "dcgan-epochs-10": {"total_nimg": 250_000},
    "dcgan-epochs-50": {"total_nimg": 1_250_000},
    "dcgan-batch-100": {"batch_size": 100},
    "dcgan-batch-400": {"batch_size": 400},
    "bndrhl": {"batch_norm": True, "dropout": 0.4, "latent_dim": 150, "total_nimg": 10_000_000},
    "dcgan-large-batch": {"batch_size": 400, "total_nimg": 25_000_000},
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_variation_of_report_2_changes_and_documents_only_its_own_fields(name: str) -> None:
    base, varied, reporting = PRESETS["dcgan"].config, PRESETS[name], {"snapshot_nimg"}

    changes = {
        field: value for field, value in varied.config.model_dump(exclude=reporting).items()
        if value != getattr(base, field)
    }  # fmt: skip
    assert changes == VARIATIONS[name]
    assert all(varied.sources[field].startswith("report 2") for field in changes)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_is_complete(preset: Any) -> None:
    assert preset.summary
    assert preset.sources.keys() <= TrainConfig.model_fields.keys()
    assert all(preset.sources.values())
    assert preset.parameters.keys() == {"generator", "discriminator"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_valid_after_a_round_trip_through_json(name: str) -> None:
    config = PRESETS[name].config

    assert resolve(name, {}) == config
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_a_config_is_frozen() -> None:
    config = resolve("tiny", {})
    with pytest.raises(ValidationError, match="frozen"):
        config.lr = 0.5  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.g_channels[0] = 1  # type: ignore[index]


def test_every_field_is_described() -> None:
    assert [name for name, field in TrainConfig.model_fields.items() if not field.description] == []


# Overrides


@pytest.mark.parametrize(
    "overrides",
    [{}, {"lr": 0.01}, {"lr": 1}, {"lr_d": None}, {"lr_d": 0.5}, {"seed": 2**63 - 1}, {"flip": False, "n_critic": 2},
     {"spectral_norm": True}, {"architecture": "dcgan"}],
    ids=str,
)  # fmt: skip
def test_overrides_replace_the_named_fields_only(overrides: dict[str, Any]) -> None:
    before, after = PRESETS["tiny"].config, resolve("tiny", overrides)

    assert after == before.model_copy(update=overrides)


def test_a_json_array_of_channels_becomes_a_tuple() -> None:
    config = resolve("tiny", json.loads('{"g_channels": [64, 32, 16]}'))

    assert config.g_channels == (64, 32, 16)


WRONG = {
    "a string for a number": ("lr", "0.1"),
    "a string for an integer": ("batch_size", "64"),
    "a string for a boolean": ("conditional", "true"),
    "a float for an integer": ("batch_size", 64.5),
    "a whole float for an integer": ("batch_size", 64.0),
    "a boolean for an integer": ("n_critic", True),
    "a boolean for a number": ("lr", True),
    "an integer for a boolean": ("conditional", 1),
    "a number for a choice": ("loss", 1),
    "an unknown choice": ("loss", "wgan"),
    "a list of strings for a number": ("lr", ["0.1", "0.2"]),
    "a list of strings for a choice": ("architecture", ["dcgan"]),
    "a string for channels": ("g_channels", "128"),
    "an object for channels": ("g_channels", {"0": 128}),
    "too few channels": ("g_channels", [128]),
    "too many channels": ("g_channels", [8] * 9),
    "null": ("lr", None),
    "null for channels": ("g_channels", None),
    "NaN": ("lr", NAN),
    "infinity": ("gp_weight", INF),
    "minus infinity": ("rotation_degrees", -INF),
    "NaN for an integer": ("total_nimg", NAN),
    "infinity for an integer": ("total_nimg", INF),
    "NaN where any length is fine": ("checkpoint_every_s", NAN),
    "infinity where any length is fine": ("checkpoint_every_s", INF),
    "a negative rate": ("lr", -0.001),
    "a rate of zero": ("lr", 0),
    "a rate above one": ("lr", 1.5),
    "a beta of one": ("adam_beta2", 1.0),
    "a budget of zero": ("total_nimg", 0),
    "an integer too large": ("batch_size", 10**100),
    "an integer too large to print": ("seed", HUGE),
    "a huge integer for a number": ("lr", HUGE),
    "a seed beyond 63 bits": ("seed", 2**63),
    "a negative seed": ("seed", -1),
    "an object without its fields": ("early_stop", 3),
    "a path": ("from_checkpoint", "../etc/passwd"),
    "an object": ("lr", {"value": {"of": [0.1]}}),
    "a huge integer inside an object": ("lr", {"value": [HUGE]}),
    "a lone surrogate": ("loss", "\ud800"),
}


@pytest.mark.parametrize(("field", "value"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_named_with_its_field(field: str, value: Any) -> None:
    (problem,) = problems_of({field: value})

    assert problem.field == f"overrides.{field}"
    assert problem.value is value
    assert problem.message
    json.dumps(problem.as_json(), ensure_ascii=False, allow_nan=False).encode()


def test_a_wrong_list_item_is_named_with_its_index() -> None:
    problems = problems_of({"g_channels": [128, "96", 64.5]})

    assert [(p.field, p.value) for p in problems] == [
        ("overrides.g_channels.1", "96"),
        ("overrides.g_channels.2", 64.5),
    ]


def test_all_wrong_values_are_named_at_once() -> None:
    wrong = {"lr": "0.1", "batch_size": 0, "loss": "wgan", "learning_rate": 0.1, "flip": None}

    problems = problems_of(wrong)

    assert {p.field: p.value for p in problems} == {f"overrides.{field}": value for field, value in wrong.items()}
    assert len(problems) == len(wrong)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("batchsize", "unknown override; did you mean 'batch_size'?"),
        ("gp_wieght", "unknown override; did you mean 'gp_weight'?"),
        ("zzz", "unknown override"),
        ("", "unknown override"),
    ],
)
def test_an_unknown_override_gets_a_suggestion_if_a_field_is_similar(name: str, message: str) -> None:
    (problem,) = problems_of({name: 1})

    assert (problem.field, problem.value, problem.message) == (f"overrides.{name}", 1, message)


# Rules over several fields

RESNET = {"architecture": "resnet", "g_channels": [8] * 4}
PROJECTED = RESNET | {"discriminator": "projected", "spectral_norm": True}
STOP = {"early_stop": {"metric": "class_accuracy", "patience": 3, "minimum": 0.0}}
KERAS = {"architecture": "keras-dcgan", "g_channels": [8] * 3, "d_channels": [8] * 2}


@pytest.mark.parametrize(
    ("overrides", "field", "value", "message"),
    [
        ({"g_channels": [8, 8, 8, 8]}, "g_channels", (8, 8, 8, 8), "dcgan takes 3 values at 32 pixels"),
        ({"d_channels": [8, 8]}, "d_channels", (8, 8), "dcgan takes 3 values at 32 pixels"),
        ({"dropout": 0.4}, "dropout", 0.4, "dcgan does not have this option; only keras-dcgan has"),
        ({"g_activation": "relu"}, "g_activation", "relu", "dcgan does not have this option; only keras-dcgan has"),
        ({"d_halvings": 2}, "d_halvings", 2, "dcgan does not have this option; only resnet has"),
        (
            RESNET | {"d_channels": [8, 8], "d_halvings": 3},
            "d_halvings",
            3,
            "must be at most 2, the number of blocks in d_channels",
        ),
        (KERAS | {"d_channels": [8] * 3}, "d_channels", (8,) * 3, "keras-dcgan takes 2 values at 32 pixels"),
        (
            KERAS | {"batch_norm": True, "spectral_norm": True},
            "batch_norm",
            True,
            "batch_norm cannot be combined with spectral_norm; disable one of them",
        ),
        (
            KERAS | {"dropout": 0.4, "gpus": 2},
            "gpus",
            2,
            "dropout differs between devices, so the result would depend on gpus; set dropout to 0",
        ),
        (STOP, "early_stop", STOP["early_stop"], "needs eval_images and eval_every_nimg, which measure the metric"),
        (
            STOP | {"eval_images": 10, "eval_every_nimg": 10, "conditional": False},
            "early_stop",
            STOP["early_stop"],
            "an unconditional model has no class_accuracy",
        ),
        (PROJECTED | {"d_channels": [8] * 5}, "d_channels", (8,) * 5, "projected takes 2 to 4 values at 32 pixels"),
        (
            PROJECTED | {"spectral_norm": False, "gp_weight": 1.0},
            "gp_weight",
            1.0,
            "frozen features cannot be differentiated twice; set it to 0",
        ),
        ({"feature_px": 64}, "feature_px", 64, "only discriminator=projected enlarges images"),
        ({"g_batch": "shared", "n_critic": 2}, "g_batch", "shared", "shared needs n_critic=1 and d_batch=full"),
        (
            {"architecture": "resnet"},
            "g_channels",
            PRESETS["tiny"].config.g_channels,
            "resnet takes 4 values at 32 pixels",
        ),
        (RESNET | {"d_channels": [8] * 5}, "d_channels", (8,) * 5, "resnet takes 2 to 4 values at 32 pixels"),
        (
            {"spectral_norm": True, "gp_weight": 10.0},
            "gp_weight",
            10.0,
            "a gradient penalty cannot be combined with spectral_norm; disable one of them",
        ),
        ({"conditional": False, "class_weight": 1.0}, "class_weight", 1.0, "a class loss needs conditional=true"),
    ],
)
def test_conflicting_values_are_refused(overrides: dict[str, Any], field: str, value: Any, message: str) -> None:
    (problem,) = problems_of(overrides)

    assert (problem.field, problem.message) == (f"overrides.{field}", message)
    assert problem.value == value


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_a_residual_discriminator_takes_two_to_four_stages(stages: int) -> None:
    config = resolve("tiny", RESNET | {"d_channels": [8] * stages})

    assert config.d_channels == (8,) * stages


# Arbitrary values of clients

any_text = st.text() | st.text(st.sampled_from("a\x00ä€😀\ud800\udfff"))  # JSON can spell lone surrogates, too
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | any_text
    | st.integers(1, 6000).map(lambda digits: 10**digits)
    | st.sampled_from(["dcgan", "keras-dcgan", "resnet", "hinge", "bce", "relu", "softmax", "classifier"])
)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(any_text, inner, max_size=3), max_leaves=8
)
names = st.sampled_from(sorted(TrainConfig.model_fields)) | any_text


def resolve_or_refuse(preset: str, overrides: dict[str, Any]) -> TrainConfig | InvalidInput:
    try:
        return resolve(preset, overrides)
    except InvalidInput as error:
        return error


@given(st.sampled_from(sorted(PRESETS)), st.dictionaries(names, json_values, max_size=5))
def test_overrides_are_used_or_refused(preset: str, overrides: dict[str, Any]) -> None:
    outcome = resolve_or_refuse(preset, overrides)

    if isinstance(outcome, TrainConfig):
        assert resolve(preset, outcome.model_dump()) == outcome
        assert TrainConfig.model_validate_json(outcome.model_dump_json()) == outcome
    else:
        assert outcome.problems
        assert all(problem.field.startswith("overrides.") for problem in outcome.problems)
        messages = [str(outcome), *(problem.as_json() for problem in outcome.problems)]
        json.dumps(messages, ensure_ascii=False, allow_nan=False).encode()


@given(st.floats(min_value=0, max_value=1, exclude_min=True))
def test_any_learning_rate_in_its_range_is_used_unchanged(lr: float) -> None:
    assert resolve("tiny", {"lr": lr}).lr == lr


def test_the_largest_float_is_refused_as_too_large() -> None:
    (problem,) = problems_of({"lr": sys.float_info.max})

    assert problem.field == "overrides.lr"
