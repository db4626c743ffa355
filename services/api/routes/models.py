"""/models and /aliases: the model registry."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Path, Response
from fastapi.concurrency import run_in_threadpool

from services.api.auth import READ, TRAIN
from services.api.schemas.models import AliasRequest, AliasView, ModelList, ModelView
from services.api.state import AppState, State
from shared.errors import NotFound, StoreUnavailable, UnknownNeighbours, UnknownPreview
from shared.storage.model_registry import NEIGHBOURS_FILE, PREVIEW_FILE, ModelManifest

router = APIRouter(tags=["models"])

AliasName = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]


@router.get("/models", dependencies=[READ])
def list_models(state: State) -> ModelList:
    """Lists the models, newest first."""
    aliases = state.registry.aliases()
    return ModelList(data=[_view(manifest, aliases, state) for manifest in state.registry.list()])


@router.get("/models/{model_id}", dependencies=[READ])
def get_model(model_id: str, state: State) -> ModelView:
    """Shows a model. If it cannot be served, `refused` holds the reason."""
    return _view(state.registry.get(model_id), state.registry.aliases(), state)


@router.get(
    "/models/{model_id}/preview.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
    dependencies=[READ],
)
def get_preview(model_id: str, state: State) -> Response:
    """Returns the model's sample grid of ten rows of ten images. With ten classes, each row shows one class."""
    return _file(model_id, PREVIEW_FILE, UnknownPreview, state)


@router.get(
    "/models/{model_id}/neighbours.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
    dependencies=[READ],
)
def get_neighbours(model_id: str, state: State) -> Response:
    """Returns the ten generated images that are nearest to a training image, with that training image below each."""
    return _file(model_id, NEIGHBOURS_FILE, UnknownNeighbours, state)


@router.delete("/models/{model_id}", status_code=204, dependencies=[TRAIN])
async def delete_model(model_id: str, state: State) -> None:
    """Deletes a model and its files. 409 while an alias points at it."""
    await run_in_threadpool(state.registry.delete, model_id)
    state.models.evict(model_id)
    with suppress(StoreUnavailable):
        await run_in_threadpool(state.store.announce)


@router.put("/aliases/{alias}", dependencies=[TRAIN])
async def set_alias(alias: AliasName, body: AliasRequest, state: State) -> AliasView:
    """Points an alias at a model. /generate uses the alias `default` unless `model` is given."""
    return await promote(alias, body.model_id, state)


async def promote(alias: str, model_id: str, state: AppState) -> AliasView:
    await state.models.promote(alias, model_id)
    with suppress(StoreUnavailable):  # without the announcement, other replicas find the change at their next scan
        await run_in_threadpool(state.store.announce)
    return AliasView(alias=alias, model_id=model_id)


def _file(model_id: str, name: str, unknown: type[NotFound], state: AppState) -> Response:
    """A picture of a model, which never changes. Raises `unknown` if the model has none."""
    manifest = state.registry.get(model_id)
    if name not in manifest.files:
        raise unknown(model_id)
    picture = state.registry.read_file(manifest, name)
    return Response(picture, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})


def _view(manifest: ModelManifest, aliases: Mapping[str, str], state: AppState) -> ModelView:
    own = [alias for alias, model_id in aliases.items() if model_id == manifest.id]
    model = state.models.find(manifest.id)
    return ModelView(
        manifest=manifest, aliases=own, refused=state.models.refused.get(manifest.id),
        provider=model and model.provider, memory_bytes=model and model.memory_bytes,
    )  # fmt: skip
