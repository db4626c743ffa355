"""/presets: the table of training presets."""

from __future__ import annotations

from fastapi import APIRouter

from services.api.auth import READ
from services.api.schemas.presets import PresetList, PresetView
from shared.configs.presets import PRESETS
from shared.errors import UnknownPreset

router = APIRouter(prefix="/presets", tags=["presets"])


@router.get("", dependencies=[READ])
def list_presets() -> PresetList:
    """Lists the presets, with parameter counts and the source of each value."""
    return PresetList(data=[PresetView.of(preset) for preset in PRESETS.values()])


@router.get("/{name}", dependencies=[READ])
def get_preset(name: str) -> PresetView:
    """Shows a preset."""
    if name not in PRESETS:
        raise UnknownPreset(name)
    return PresetView.of(PRESETS[name])
