"""The models in memory, by id and by alias: loads and warms them in the background, and evicts the least used."""

from __future__ import annotations

import asyncio
import ctypes
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from services.api.inference.loaded_model import LoadedModel
from services.api.telemetry import Telemetry
from shared.errors import CorruptArtifact, NoModelReady, UnknownAlias, UnknownModel
from shared.settings import Settings
from shared.storage.model_registry import DEFAULT_ALIAS, GENERATOR_FILE, ModelRegistry

LOAD_THREADS = 2  # models that are opened and warmed at a time
READ_THREADS = 4  # manifests and aliases that are read at a time

log = logging.getLogger("kiln.models")

P = ParamSpec("P")
Result = TypeVar("Result")


def _return_free_memory() -> None:
    """Returns freed memory to the system, because glibc keeps the memory that a thread has freed for that thread."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


class ModelPool:
    """The models that are served. A request keeps the model that it got, even if the alias moves meanwhile."""

    def __init__(self, registry: ModelRegistry, settings: Settings, telemetry: Telemetry) -> None:
        self._registry, self._settings, self._telemetry = registry, settings, telemetry
        self._aliases: dict[str, LoadedModel] = {}
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()  # the least recently used first
        self._loading: dict[str, asyncio.Task[LoadedModel]] = {}
        self.refused: dict[str, str] = {}  # model id -> the reason why it cannot be loaded
        self._moving_alias = asyncio.Lock()
        self._loaders = ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="model-load")
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="registry")
        telemetry.watch(self._gauges)

    def default(self) -> LoadedModel | None:
        return self._aliases.get(DEFAULT_ALIAS)

    def find(self, model_id: str) -> LoadedModel | None:
        """The model, if it is in memory."""
        return next((model for model in self._in_memory() if model.manifest.id == model_id), None)

    def find_digest(self, digest: str) -> LoadedModel | None:
        """The model whose generator has this digest, if it is in memory."""
        return next((model for model in self._in_memory() if model.manifest.digest == digest), None)

    def get_if_loaded(self, name: str | None) -> LoadedModel | None:
        """The model of that alias or id, if it is in memory; None is the default alias."""
        return self._aliases.get(name or DEFAULT_ALIAS) or (self._touch(name) if name else None)

    async def get(self, name: str | None) -> LoadedModel:
        """The model of that alias or id, loaded if necessary; None is the default alias.

        Raises UnknownModel, NoModelReady.
        """
        if model := self.get_if_loaded(name):
            return model
        if name is None:
            raise NoModelReady(self._why_none())
        try:
            return await self._load(await self._target(name) or name)
        except CorruptArtifact as error:
            raise NoModelReady(f"model '{name}' cannot be served: {error}") from error

    async def refresh(self) -> None:
        """Brings memory in step with the registry; a failure with one alias does not stop the others.

        Each alias moves once the model that it points at is warm. Deleted models are evicted.
        """
        for alias in {*await self._read(self._registry.alias_names), *self._aliases}:
            try:
                await self._refresh_alias(alias)
            except (CorruptArtifact, NoModelReady, UnknownModel, OSError) as error:
                log.warning("alias '%s' stays as it is: %s", alias, error)
            except Exception:
                log.exception("alias '%s' stays as it is", alias)
        ids = set(await self._read(self._registry.ids))
        for model_id in set(self._loaded) - ids:
            self.evict(model_id)  # another replica deleted it

    async def promote(self, alias: str, model_id: str) -> None:
        """Points the alias at a model once that is warm here; a model that cannot be served is not promoted.

        Raises UnknownModel, InvalidInput, NoModelReady.
        """
        try:
            model = await self._load(model_id)
        except CorruptArtifact as error:
            raise NoModelReady(f"model '{model_id}' cannot be promoted: {error}") from error
        async with self._moving_alias:
            await self._read(self._registry.set_alias, alias, model_id)
            self._aliases[alias] = model

    def evict(self, model_id: str) -> None:
        """Removes the model from memory, once all requests that use it have ended."""
        self.refused.pop(model_id, None)
        if self._loaded.pop(model_id, None):
            self._loaders.submit(_return_free_memory)

    async def _refresh_alias(self, alias: str) -> None:
        target, serving = await self._target(alias), self._aliases.get(alias)
        if target == (serving and serving.manifest.id):
            return
        model = await self._load(target) if target else None
        async with self._moving_alias:
            if await self._target(alias) != target:
                return  # promoted while the model was loading; that promotion stands
            if model is None:
                self._aliases.pop(alias, None)
            else:
                self._aliases[alias] = model
                log.info("alias '%s' -> model '%s' on %s", alias, target, model.provider)

    async def _target(self, alias: str) -> str | None:
        """The id that the alias points at; None for an unknown alias. Raises CorruptArtifact for a damaged record."""
        try:
            return await self._read(self._registry.resolve, alias)
        except UnknownAlias:
            return None

    async def _read(self, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Calls a function of the registry, which may wait for a slow store, in a thread of its own pool."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, lambda: function(*args, **kwargs))

    def _touch(self, model_id: str) -> LoadedModel | None:
        if model := self._loaded.get(model_id):
            self._loaded.move_to_end(model_id)
        return model

    async def _load(self, model_id: str) -> LoadedModel:
        if model := self._touch(model_id):
            return model
        task = self._loading.get(model_id)
        if task is None:
            task = self._loading[model_id] = asyncio.create_task(self._open_in_thread(model_id))
            task.add_done_callback(lambda done: self._on_loaded(model_id, done))
        # Several requests may wait for one load, which continues when one of them is cancelled.
        return await asyncio.shield(task)

    async def _open_in_thread(self, model_id: str) -> LoadedModel:
        return await asyncio.get_running_loop().run_in_executor(self._loaders, self._open, model_id)

    def _open(self, model_id: str) -> LoadedModel:
        manifest = self._registry.get(model_id)
        if manifest.id != model_id:
            raise CorruptArtifact(f"the manifest of model '{model_id}' names model '{manifest.id}'")
        graph = self._registry.read_file(manifest, GENERATOR_FILE)
        return LoadedModel(manifest, graph, self._settings, self._telemetry)

    def _on_loaded(self, model_id: str, task: asyncio.Task[Any]) -> None:
        del self._loading[model_id]
        if task.cancelled():
            return
        if error := task.exception():
            if self.refused.get(model_id) != str(error) and not isinstance(error, UnknownModel):
                log.error("model '%s' cannot be served: %s", model_id, error)
                self.refused[model_id] = str(error)
            return
        self.refused.pop(model_id, None)
        self._loaded[model_id] = task.result()
        self._evict_lru(keep=model_id)

    def _evict_lru(self, keep: str) -> None:
        """Evicts the least recently used models that no alias points at, until the rest fits into the memory limit."""
        in_use = {model.manifest.id for model in self._aliases.values()} | {keep}
        total = sum(model.memory_bytes for model in self._loaded.values())
        for model_id in [name for name in self._loaded if name not in in_use]:
            if total <= self._settings.model_memory_mb << 20:
                return
            total -= self._loaded[model_id].memory_bytes
            self.evict(model_id)
            log.info("model '%s' is evicted: the models in memory exceed KILN_MODEL_MEMORY_MB", model_id)

    def _gauges(self) -> Iterator[tuple[str, int, int]]:
        for model in self._in_memory():
            yield model.manifest.id, model.waiting, model.memory_bytes

    def _in_memory(self) -> list[LoadedModel]:
        return list({id(model): model for model in (*self._loaded.values(), *self._aliases.values())}.values())

    def _why_none(self) -> str:
        if self.refused:
            return "; ".join(
                f"model '{model_id}' cannot be served: {reason}" for model_id, reason in self.refused.items()
            )
        return "no model is ready: train one with POST /jobs"
