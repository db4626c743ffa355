"""Models in memory: loaded and warmed in the background, swapped in when they are ready, never torn from a request."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.api.batcher import DynamicBatcher
from services.api.engine import OnnxEngine
from shared.errors import CorruptArtifact, InvalidInput, NoModelReady, UnknownAlias, UnknownModel
from shared.registry import DEFAULT_ALIAS, GENERATOR_FILE, ModelManifest, ModelRegistry
from shared.settings import Settings

log = logging.getLogger("kiln.models")

MAX_BATCH = 64  # images per run; more does not raise the CPU's rate
MAX_LOADED = 8  # models kept in memory besides those that an alias points at

Draw = tuple[NDArray[np.float32], int]  # one image to make: its latent vector and its class


class LoadedModel:
    """A manifest and the engine that runs it, behind a batcher."""

    def __init__(self, manifest: ModelManifest, graph: bytes, settings: Settings) -> None:
        self.manifest = manifest
        self._engine = OnnxEngine(graph, manifest.latent_dim, len(manifest.classes), settings)
        # One thread owns the session. It ends by itself when the model is garbage.
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._batcher: DynamicBatcher[Draw, NDArray[np.uint8]] = DynamicBatcher(
            self._run, thread, MAX_BATCH, settings.max_waiting_images
        )

    @property
    def provider(self) -> str:
        return self._engine.provider

    def check_room(self, count: int) -> None:
        """Raises Overloaded when so many images find no place now, InvalidInput when they never would."""
        self._batcher.check_room(count)

    async def generate(self, latents: NDArray[np.float32], labels: Sequence[int]) -> NDArray[np.uint8]:
        """latents [N, latent], labels [N] -> pixels [N, 32, 32, 3]. Raises Overloaded."""
        return np.stack(await self._batcher.submit(list(zip(latents, labels, strict=True))))

    def _run(self, draws: list[Draw]) -> list[NDArray[np.uint8]]:
        z = np.stack([latent for latent, _ in draws])
        return list(self._engine.run(z, np.array([label for _, label in draws], dtype=np.int64)))

    def class_index(self, wanted: str | None) -> int:
        """The class by name or by number; 0 for an unconditional model, which ignores it.

        Raises InvalidInput that lists the names.
        """
        names = self.manifest.classes
        if not self.manifest.conditional:
            if wanted is not None:
                raise InvalidInput.of(
                    "class", wanted, f"model {self.manifest.id} is unconditional and knows no classes"
                )
            return 0
        if wanted in names:
            return names.index(wanted)
        if wanted is not None and wanted.isascii() and wanted.isdigit() and int(wanted[:9]) < len(names):
            return int(wanted[:9])
        raise InvalidInput.of("class", wanted, f"unknown class; model {self.manifest.id} has {', '.join(names)}")


class ModelPool:
    """All models that are served, by id and by alias."""

    def __init__(self, registry: ModelRegistry, settings: Settings) -> None:
        self._registry, self._settings = registry, settings
        self._aliases: dict[str, LoadedModel] = {}
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()  # the least recently used first
        self._loading: dict[str, asyncio.Task[LoadedModel]] = {}
        self._sound: set[str] = set()  # ids of models that could be loaded once
        self.refused: dict[str, str] = {}  # model id -> why it is not served

    def default(self) -> LoadedModel | None:
        return self._aliases.get(DEFAULT_ALIAS)

    async def get(self, name: str | None) -> LoadedModel:
        """The model of that alias or id, loaded if need be; None is the default one.

        Raises UnknownModel, NoModelReady.
        """
        if model := self._aliases.get(name or DEFAULT_ALIAS):
            return model
        if name is None:
            raise NoModelReady(self._why_not())
        try:
            model_id = await asyncio.to_thread(self._registry.resolve, name)
        except UnknownAlias:
            model_id = name
        try:
            return await self._load(model_id)
        except CorruptArtifact as error:
            raise NoModelReady(f"model {model_id} is not served: {error}") from error

    async def refresh(self) -> None:
        """Moves each alias to where it points now, as soon as that model is warm; a bad model changes nothing."""
        wanted = await asyncio.to_thread(self._registry.aliases)
        for alias, model_id in wanted.items():
            serving = self._aliases.get(alias)
            if serving and serving.manifest.id == model_id:
                continue
            try:
                self._aliases[alias] = await self._load(model_id)
                log.info("alias %s -> %s on %s", alias, model_id, self._aliases[alias].provider)
            except (CorruptArtifact, NoModelReady, UnknownModel):
                continue  # noted in `refused`; the model that was served so far stays
        for alias in set(self._aliases) - set(wanted):
            if await asyncio.to_thread(self._is_gone, alias):
                del self._aliases[alias]

    def _is_gone(self, alias: str) -> bool:
        """Whether the alias was taken away. A damaged record takes nothing from anybody: what was served is served."""
        try:
            self._registry.resolve(alias)
        except UnknownAlias:
            return True
        except CorruptArtifact as error:
            log.warning("%s; it stays at %s", error, self._aliases[alias].manifest.id)
        return False

    async def examine(self, model_id: str) -> None:
        """Loads the model once, if nobody has asked for it yet, so that `refused` says what is wrong with it."""
        if model_id in self._sound or model_id in self.refused:
            return
        with suppress(CorruptArtifact, NoModelReady):
            await self._load(model_id)

    async def promote(self, alias: str, model_id: str) -> None:
        """Points the alias at a model once that is warm here; a model that cannot be served is not promoted.

        Raises UnknownModel, InvalidInput, NoModelReady.
        """
        try:
            model = await self._load(model_id)
        except CorruptArtifact as error:
            raise NoModelReady(f"model {model_id} is not promoted: {error}") from error
        await asyncio.to_thread(self._registry.set_alias, alias, model_id)
        self._aliases[alias] = model

    async def _load(self, model_id: str) -> LoadedModel:
        if model := self._loaded.get(model_id):
            self._loaded.move_to_end(model_id)
            return model
        task = self._loading.get(model_id)
        if task is None:
            task = self._loading[model_id] = asyncio.create_task(asyncio.to_thread(self._open, model_id))
            task.add_done_callback(lambda done: self._keep(model_id, done))
        # Several requests may wait for one load; one that goes away must not take it from the others.
        return await asyncio.shield(task)

    def _open(self, model_id: str) -> LoadedModel:
        manifest = self._registry.get(model_id)
        if manifest.id != model_id:
            raise CorruptArtifact(f"the manifest of model {model_id} is that of {manifest.id}")
        return LoadedModel(manifest, self._registry.read_file(manifest, GENERATOR_FILE), self._settings)

    def _keep(self, model_id: str, task: asyncio.Task[Any]) -> None:
        del self._loading[model_id]
        if task.cancelled():
            return
        if error := task.exception():
            if self.refused.get(model_id) != str(error) and not isinstance(error, UnknownModel):
                log.error("model %s is not served: %s", model_id, error)
                self.refused[model_id] = str(error)
                self._sound.discard(model_id)
            return
        self.refused.pop(model_id, None)
        self._sound.add(model_id)
        self._loaded[model_id] = task.result()
        while len(self._loaded) > MAX_LOADED:
            self._loaded.popitem(last=False)  # whoever still uses it, an alias or a request, holds it

    def _why_not(self) -> str:
        if self.refused:
            return "; ".join(f"model {model_id} is not served: {why}" for model_id, why in self.refused.items())
        return "no model is ready: train one with POST /jobs"
