"""Artifacts for the tests of embedders: the real model once per run, and a tiny one to break."""

import shutil
from pathlib import Path

import pytest
from tiny_models import build_model

from workers.embedding.export import export_artifact


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2, exported."""
    return export_artifact("all-MiniLM-L6-v2", tmp_path_factory.mktemp("embedders"))


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in the format of sentence-transformers."""
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_export(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's artifact; tests that write to it take ``tiny`` instead."""
    return export_artifact(str(tiny_source), tmp_path_factory.mktemp("tiny-embedders"))


@pytest.fixture
def tiny(tiny_export: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's artifact, alone in its folder, for this test to break."""
    return Path(shutil.copytree(tiny_export, tmp_path / "embedders" / tiny_export.name))
