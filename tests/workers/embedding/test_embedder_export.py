import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import build_model

from workers.embedding.artifacts import list_artifacts, read_artifact
from workers.embedding.errors import ArtifactError, UnsupportedModelError
from workers.embedding.export import CHECK_TEXTS, ensure_artifact, export_artifact
from workers.embedding.loading import load_embedder, verify_artifact
from workers.embedding.publishing import drafting, publish
from workers.embedding.sources import find_source

pytestmark = pytest.mark.model

TEXTS = ("what is a prompt?", "a", "", "how many prompts. " * 20, "routers + routing 2")


def _normalize() -> Any:
    from sentence_transformers.sentence_transformer.modules import Normalize  # noqa: PLC0415

    return Normalize()


def _dense() -> Any:
    from sentence_transformers.sentence_transformer.modules import Dense  # noqa: PLC0415

    return Dense(16, 8)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("modules", [(), ("normalize",)])
def test_models_of_the_supported_shapes_are_reproduced(
    tmp_path: Path, pooling: str, modules: tuple[str, ...]
) -> None:
    """Mean or CLS pooling, normalised by the model or by us: the vectors are sentence-transformers'."""
    normalize = tuple(_normalize() for _ in modules)
    source = build_model(tmp_path / "model", pooling=pooling, modules=normalize)

    artifact = export_artifact(str(source), tmp_path / "embedders")

    expected = load_embedder(artifact, backend="sentence-transformers", threads=1).encode(TEXTS)
    vectors = load_embedder(artifact, threads=1).encode(TEXTS)
    assert read_artifact(artifact).manifest.pooling == pooling
    assert np.sum(expected * vectors, axis=1).min() > 0.9999


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"pooling": "max"}, "its pooling is 'max'"),
        ({"pooling": "lasttoken"}, "its pooling is 'lasttoken'"),
        ({"modules": "dense"}, "its modules are Transformer, Pooling, Dense"),
        ({"prompts": {"query": "query: "}, "default_prompt_name": "query"}, "puts its prompt 'query'"),
        ({"truncate_dim": 8}, "cuts its vectors to 8"),
    ],
)
def test_other_shapes_are_refused_by_name(tmp_path: Path, settings: dict[str, Any], problem: str) -> None:
    """What the graph would not reproduce is named, and nothing is left in the folder."""
    if settings.get("modules"):
        settings = {**settings, "modules": (_dense(),)}
    source = build_model(tmp_path / "model", **settings)

    with pytest.raises(UnsupportedModelError, match=problem):
        export_artifact(str(source), tmp_path / "embedders")

    assert not any((tmp_path / "embedders").glob("*"))


def test_exporting_twice_keeps_the_first(tiny_source: Path, tmp_path: Path) -> None:
    """The same model has the same checksum, and what is there is not touched under a running router."""
    first = export_artifact(str(tiny_source), tmp_path)
    written = (first / "manifest.json").stat().st_mtime_ns

    second = export_artifact(str(tiny_source), tmp_path)

    assert second == first
    assert (first / "manifest.json").stat().st_mtime_ns == written
    assert [entry.name for entry in tmp_path.iterdir()] == [first.name]


def test_ensuring_exports_only_once(tiny: Path, tiny_source: Path) -> None:
    """A model that is there is found by its name and by the folder it came from."""
    assert ensure_artifact("tiny", tiny.parent) == tiny
    assert ensure_artifact(str(tiny_source), tiny.parent) == tiny
    assert [entry.name for entry in tiny.parent.iterdir()] == [tiny.name]


def test_a_draft_is_not_seen_until_it_is_published(tiny: Path, tmp_path: Path) -> None:
    """While an export is under way nobody lists it, and a failure removes it."""
    folder = tmp_path / "published"

    def fail_half_way() -> None:
        with drafting(folder) as draft:
            shutil.copytree(tiny, draft, dirs_exist_ok=True)
            assert list_artifacts(folder) == ()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()

    assert list(folder.iterdir()) == []
    with drafting(folder) as draft:
        shutil.copytree(tiny, draft, dirs_exist_ok=True)
        published = publish(draft, folder)
    assert [artifact.folder for artifact in list_artifacts(folder)] == [published]
    assert verify_artifact(published).name == "tiny"


def test_a_damaged_artifact_is_replaced(tiny: Path) -> None:
    """Exporting again mends what was cut short."""
    good = Path(shutil.copytree(tiny, tiny.parent.parent / "good"))
    (tiny / "model.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError):
        verify_artifact(tiny)

    with drafting(tiny.parent) as draft:
        shutil.copytree(good, draft, dirs_exist_ok=True)
        assert publish(draft, tiny.parent) == tiny

    assert verify_artifact(tiny).name == "tiny"


@pytest.mark.parametrize("model", ["no-such-model", "./no/such/folder", "a/b/c", "/nowhere"])
def test_a_model_that_is_nowhere_is_refused(model: str) -> None:
    """A name that is neither folder nor repository says what would be."""
    with pytest.raises(UnsupportedModelError, match="ORGANISATION/NAME"):
        find_source(model)


def test_the_default_model_is_the_official_one() -> None:
    """Wherever it comes from, the source names the hub's repository and commit."""
    source = find_source("all-MiniLM-L6-v2")

    assert source.origin == "sentence-transformers/all-MiniLM-L6-v2"
    assert source.revision == "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
    assert source.name == "all-MiniLM-L6-v2"


def test_the_texts_that_an_export_is_checked_on_are_hard() -> None:
    """They hold the empty text, one past any maximum length, and more than one script."""
    assert "" in CHECK_TEXTS
    assert max(len(text) for text in CHECK_TEXTS) > 100_000
    assert any(not text.isascii() for text in CHECK_TEXTS)
