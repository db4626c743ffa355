"""What can be trained."""

from __future__ import annotations

from fastapi import APIRouter

from services.api.schemas import PresetList, PresetView
from services.api.auth import READ
from shared.errors import UnknownPreset
from shared.configs.presets import PRESETS

router = APIRouter(prefix="/presets", tags=["presets"])


@router.get("", dependencies=[READ])
def list_presets() -> PresetList:
    return PresetList(data=[PresetView.of(preset) for preset in PRESETS.values()])


@router.get("/{name}", dependencies=[READ])
def get_preset(name: str) -> PresetView:
    if name not in PRESETS:
        raise UnknownPreset(name)
    return PresetView.of(PRESETS[name])
