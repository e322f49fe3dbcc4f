from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fake_embedders import FakeEmbedder

from routing.embedders import FloatMatrix
from workers.embedding.cache import STEP, cache_key, cached_embeddings


def test_a_second_call_encodes_nothing_and_gives_equal_bytes(tmp_path: Path) -> None:
    """The same texts by the same embedder are encoded once."""
    first, second = FakeEmbedder(), FakeEmbedder()

    fresh = cached_embeddings(first, ["a", "b"], tmp_path)
    cached = cached_embeddings(second, ["a", "b"], tmp_path)

    assert cached.tobytes() == fresh.tobytes()
    assert (first.encoded, second.encoded) == (["a", "b"], [])


@pytest.mark.parametrize(
    ("embedder", "texts"),
    [
        (FakeEmbedder(name="another"), ["ab", "c"]),
        (FakeEmbedder(dimension=3), ["ab", "c"]),
        (FakeEmbedder(), ["c", "ab"]),
        (FakeEmbedder(), ["a", "bc"]),
        (FakeEmbedder(), ["abc"]),
        (FakeEmbedder(), ["ab", "c", ""]),
    ],
)
def test_anything_else_is_encoded_anew(embedder: FakeEmbedder, texts: list[str], tmp_path: Path) -> None:
    """Another fingerprint, another order and another division into texts are other entries."""
    cached_embeddings(FakeEmbedder(), ["ab", "c"], tmp_path)

    cached_embeddings(embedder, texts, tmp_path)

    assert embedder.encoded == texts


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not an array", None])
def test_a_damaged_entry_is_written_again(content: bytes | None, tmp_path: Path) -> None:
    """An entry that is empty, cut short or of another shape is replaced."""
    fresh = cached_embeddings(FakeEmbedder(), ["a", "b"], tmp_path)
    (entry,) = tmp_path.iterdir()
    if content is None:
        np.save(entry, np.zeros((1, 4), dtype=np.float32))
    else:
        entry.write_bytes(content)

    again = cached_embeddings(FakeEmbedder(), ["a", "b"], tmp_path)

    assert again.tobytes() == fresh.tobytes()
    assert np.load(entry).tobytes() == fresh.tobytes()


def test_an_encoder_that_fails_leaves_no_entry(tmp_path: Path) -> None:
    """Half a list is never taken for the whole."""

    class Failing(FakeEmbedder):
        def encode(self, texts: Sequence[str]) -> FloatMatrix:
            raise RuntimeError(f"on fire after {len(texts)} texts")

    with pytest.raises(RuntimeError, match="on fire"):
        cached_embeddings(Failing(), ["a"], tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_after_each_step(tmp_path: Path) -> None:
    """One step more than a whole one is two calls; a hit is one."""
    told: list[tuple[int, int]] = []
    texts = [str(index) for index in range(STEP + 1)]

    for _ in range(2):
        cached_embeddings(FakeEmbedder(), texts, tmp_path, progress=lambda done, of: told.append((done, of)))

    assert told == [(STEP, STEP + 1), (STEP + 1, STEP + 1), (STEP + 1, STEP + 1)]


def test_no_texts_are_no_rows(tmp_path: Path) -> None:
    """Nothing to encode is an array of no rows, cached or not."""
    assert cached_embeddings(FakeEmbedder(), [], tmp_path).shape == (0, 4)
    assert cached_embeddings(FakeEmbedder(), [], tmp_path).shape == (0, 4)


def test_texts_that_no_encoding_holds_have_a_key() -> None:
    """Lone surrogates are part of the key, and told apart."""
    fingerprint = FakeEmbedder().fingerprint

    assert cache_key(fingerprint, ["\ud800"]) != cache_key(fingerprint, ["\ud801"])
