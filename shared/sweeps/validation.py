"""Whether a sweep's plan makes sense, said before any of it is trained."""

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

MEASURED = ("fid", "kid", "inception_score", "precision", "recall", "class_accuracy")  # all take `eval_images`
SERIES = ("loss_d", "loss_g", "gradient_penalty", "d_accuracy_real", "d_accuracy_fake", "lr")
COMBINATIONS = 256  # of the ends of ranges that are tried, of which one has to be a sound config


def check_plan(plan: SweepSpec) -> TrainConfig:
    """A config that the sweep may come to. Raises InvalidInput, which names fields as `space.lr.high`.

    Rules over several fields are checked for some combinations of ends only: a sweep over architectures and their
    channels has to meet pairs that do not fit, and such a trial fails by itself.
    """
    base = find_preset(plan.preset).config.model_dump()
    problems = [problem for name, parameter in plan.space.items() for problem in _problems(name, parameter, plan, base)]
    if problems:
        raise InvalidInput(problems)
    config = _a_sound_config(plan)
    problems = list(_problems_of_objective(plan, config))
    if problems:
        raise InvalidInput(problems)
    return config


def parse_space(pairs: Iterable[str]) -> dict[str, Any]:
    """`lr=1e-5..1e-2,log`, `batch_size=16..64,step=16`, `loss=hinge,bce` -> the space of a request.

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
        raise InvalidInput.of(f"space.{name}", text, "expected LOW..HIGH[,log][,step=N], all of them numbers") from None
    field = TrainConfig.model_fields.get(name)
    takes_floats = field is not None and float in (field.annotation, *get_args(field.annotation))
    kind = "int" if isinstance(low, int) and isinstance(high, int) and not takes_floats else "float"
    options = ({"log": True} if "log" in words else {}) | ({"step": steps[-1]} if steps else {})
    return {"type": kind, "low": low, "high": high, **options}


def _values(text: str) -> list[Any]:
    """`1,2`, `null,0.1`, `[8,8],[16,8]`; what is no JSON is words."""
    try:
        values: list[Any] = json.loads(f"[{text}]")
    except ValueError:
        return text.split(",")
    return values


def _problems(name: str, parameter: Parameter, plan: SweepSpec, base: Mapping[str, Any]) -> Iterator[FieldProblem]:
    where = f"space.{name}"
    if name not in TrainConfig.model_fields:
        yield FieldProblem(where, parameter.type, f"unknown override{did_you_mean(name, TrainConfig.model_fields)}")
        return
    if name in plan.overrides:
        yield FieldProblem(where, parameter.type, "it is fixed by overrides as well")
    for place, value in parameter.ends.items():
        for message in _refusals(base, name, value):
            yield FieldProblem(f"{where}.{place}", value, message)
            return
    if isinstance(parameter, Choice):
        texts = [json.dumps(value) for value in parameter.choices]
        if len(set(texts)) < len(texts):
            yield FieldProblem(f"{where}.choices", parameter.choices, "a value stands there twice")


def _refusals(base: Mapping[str, Any], name: str, value: Any) -> list[str]:
    """What the field itself has against a value; rules over several fields are another matter."""
    try:
        TrainConfig.model_validate({**base, name: value})
    except ValidationError as error:
        return [details["msg"] for details in error.errors(include_url=False) if details["type"] != "config"]
    return []


def _a_sound_config(plan: SweepSpec) -> TrainConfig:
    """The first combination of ends that is one. Raises the InvalidInput of the first of all."""
    refused: InvalidInput | None = None
    ends = [list(parameter.ends.values()) for parameter in plan.space.values()]
    for values in itertools.islice(itertools.product(*ends), COMBINATIONS):
        try:
            return resolve(plan.preset, plan.overrides | dict(zip(plan.space, values, strict=True)))
        except InvalidInput as error:
            refused = refused or error
    assert refused is not None
    raise InvalidInput([_renamed(problem, plan) for problem in refused.problems])


def _renamed(problem: FieldProblem, plan: SweepSpec) -> FieldProblem:
    name = problem.field.removeprefix("overrides.")
    in_space = name.partition(".")[0] in plan.space
    return FieldProblem(f"space.{name}" if in_space else problem.field, problem.value, problem.message)


def _problems_of_objective(plan: SweepSpec, config: TrainConfig) -> Iterator[FieldProblem]:
    metric = plan.objective.metric
    close = difflib.get_close_matches(metric, (*MEASURED, *SERIES), n=1, cutoff=0.85)
    if metric in MEASURED and not config.eval_images and "eval_images" not in plan.space:
        yield FieldProblem("objective.metric", metric, "it is measured only with the override eval_images")
    elif metric in MEASURED and plan.pruning and not config.eval_every_nimg and "eval_every_nimg" not in plan.space:
        yield FieldProblem("pruning", True, f"{metric} is measured on the way only with the override eval_every_nimg")
    elif close and close[0] != metric:
        yield FieldProblem("objective.metric", metric, f"unknown metric; did you mean {close[0]!r}?")
