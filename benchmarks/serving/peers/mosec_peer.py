"""mosec with dynamic batching: https://mosecorg.github.io/mosec/reference/interface.html"""

from __future__ import annotations

import json
from typing import Any

from model import Model
from mosec import Server, Worker


class Generate(Worker):
    resp_mime_type = "image/png"

    def __init__(self) -> None:
        self.model = Model()

    def deserialize(self, data: bytes) -> Any:
        request = json.loads(data)
        return request["label"], request["n"]

    def forward(self, data: list[tuple[int, int]]) -> list[bytes]:
        return self.model.grids(data)

    def serialize(self, data: bytes) -> bytes:
        return data


if __name__ == "__main__":  # takes --port
    server = Server()
    server.append_worker(Generate, num=1, max_batch_size=16, max_wait_time=5)
    server.run()
