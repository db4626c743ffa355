"""Published models, and the aliases that point at them."""

from __future__ import annotations

from contextlib import suppress

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool

from services.api.dependencies import Kiln, Services
from services.api.schemas import AliasRequest, AliasView, ModelList, ModelView
from services.api.security import READ, TRAIN
from shared.errors import StoreUnavailable
from shared.registry import PREVIEW_FILE, ModelManifest

router = APIRouter(tags=["models"])


@router.get("/models", dependencies=[READ])
def list_models(kiln: Kiln) -> ModelList:
    """Models, newest first."""
    return ModelList(data=[_view(manifest, kiln) for manifest in kiln.registry.list()])


@router.get("/models/{model_id}", dependencies=[READ])
def get_model(model_id: str, kiln: Kiln) -> ModelView:
    return _view(kiln.registry.get(model_id), kiln)


@router.get(
    "/models/{model_id}/preview.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
    dependencies=[READ],
)
def get_preview(model_id: str, kiln: Kiln) -> Response:
    """The model's sample grid, ten rows of ten; one class per row where there are ten."""
    return Response(kiln.registry.read_file(kiln.registry.get(model_id), PREVIEW_FILE), media_type="image/png")


@router.put("/aliases/{alias}", dependencies=[TRAIN])
async def set_alias(alias: str, body: AliasRequest, kiln: Kiln) -> AliasView:
    """Points an alias at a model. `default` is the one that /generate uses."""
    await kiln.models.promote(alias, body.model_id)
    with suppress(StoreUnavailable):  # other replicas look for themselves before long
        await run_in_threadpool(kiln.store.announce)
    return AliasView(alias=alias, model_id=body.model_id)


def _view(manifest: ModelManifest, kiln: Services) -> ModelView:
    aliases = [alias for alias, model_id in kiln.registry.aliases().items() if model_id == manifest.id]
    return ModelView(manifest=manifest, aliases=aliases, refused=kiln.models.refused.get(manifest.id))
