"""LitServe with batching: https://lightning.ai/docs/litserve/features/batching"""

from __future__ import annotations

import sys

import litserve as ls
from fastapi import Response
from model import Model


class Generate(ls.LitAPI):
    def setup(self, device: str) -> None:
        self.model = Model()

    def decode_request(self, request):  # with an annotation, LitServe would read it from the query
        return request["label"], request["n"]

    def batch(self, inputs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return list(inputs)

    def predict(self, requests: list[tuple[int, int]]) -> list[bytes]:
        return self.model.grids(requests)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(content=output, headers={"Content-Type": "image/png"})


if __name__ == "__main__":
    server = ls.LitServer(Generate(max_batch_size=16, batch_timeout=0.005), accelerator="cpu")
    server.run(port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
