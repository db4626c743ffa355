"""Handles query parameters that occur several times: joins the values of lists, and refuses all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlencode

from starlette.types import ASGIApp, Receive, Scope, Send

from services.api.errors import problem_of
from shared.errors import FieldProblem, InvalidInput

LISTS = frozenset({"class", "status", "jobs", "epochs"})  # comma-separated lists


class RepeatedParameters:
    """ASGI middleware: rewrites `class=cat&class=dog` as `class=cat,dog`; 422 for other repeated parameters.

    HTTP libraries encode lists that way. FastAPI would use the last value and ignore the others.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and b"&" in scope["query_string"]:
            pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            repeated = {name for name, count in Counter(name for name, _ in pairs).items() if count > 1}
            if refused := sorted(repeated - LISTS):
                await problem_of(InvalidInput([_problem(name, pairs) for name in refused]))(scope, receive, send)
                return
            if repeated:
                scope = {**scope, "query_string": _joined(pairs).encode("latin-1")}
        await self._app(scope, receive, send)


def _problem(name: str, pairs: Sequence[tuple[str, str]]) -> FieldProblem:
    values = [value for other, value in pairs if other == name]
    return FieldProblem(name, ", ".join(values), f"occurs {len(values)} times in the query; send it once")


def _joined(pairs: Sequence[tuple[str, str]]) -> str:
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return urlencode({name: ",".join(texts) for name, texts in values.items()})
