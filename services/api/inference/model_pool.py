"""Which models are in memory: loaded and warmed in the background, swapped in when ready, never torn from a request."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from services.api.inference.loaded_model import LoadedModel
from services.api.telemetry import Telemetry
from shared.errors import CorruptArtifact, NoModelReady, UnknownAlias, UnknownModel
from shared.settings import Settings
from shared.storage.model_registry import DEFAULT_ALIAS, GENERATOR_FILE, ModelRegistry

log = logging.getLogger("kiln.models")


class ModelPool:
    """All models that are served, by id and by alias."""

    def __init__(self, registry: ModelRegistry, settings: Settings, telemetry: Telemetry) -> None:
        self._registry, self._settings, self._telemetry = registry, settings, telemetry
        self._aliases: dict[str, LoadedModel] = {}
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()  # the least recently used first
        self._loading: dict[str, asyncio.Task[LoadedModel]] = {}
        self._sound: set[str] = set()  # ids of models that could be loaded once
        self.refused: dict[str, str] = {}  # model id -> why it is not served
        telemetry.watch(self._gauges)

    def default(self) -> LoadedModel | None:
        return self._aliases.get(DEFAULT_ALIAS)

    def find(self, model_id: str) -> LoadedModel | None:
        """The model, if it is in memory."""
        return next((model for model in self._in_memory() if model.manifest.id == model_id), None)

    def find_digest(self, digest: str) -> LoadedModel | None:
        """The model of which that is the generator, if it is in memory."""
        return next((model for model in self._in_memory() if model.manifest.digest == digest), None)

    def get_if_loaded(self, name: str | None) -> LoadedModel | None:
        """The model of that alias or id, if it can be had without waiting; None is the default one."""
        return self._aliases.get(name or DEFAULT_ALIAS) or (self._touch(name) if name else None)

    async def get(self, name: str | None) -> LoadedModel:
        """The model of that alias or id, loaded if need be; None is the default one.

        Raises UnknownModel, NoModelReady.
        """
        if model := self.get_if_loaded(name):
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
        for model_id in set(self._loaded) - set(await asyncio.to_thread(self._registry.ids)):
            self.forget(model_id)  # another replica has deleted it

    def _is_gone(self, alias: str) -> bool:
        """Whether the alias was taken away. A damaged record takes nothing from anybody: what was served is served."""
        try:
            self._registry.resolve(alias)
        except UnknownAlias:
            return True
        except CorruptArtifact as error:
            log.warning("%s; it stays at %s", error, self._aliases[alias].manifest.id)
        return False

    async def ensure_probed(self, model_id: str) -> None:
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

    def forget(self, model_id: str) -> None:
        """A model that was deleted is not served any more; whoever has got it already is answered."""
        self._loaded.pop(model_id, None)
        self._sound.discard(model_id)
        self.refused.pop(model_id, None)

    def _touch(self, model_id: str) -> LoadedModel | None:
        if model := self._loaded.get(model_id):
            self._loaded.move_to_end(model_id)
        return model

    async def _load(self, model_id: str) -> LoadedModel:
        if model := self._touch(model_id):
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
        graph = self._registry.read_file(manifest, GENERATOR_FILE)
        return LoadedModel(manifest, graph, self._settings, self._telemetry)

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
        self._make_room(keep=model_id)

    def _make_room(self, keep: str) -> None:
        """Drops the least recently used models that no alias points at; a request that still uses one holds it."""
        in_use = {model.manifest.id for model in self._aliases.values()} | {keep}
        total = sum(model.memory_bytes for model in self._loaded.values())
        for model_id in [name for name in self._loaded if name not in in_use]:
            if total <= self._settings.model_memory_mb << 20:
                return
            total -= self._loaded.pop(model_id).memory_bytes
            log.info("model %s leaves the memory to others", model_id)

    def _gauges(self) -> Iterator[tuple[str, int, int]]:
        for model in self._in_memory():
            yield model.manifest.id, model.waiting, model.memory_bytes

    def _in_memory(self) -> list[LoadedModel]:
        return list({id(model): model for model in (*self._loaded.values(), *self._aliases.values())}.values())

    def _why_not(self) -> str:
        if self.refused:
            return "; ".join(f"model {model_id} is not served: {why}" for model_id, why in self.refused.items())
        return "no model is ready: train one with POST /jobs"
