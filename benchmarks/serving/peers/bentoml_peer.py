"""BentoML with adaptive batching: https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html

A batchable API maps a list to a list, as JSON, so its PNGs are base64.
"""

from __future__ import annotations

import base64

import bentoml
from model import Model
from pydantic import BaseModel


class Request(BaseModel):
    label: int
    n: int


@bentoml.service(workers=1, traffic={"timeout": 120}, logging={"access": {"enabled": False}})
class Generate:
    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=10_000)
    def generate(self, requests: list[Request]) -> list[str]:
        grids = self.model.grids([(request.label, request.n) for request in requests])
        return [base64.b64encode(grid).decode() for grid in grids]
