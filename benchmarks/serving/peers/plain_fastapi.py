"""Plain FastAPI: a synchronous route, which FastAPI runs in its thread pool. No batching."""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI, Response
from model import Model
from pydantic import BaseModel

app = FastAPI()
model = Model()


class Request(BaseModel):
    label: int
    n: int


@app.post("/generate")
def generate(request: Request) -> Response:
    return Response(model.grids([(request.label, request.n)])[0], media_type="image/png")


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False)
