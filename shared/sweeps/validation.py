"""Validates a sweep before any of its jobs is trained."""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from shared.configs.presets import find_preset, resolve
from shared.configs.train import TrainConfig
from shared.errors import FieldProblem, InvalidInput, did_you_mean
from shared.storage.model_registry import ModelMetrics
from shared.sweeps.record import Choice, Parameter, SweepSpec

MEASURED = tuple(name for name in ModelMetrics.model_fields if name != "protocol")  # all need `eval_images`
SERIES = ("loss_d", "loss_g", "gradient_penalty", "d_accuracy_real", "d_accuracy_fake", "lr")
COMBINATIONS = 256  # of extreme values to try; at least one of them must be a valid config


def check_spec(spec: SweepSpec) -> TrainConfig:
    """Returns a config that the sweep may try. Raises InvalidInput; fields are named as in `space.lr.high`.

    Rules over several fields are checked for some combinations of extreme values only. A sweep over architectures and
    their channels contains pairs that do not fit together; such a trial fails on its own.
    """
    base = find_preset(spec.preset).config.model_dump()
    problems = [problem for name, parameter in spec.space.items() for problem in _problems(name, parameter, spec, base)]
    if problems:
        raise InvalidInput(problems)
    config = _a_valid_config(spec)
    problems = list(_problems_of_objective(spec, config))
    if problems:
        raise InvalidInput(problems)
    return config


def _problems(name: str, parameter: Parameter, spec: SweepSpec, base: Mapping[str, Any]) -> Iterator[FieldProblem]:
    field = f"space.{name}"
    if name not in TrainConfig.model_fields:
        yield FieldProblem(field, parameter.type, f"unknown override{did_you_mean(name, TrainConfig.model_fields)}")
        return
    if name in spec.overrides:
        yield FieldProblem(field, parameter.type, "overrides sets this field too; remove it from one of the two")
    for end, value in parameter.ends.items():
        for message in _refusals(base, name, value):
            yield FieldProblem(f"{field}.{end}", value, message)
            return
    if isinstance(parameter, Choice):
        texts = [json.dumps(value) for value in parameter.choices]
        if len(set(texts)) < len(texts):
            yield FieldProblem(f"{field}.choices", parameter.choices, "the list contains a value twice")


def _refusals(base: Mapping[str, Any], name: str, value: Any) -> list[str]:
    """The error messages of the field itself for a value, without the rules over several fields."""
    try:
        TrainConfig.model_validate({**base, name: value})
    except ValidationError as error:
        return [details["msg"] for details in error.errors(include_url=False) if details["type"] != "config"]
    return []


def _a_valid_config(spec: SweepSpec) -> TrainConfig:
    """The first combination of extreme values that is valid. Raises the first combination's InvalidInput if none is."""
    first_error: InvalidInput | None = None
    ends = [list(parameter.ends.values()) for parameter in spec.space.values()]
    for values in itertools.islice(itertools.product(*ends), COMBINATIONS):
        try:
            return resolve(spec.preset, spec.overrides | dict(zip(spec.space, values, strict=True)))
        except InvalidInput as error:
            first_error = first_error or error
    assert first_error is not None
    raise InvalidInput([_renamed(problem, spec) for problem in first_error.problems])


def _renamed(problem: FieldProblem, spec: SweepSpec) -> FieldProblem:
    name = problem.field.removeprefix("overrides.")
    in_space = name.partition(".")[0] in spec.space
    return FieldProblem(f"space.{name}" if in_space else problem.field, problem.value, problem.message)


def _problems_of_objective(spec: SweepSpec, config: TrainConfig) -> Iterator[FieldProblem]:
    metric = spec.objective.metric
    close = difflib.get_close_matches(metric, (*MEASURED, *SERIES), n=1, cutoff=0.85)
    if metric in MEASURED and not config.eval_images and "eval_images" not in spec.space:
        yield FieldProblem(
            "objective.metric", metric, "set the override eval_images; without it, this metric is not measured"
        )
    elif metric in MEASURED and spec.pruning and not config.eval_every_nimg and "eval_every_nimg" not in spec.space:
        yield FieldProblem(
            "pruning", True, f"set the override eval_every_nimg; without it, {metric} is measured at the end only"
        )
    elif close and close[0] != metric:
        yield FieldProblem("objective.metric", metric, f"unknown metric; did you mean {close[0]!r}?")
