"""Published models, and the aliases that point at them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Path, Response
from fastapi.concurrency import run_in_threadpool

from services.api.auth import READ, TRAIN
from services.api.schemas import AliasRequest, AliasView, ModelList, ModelView
from services.api.state import Kiln, Services
from shared.errors import StoreUnavailable, UnknownPreview
from shared.storage.model_registry import PREVIEW_FILE, ModelManifest

router = APIRouter(tags=["models"])

AliasName = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]


@router.get("/models", dependencies=[READ])
def list_models(kiln: Kiln) -> ModelList:
    """Models, newest first."""
    aliases = kiln.registry.aliases()
    return ModelList(data=[_view(manifest, aliases, kiln) for manifest in kiln.registry.list()])


@router.get("/models/{model_id}", dependencies=[READ])
async def get_model(model_id: str, kiln: Kiln) -> ModelView:
    """The model; if it is not served, `refused` says why."""
    manifest = await asyncio.to_thread(kiln.registry.get, model_id)
    await kiln.models.examine(model_id)
    return _view(manifest, await asyncio.to_thread(kiln.registry.aliases), kiln)


@router.get(
    "/models/{model_id}/preview.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
    dependencies=[READ],
)
def get_preview(model_id: str, kiln: Kiln) -> Response:
    """The model's sample grid, ten rows of ten; one class per row where there are ten."""
    manifest = kiln.registry.get(model_id)
    if PREVIEW_FILE not in manifest.files:
        raise UnknownPreview(model_id)
    preview = kiln.registry.read_file(manifest, PREVIEW_FILE)
    return Response(preview, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})


@router.delete("/models/{model_id}", status_code=204, dependencies=[TRAIN])
async def delete_model(model_id: str, kiln: Kiln) -> None:
    """Takes a model and its files away for good. 409 while an alias points at it."""
    await asyncio.to_thread(kiln.registry.delete, model_id)
    kiln.models.forget(model_id)
    with suppress(StoreUnavailable):
        await run_in_threadpool(kiln.store.announce)


@router.put("/aliases/{alias}", dependencies=[TRAIN])
async def set_alias(alias: AliasName, body: AliasRequest, kiln: Kiln) -> AliasView:
    """Points an alias at a model. `default` is the one that /generate uses."""
    return await promote(alias, body.model_id, kiln)


async def promote(alias: str, model_id: str, kiln: Services) -> AliasView:
    await kiln.models.promote(alias, model_id)
    with suppress(StoreUnavailable):  # other replicas look for themselves before long
        await run_in_threadpool(kiln.store.announce)
    return AliasView(alias=alias, model_id=model_id)


def _view(manifest: ModelManifest, aliases: Mapping[str, str], kiln: Services) -> ModelView:
    own = [alias for alias, model_id in aliases.items() if model_id == manifest.id]
    model = kiln.models.find(manifest.id)
    return ModelView(
        manifest=manifest, aliases=own, refused=kiln.models.refused.get(manifest.id),
        provider=model and model.provider, memory_bytes=model and model.memory_bytes,
    )  # fmt: skip
