"""Validates a sweep before any of its jobs is trained."""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import ValidationError

from shared.configs.presets import find_preset, resolve
from shared.configs.train import TrainConfig
from shared.errors import FieldProblem, InvalidInput, did_you_mean
from shared.sweeps.record import Choice, Parameter, SweepSpec

MEASURED = ("fid", "kid", "inception_score", "precision", "recall", "class_accuracy")  # all need `eval_images`
SERIES = ("loss_d", "loss_g", "gradient_penalty", "d_accuracy_real", "d_accuracy_fake", "lr")
COMBINATIONS = 256  # of extreme values to try; at least one of them must be a valid config


def check_plan(plan: SweepSpec) -> TrainConfig:
    """Returns a config that the sweep may try. Raises InvalidInput; fields are named as in `space.lr.high`.

    Rules over several fields are checked for some combinations of extreme values only. A sweep over architectures and
    their channels contains pairs that do not fit together; such a trial fails on its own.
    """
    base = find_preset(plan.preset).config.model_dump()
    problems = [problem for name, parameter in plan.space.items() for problem in _problems(name, parameter, plan, base)]
    if problems:
        raise InvalidInput(problems)
    config = _a_valid_config(plan)
    problems = list(_problems_of_objective(plan, config))
    if problems:
        raise InvalidInput(problems)
    return config


def parse_space(pairs: Iterable[str]) -> dict[str, Any]:
    """Parses `lr=1e-5..1e-2,log`, `batch_size=16..64,step=16`, `loss=hinge,bce` into the `space` of a request.

    Raises InvalidInput.
    """
    space: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not text:
            raise InvalidInput.of("space", pair, "expected FIELD=LOW..HIGH[,log][,step=N] or FIELD=VALUE,VALUE")
        space[name] = _parse_range(name, text) if ".." in text else {"type": "categorical", "choices": _values(text)}
    return space


def _parse_range(name: str, text: str) -> dict[str, Any]:
    ends, *words = text.split(",")
    try:
        low, high = (json.loads(end) for end in ends.split(".."))
        steps = [json.loads(word.removeprefix("step=")) for word in words if word != "log"]
    except ValueError:
        raise InvalidInput.of(f"space.{name}", text, "expected LOW..HIGH[,log][,step=N] with numbers") from None
    field = TrainConfig.model_fields.get(name)
    takes_floats = field is not None and float in (field.annotation, *get_args(field.annotation))
    kind = "int" if isinstance(low, int) and isinstance(high, int) and not takes_floats else "float"
    options = ({"log": True} if "log" in words else {}) | ({"step": steps[-1]} if steps else {})
    return {"type": kind, "low": low, "high": high, **options}


def _values(text: str) -> list[Any]:
    """Parses `1,2`, `null,0.1` or `[8,8],[16,8]`; anything but JSON becomes strings."""
    try:
        values: list[Any] = json.loads(f"[{text}]")
    except ValueError:
        return text.split(",")
    return values


def _problems(name: str, parameter: Parameter, plan: SweepSpec, base: Mapping[str, Any]) -> Iterator[FieldProblem]:
    field = f"space.{name}"
    if name not in TrainConfig.model_fields:
        yield FieldProblem(field, parameter.type, f"unknown override{did_you_mean(name, TrainConfig.model_fields)}")
        return
    if name in plan.overrides:
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


def _a_valid_config(plan: SweepSpec) -> TrainConfig:
    """The first combination of extreme values that is valid. Raises the first combination's InvalidInput if none is."""
    first_error: InvalidInput | None = None
    ends = [list(parameter.ends.values()) for parameter in plan.space.values()]
    for values in itertools.islice(itertools.product(*ends), COMBINATIONS):
        try:
            return resolve(plan.preset, plan.overrides | dict(zip(plan.space, values, strict=True)))
        except InvalidInput as error:
            first_error = first_error or error
    assert first_error is not None
    raise InvalidInput([_renamed(problem, plan) for problem in first_error.problems])


def _renamed(problem: FieldProblem, plan: SweepSpec) -> FieldProblem:
    name = problem.field.removeprefix("overrides.")
    in_space = name.partition(".")[0] in plan.space
    return FieldProblem(f"space.{name}" if in_space else problem.field, problem.value, problem.message)


def _problems_of_objective(plan: SweepSpec, config: TrainConfig) -> Iterator[FieldProblem]:
    metric = plan.objective.metric
    close = difflib.get_close_matches(metric, (*MEASURED, *SERIES), n=1, cutoff=0.85)
    if metric in MEASURED and not config.eval_images and "eval_images" not in plan.space:
        yield FieldProblem(
            "objective.metric", metric, "set the override eval_images; without it, this metric is not measured"
        )
    elif metric in MEASURED and plan.pruning and not config.eval_every_nimg and "eval_every_nimg" not in plan.space:
        yield FieldProblem(
            "pruning", True, f"set the override eval_every_nimg; without it, {metric} is measured at the end only"
        )
    elif close and close[0] != metric:
        yield FieldProblem("objective.metric", metric, f"unknown metric; did you mean {close[0]!r}?")
