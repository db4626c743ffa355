"""Every error has a class, an HTTP status and a JSON form, whatever value the caller sent."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.api.errors import status_of
from shared import errors
from shared.errors import MAX_VALUE_CHARS, FieldProblem, InvalidInput, KilnError, NotFound, TrainingFailed, printable
from shared.jobs.record import Reason

NAN, INF = float("nan"), float("inf")


def below(kind: type[KilnError]) -> list[type[KilnError]]:
    children: list[type[KilnError]] = kind.__subclasses__()
    return [kind for child in children for kind in (child, *below(child))]


def deep(levels: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


# The tree


def drawn_tree() -> dict[str, str]:
    """child -> parent, parsed from the docstring of shared/errors.py."""
    parents: dict[str, str] = {}
    path: list[str] = []  # from the root to the line above
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"(?P<rails>[│├└─ ]*)(?P<name>[A-Z]\w+)(\s{2,}|$)", line):
            depth = len(match["rails"]) // 4
            path[depth:] = [match["name"]]
            parents.update({child: parent for parent, child in pairwise(path)})
    return parents


def test_the_tree_in_the_docstring_matches_the_classes() -> None:
    assert drawn_tree() == {kind.__name__: kind.__base__.__name__ for kind in below(KilnError) if kind.__base__}


def test_every_error_has_one_parent_and_a_docstring() -> None:
    kinds: list[type[KilnError]] = [KilnError, *below(KilnError)]
    for kind in kinds:
        assert len(kind.__bases__) == 1
        assert kind.__doc__ or kind.__base__ is NotFound  # its subclasses have `kind` instead


@pytest.mark.parametrize("kind", below(KilnError), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status(kind: type[KilnError]) -> None:
    status = status_of(kind.__new__(kind))

    assert isinstance(status, HTTPStatus)
    assert status >= HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize("kind", [TrainingFailed, *below(TrainingFailed)], ids=lambda kind: kind.__name__)
def test_the_reason_of_a_failed_training_is_a_reason_of_jobs(kind: type[TrainingFailed]) -> None:
    assert kind.reason in set(Reason)


# Messages


def test_an_unknown_name_is_quoted_in_the_error() -> None:
    kinds = {kind.__name__: str(kind("x")) for kind in below(NotFound)}

    assert kinds == {
        "UnknownJob": "there is no job 'x'",
        "UnknownModel": "there is no model 'x'",
        "UnknownPreview": "there is no preview of model 'x'",
        "UnknownSample": "there is no sample grid 'x'",
        "UnknownPreset": "there is no preset 'x'",
        "UnknownAlias": "there is no alias 'x'",
        "UnknownSweep": "there is no sweep 'x'",
        "UnknownClassifier": "there is no classifier in 'x'",
        "UnknownGeneratedDataset": "there is no complete data set of job 'x'",
        "UnknownDataset": "there is no data set 'x'",
        "UnknownDatasetPreview": "there is no preview of data set 'x'",
        "UnknownNeighbours": "there is no picture of nearest neighbours of model 'x'",
    }


def test_invalid_input_names_every_field_and_value() -> None:
    error = InvalidInput([FieldProblem("lr", NAN, "not finite"), FieldProblem("n", "x" * 1000, "too long")])

    assert str(error) == f"lr: not finite (got 'nan'); n: too long (got '{'x' * MAX_VALUE_CHARS}…')"
    assert InvalidInput.of("n", 1, "odd").problems == (FieldProblem("n", 1, "odd"),)


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (None, None),
        (True, True),
        (0, 0),
        (0.1, 0.1),
        (NAN, "nan"),
        (INF, "inf"),
        (-INF, "-inf"),
        (10**18 - 1, 10**18 - 1),
        (10**18, "an integer of 60 bits"),
        (-(2**100), "an integer of 101 bits"),
        (10**5000, "an integer of 16610 bits"),
        ("", ""),
        ("größer", "größer"),
        ("x" * MAX_VALUE_CHARS, "x" * MAX_VALUE_CHARS),
        ("x" * (MAX_VALUE_CHARS + 1), "x" * MAX_VALUE_CHARS + "…"),
        ("\ud800", "\\ud800"),
        ([1, "a", None], "[1, 'a', None]"),
        ({"a": NAN}, "{'a': nan}"),
        ([10**5000], "a list that cannot be printed"),
        ({"a": {"b": 10**5000}}, "a dict that cannot be printed"),
        (deep(100_000), "a list that cannot be printed"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_in_errors_are_safe_and_short(value: Any, printed: Any) -> None:
    assert printable(value) == printed
    assert type(printable(value)) is type(printed)


any_text = st.text() | st.text(st.sampled_from("a\x00ä€😀\ud800\udfff"))  # lone surrogates included
huge_integers = st.integers(1, 6000).map(lambda digits: -(10**digits))
scalars = st.none() | st.booleans() | st.integers() | huge_integers | st.floats() | any_text | st.binary()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(any_text, inner) | st.tuples(inner))


@given(values, any_text)
@example([10**5000], "f")
@example(["\ud800"], "\ud800")
@example("\ud800" * 1000, "\ud800" * 1000)
def test_any_value_can_be_printed_in_an_error(value: Any, field: str) -> None:
    problem = FieldProblem(field, value, "wrong")

    encoded = json.dumps(problem.as_json(), ensure_ascii=False, allow_nan=False).encode()

    assert len(encoded) < 6 * 2 * (MAX_VALUE_CHARS + 50)  # a control character takes six bytes in JSON
    str(InvalidInput([problem])).encode()
