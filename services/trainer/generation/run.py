"""One generate job: makes the shards that are missing, one after the other, and reports the finished data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from services.generator.classifier import Classifier
from services.trainer.generation.images import ImageMaker
from services.trainer.generation.selection import Selected, select_shard
from services.trainer.generation.shards import PACKERS, ImageEncoder
from shared.configs.generate import GenerateConfig
from shared.errors import BadConfig, CorruptArtifact, EnvironmentFailed, NoModelReady, UnknownModel
from shared.jobs.record import Job
from shared.jobs.trainer_messages import DatasetLine, ProgressLine, SendMessage, StopSignal, event_sender
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.generated_datasets import (
    DatasetManifest,
    GeneratedDatasets,
    Position,
    Shard,
    ShardRecord,
    describe_shard,
)
from shared.storage.model_registry import GENERATOR_FILE, ModelManifest, ModelRegistry

PROGRESS_EVERY_S = 0.5
ENCODED_TOGETHER = 50  # images; a task of a thread pool costs as much time as the encoding of an image


class _Left(Exception):
    """A stop signal ends the process in the middle of a shard."""


def run_job(job: Job, settings: Settings, send: SendMessage, should_stop: Callable[[], StopSignal | None]) -> bool:
    """Generates the data set of a job; False if a stop signal ended it early. Raises TrainingFailed, OSError.

    The signal `finish` ends the data set after the shard in progress.
    """
    assert isinstance(job.config, GenerateConfig)
    datasets = GeneratedDatasets(ArtifactStore(settings.artifact_url))
    with _open(job.config, settings) as maker:
        try:
            manifest = _Run(job.id, job.config, maker, datasets, send=send, should_stop=should_stop).run()
        except _Left:
            return False
    send(DatasetLine(manifest=manifest))
    return True


def _open(config: GenerateConfig, settings: Settings) -> ImageMaker:
    """Opens the model, and the classifier if the job needs it. Raises BadConfig, EnvironmentFailed."""
    registry = ModelRegistry(ArtifactStore(settings.artifact_url))
    try:
        manifest = registry.get(config.model)
        if manifest.digest != config.model_digest:
            raise BadConfig(f"model {config.model} has been replaced since this job was submitted; submit it again")
        graph = registry.read_file(manifest, GENERATOR_FILE)
        classifier = Classifier(settings) if needs_classifier(config, manifest) else None
        return ImageMaker(config, manifest, graph, settings, classifier)
    except UnknownModel as error:
        raise BadConfig(f"{error}; it was deleted after this job was submitted") from error
    except (CorruptArtifact, NoModelReady) as error:
        raise EnvironmentFailed(str(error)) from error


def needs_classifier(config: GenerateConfig, manifest: ModelManifest) -> bool:
    """Whether the classifier chooses images: an unconditional model's by class, others' if their user asked for it."""
    return config.min_confidence is not None or (bool(config.classes) and not manifest.conditional)


class _Run:
    """The state of one attempt."""

    def __init__(
        self, job_id: str, config: GenerateConfig, maker: ImageMaker, datasets: GeneratedDatasets, *, send: SendMessage,
        should_stop: Callable[[], StopSignal | None],
    ) -> None:  # fmt: skip
        self._job_id, self._config, self._maker, self._datasets = job_id, config, maker, datasets
        self._send, self._should_stop = send, should_stop
        self._encoder = ImageEncoder(config, maker)
        self._shards: list[Shard] = []
        self._position = Position()
        self._began_s = self._sent_s = time.monotonic()
        self._resumed_at = 0  # images of earlier attempts

    def run(self) -> DatasetManifest:
        """Raises _Left, BadConfig, OSError."""
        self._restore()
        # A shard is encoded and written while the next one is generated.
        with ThreadPoolExecutor() as encoders, ThreadPoolExecutor(1) as writer:
            writing: Future[Shard] | None = None
            while self._position.images < self._config.n and self._should_stop() != "finish":
                start = self._position
                images, self._position = select_shard(self._config, self._maker, start, self._on_images)
                self._add(writing)
                writing = writer.submit(self._write, images, start, self._position, len(self._shards), encoders)
            self._add(writing)
        self._send_progress(0)
        return self._manifest()

    def _restore(self) -> None:
        """Goes on after the last shard that an earlier attempt completed."""
        for record in self._datasets.committed(self._job_id):
            self._shards.append(record.shard)
            self._position = record.position
        self._resumed_at, send_event = self._position.images, event_sender(self._send)
        if self._maker.warning:
            send_event("warning", self._maker.warning)
        if self._shards:
            send_event("resumed", f"resuming after {len(self._shards)} files with {self._resumed_at:,} images")
        place = f"{self._maker.provider.removesuffix('ExecutionProvider')}, {self._maker.workers} at a time"
        send_event("started", f"{self._config.n:,} images from model {self._config.model}, on {place}")

    def _write(
        self, images: Sequence[Selected], start: Position, end: Position, number: int, encoders: ThreadPoolExecutor
    ) -> Shard:
        parts = [images[i : i + ENCODED_TOGETHER] for i in range(0, len(images), ENCODED_TOGETHER)]
        encoded = [image for part in encoders.map(self._encoder.encode, parts) for image in part]
        data = PACKERS[self._config.format](encoded, self._config, start.images)
        shard = describe_shard(number, self._config.format, data, len(images))
        self._datasets.write_shard(self._job_id, number, data, ShardRecord(shard=shard, position=end))
        return shard

    def _add(self, writing: Future[Shard] | None) -> None:
        if writing is not None:
            self._shards.append(writing.result())

    def _on_images(self, count: int) -> None:
        """After each batch, with the images of the shard so far. Raises _Left."""
        if self._should_stop() == "leave":
            raise _Left
        if time.monotonic() - self._sent_s >= PROGRESS_EVERY_S:
            self._send_progress(count)

    def _send_progress(self, count: int) -> None:
        self._sent_s = time.monotonic()
        images = self._position.images + count
        rate = (images - self._resumed_at) / max(1e-9, self._sent_s - self._began_s)
        self._send(ProgressLine(images_seen=images, images_per_second=rate, images_total=self._config.n))

    def _manifest(self) -> DatasetManifest:
        config, classifier, position = self._config, self._maker.classifier, self._position
        made, drawn = position.made, position.next_draw
        by_class = {name: count - made[name] for name, count in drawn.items() if name in config.classes}
        shared = config.model_dump(include=set(GenerateConfig.model_fields) & set(DatasetManifest.model_fields))
        more = {
            "trained_on": self._maker.manifest.dataset,
            "classes": {name: made.get(name, 0) for name in config.classes},
            "images": position.images,
            "requested": config.n,
            "classifier": classifier and classifier.digest,
            "rejected": position.rejected,
            "rejected_by_class": by_class if classifier else {},
            "shards": tuple(self._shards),
        }
        return DatasetManifest(**shared | more)
