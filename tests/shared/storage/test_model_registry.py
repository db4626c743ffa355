"""The model registry: atomic publishing, checked files, ids and aliases."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.errors import CorruptArtifact, InvalidInput, UnknownAlias, UnknownModel
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import GENERATOR_FILE, PREVIEW_FILE, ModelManifest, ModelRegistry, model_id_of
from tests.shared.conftest import LimitedDisk
from tests.shared.examples import NOW, a_model

FILES = {GENERATOR_FILE: b"abc", PREVIEW_FILE: b"png"}
SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1

NO_NAMES = ["", ".", "..", "../..", "../../etc/passwd", "/etc/passwd", "a/b", "a//b", "a\\b", ".hidden", "-x", "A", "ä",
            "a b", "a\n", "a\x00", "\ud800", "a" * 101]  # fmt: skip


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/artifacts")


@pytest.fixture
def registry(artifacts: ArtifactStore) -> ModelRegistry:
    return ModelRegistry(artifacts)


# Publishing


def test_a_published_model_can_be_read(registry: ModelRegistry) -> None:
    published = registry.publish(a_model(), FILES)

    assert registry.get("tiny-1") == published
    assert published == a_model().model_copy(update={"files": published.files})
    assert {name: registry.read_file(published, name) for name in FILES} == FILES


def test_a_manifest_holds_the_digests_of_its_files(registry: ModelRegistry) -> None:
    published = registry.publish(a_model(), FILES)

    assert published.files.keys() == FILES.keys()
    assert published.files[GENERATOR_FILE] == published.digest == SHA256_OF_ABC


def test_a_failure_before_the_manifest_leaves_no_model(
    registry: ModelRegistry, artifacts: ArtifactStore, limited_disk: LimitedDisk
) -> None:
    # Given a disk with space for the files but not for the manifest
    with limited_disk(100), pytest.raises(OSError, match="File too large"):
        registry.publish(a_model(), FILES)

    # Then the files exist, but the model does not
    assert {name.partition(".")[2] for name in artifacts.list("models/tiny-1")} == {GENERATOR_FILE, PREVIEW_FILE}
    with pytest.raises(UnknownModel):
        registry.get("tiny-1")
    assert (registry.list(), registry.aliases()) == ([], {})


def test_a_failure_at_a_file_leaves_no_manifest(
    registry: ModelRegistry, artifacts: ArtifactStore, limited_disk: LimitedDisk
) -> None:
    with limited_disk(10_000), pytest.raises(OSError, match="File too large"):
        registry.publish(a_model(), FILES | {"large": b"x" * 10_001})

    assert not artifacts.exists("models/tiny-1/manifest.json")


def test_publishing_can_be_repeated_after_it_failed(registry: ModelRegistry, limited_disk: LimitedDisk) -> None:
    with limited_disk(100), pytest.raises(OSError, match="File too large"):
        registry.publish(a_model(), FILES)

    published = registry.publish(a_model(), FILES)

    assert registry.list() == [published]
    assert registry.aliases() == {"default": "tiny-1"}


def test_publishing_a_job_again_returns_its_first_model(registry: ModelRegistry) -> None:
    assert model_id_of("20261121-213455-9c4d1f7a", "tiny") == "tiny-20261121-213455-9c4d1f7a"

    first = registry.publish(a_model(), FILES)
    again = registry.publish(a_model(), FILES | {GENERATOR_FILE: b"from another worker"})

    assert registry.list() == [again] == [first]
    assert registry.read_file(again, GENERATOR_FILE) == FILES[GENERATOR_FILE]


def test_two_workers_that_publish_one_job_at_once_do_not_mix_their_files(
    registry: ModelRegistry, frequent_thread_switches: None
) -> None:
    """On a GPU two runs of one job differ in the last bits; the first manifest keeps its own files."""
    drafts = [FILES | {GENERATOR_FILE: b"%d" % number, PREVIEW_FILE: b"%d" % number} for number in range(8)]
    with ThreadPoolExecutor(len(drafts)) as pool:
        published = list(pool.map(lambda files: registry.publish(a_model(), files), drafts))

    assert len({manifest.digest for manifest in published}) == 1
    generator, preview = (registry.read_file(published[0], name) for name in (GENERATOR_FILE, PREVIEW_FILE))
    assert generator == preview


def test_an_unreadable_manifest_is_replaced_by_the_published_one(
    registry: ModelRegistry, artifacts: ArtifactStore
) -> None:
    artifacts.write("models/tiny-1/manifest.json", b"{half a")

    published = registry.publish(a_model(), FILES)

    assert registry.get("tiny-1") == published


def test_a_manifest_is_unchanged_after_a_round_trip_through_json() -> None:
    manifest = a_model()

    assert ModelManifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_a_manifest_is_frozen() -> None:
    manifest = a_model()
    with pytest.raises(ValidationError, match="frozen"):
        manifest.id = "other"  # type: ignore[misc]


# Reading


def test_a_changed_file_is_refused(registry: ModelRegistry, artifacts: ArtifactStore) -> None:
    published = registry.publish(a_model(), FILES)

    artifacts.write(key_of(published, GENERATOR_FILE), b"abd")

    with pytest.raises(CorruptArtifact, match=r"generator\.onnx of model tiny-1 does not match the digest"):
        registry.read_file(published, GENERATOR_FILE)
    assert registry.read_file(published, PREVIEW_FILE) == b"png"


def test_a_missing_file_is_reported(registry: ModelRegistry, artifacts: ArtifactStore) -> None:
    published = registry.publish(a_model(), FILES)

    artifacts.delete(key_of(published, GENERATOR_FILE))

    with pytest.raises(CorruptArtifact, match=r"model tiny-1 lacks its file generator\.onnx"):
        registry.read_file(published, GENERATOR_FILE)


def test_a_file_that_the_manifest_does_not_list_is_refused(registry: ModelRegistry, artifacts: ArtifactStore) -> None:
    published = registry.publish(a_model(), FILES)

    artifacts.write(f"models/tiny-1/{SHA256_OF_ABC[:16]}.smuggled", b"abc")

    with pytest.raises(CorruptArtifact):
        registry.read_file(published, "smuggled")


def test_models_are_listed_newest_first(registry: ModelRegistry) -> None:
    for model_id, age_h in (("b", 2), ("a", 3), ("c", 1)):
        registry.publish(a_model(model_id, NOW - timedelta(hours=age_h)), FILES)

    assert [manifest.id for manifest in registry.list()] == ["c", "b", "a"]


def test_a_model_without_a_manifest_does_not_exist(registry: ModelRegistry, artifacts: ArtifactStore) -> None:
    published = registry.publish(a_model(), FILES)
    artifacts.write(f"models/half/{GENERATOR_FILE}", b"abc")

    assert registry.list() == [published]
    with pytest.raises(UnknownModel, match="there is no model 'half'"):
        registry.get("half")


def test_an_empty_registry_lists_nothing(registry: ModelRegistry) -> None:
    assert (registry.list(), registry.aliases()) == ([], {})
    with pytest.raises(UnknownAlias, match="there is no alias 'default'"):
        registry.resolve("default")


# Aliases


def test_the_first_model_becomes_the_default_and_the_second_does_not(registry: ModelRegistry) -> None:
    registry.publish(a_model("first"), FILES)
    registry.publish(a_model("second", NOW + timedelta(hours=1)), FILES)

    assert registry.resolve("default") == "first"
    assert registry.aliases() == {"default": "first"}


@pytest.mark.usefixtures("frequent_thread_switches")
def test_one_of_several_models_published_at_once_becomes_the_default(registry: ModelRegistry) -> None:
    ids = [f"model-{n}" for n in range(8)]
    start = threading.Barrier(len(ids))

    def publish(model_id: str) -> str:
        start.wait()
        registry.publish(a_model(model_id), FILES)
        return registry.resolve("default")

    with ThreadPoolExecutor(len(ids)) as pool:
        defaults = set(pool.map(publish, ids))

    assert sorted(manifest.id for manifest in registry.list()) == ids
    assert defaults == {registry.resolve("default")}


def test_an_alias_is_created_and_moved(registry: ModelRegistry) -> None:
    for model_id in ("first", "second"):
        registry.publish(a_model(model_id), FILES)

    registry.set_alias("stable", "first")
    registry.set_alias("default", "second")
    assert registry.aliases() == {"default": "second", "stable": "first"}

    registry.set_alias("stable", "second")
    assert registry.resolve("stable") == "second"


def test_an_alias_does_not_move_to_a_model_that_does_not_exist(registry: ModelRegistry) -> None:
    registry.publish(a_model("first"), FILES)

    for nobody in ("nobody", "../.."):
        with pytest.raises(UnknownModel):
            registry.set_alias("default", nobody)

    assert registry.aliases() == {"default": "first"}


def test_an_unknown_alias_is_named(registry: ModelRegistry) -> None:
    registry.publish(a_model(), FILES)

    with pytest.raises(UnknownAlias, match="there is no alias 'stable'"):
        registry.resolve("stable")


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_an_impossible_model_name_is_unknown(registry: ModelRegistry, name: str) -> None:
    registry.publish(a_model(), FILES)

    with pytest.raises(UnknownModel) as model:
        registry.get(name)
    with pytest.raises(UnknownAlias) as alias:
        registry.resolve(name)

    assert model.value.name == alias.value.name == name
    str(model.value).encode()  # and it can be said


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_an_invalid_alias_name_is_refused(registry: ModelRegistry, name: str) -> None:
    registry.publish(a_model(), FILES)

    with pytest.raises(InvalidInput) as caught:
        registry.set_alias(name, "tiny-1")

    (problem,) = caught.value.problems
    assert (problem.field, problem.value) == ("alias", name)
    assert registry.aliases() == {"default": "tiny-1"}


def test_a_damaged_alias_is_skipped_in_the_list(registry: ModelRegistry, artifacts: ArtifactStore) -> None:
    registry.publish(a_model(), FILES)
    for number, damage in enumerate((b"", b"{}", b"[1]", b"\xff", b"null")):
        artifacts.write(f"aliases/damaged-{number}", damage)

    assert registry.aliases() == {"default": "tiny-1"}
    with pytest.raises(CorruptArtifact, match="damaged-0"):
        registry.resolve("damaged-0")


def key_of(manifest: ModelManifest, name: str) -> str:
    return f"models/{manifest.id}/{manifest.files[name][:16]}.{name}"
