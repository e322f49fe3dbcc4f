"""One contract, kept by every back end on the real model."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from routing.embedders import Embedder, FloatMatrix
from routing.errors import InvalidInputError
from workers.embedding.artifacts import MODEL, Precision
from workers.embedding.errors import BackendUnavailableError
from workers.embedding.loading import Backend, load_embedder
from workers.embedding.tokens import CHARACTERS_PER_TOKEN

pytestmark = pytest.mark.model

#: Back end, precision, and the least cosine to sentence-transformers.
BACK_ENDS: list[tuple[Backend, Precision, float]] = [
    ("sentence-transformers", "f32", 0.99999),
    ("openvino", "f32", 0.99999),
    ("onnxruntime", "f32", 0.99999),
    ("openvino", "bf16", 0.9995),
]
WORDS = ("solve", "the", "integral", "of", "x", "and", "prove", "each", "prime", "above", "two", "is", "odd")
#: Lengths from nothing to twice what the model reads, in no order.
TEXTS = tuple(" ".join(WORDS[index % 7 :] * (index * 37 % 41)) + f" case {index}" for index in range(40))


@pytest.fixture(scope="module")
def reference(minilm: Path) -> FloatMatrix:
    """The vectors of TEXTS by sentence-transformers."""
    return load_embedder(minilm, backend="sentence-transformers", threads=1).encode(TEXTS)


@pytest.fixture(scope="module", params=BACK_ENDS, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request: pytest.FixtureRequest, minilm: Path) -> tuple[Embedder, float]:
    """An embedder, and its least cosine to the reference."""
    backend, precision, least = request.param
    try:
        return load_embedder(minilm, backend=backend, precision=precision, threads=1), least
    except BackendUnavailableError as error:
        pytest.skip(str(error))


def test_agrees_with_sentence_transformers(case: tuple[Embedder, float], reference: FloatMatrix) -> None:
    """Every back end computes the model that sentence-transformers computes."""
    embedder, least = case

    vectors = embedder.encode(TEXTS)

    assert vectors.dtype == np.float32
    assert np.sum(vectors * reference, axis=1).min() >= least


def test_vectors_do_not_depend_on_their_batch(case: tuple[Embedder, float]) -> None:
    """A text has the same vector alone as among others of any length, and in its own place."""
    embedder, least = case

    together = embedder.encode(TEXTS)
    alone = np.concatenate([embedder.encode([text]) for text in TEXTS])

    assert np.sum(together * alone, axis=1).min() >= least


def test_nothing_gives_no_rows(case: tuple[Embedder, float]) -> None:
    """No texts, no rows, but the dimension is known."""
    embedder, _ = case

    assert embedder.encode([]).shape == (0, 384)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "\x00",
        "a\x00b",
        "\ud800",
        "lone \udfff surrogate",
        "\ud83d\ude00 as a pair of surrogates",
        "\U0001f600",
        "\u202eright to left\u202c",
        "e\u0301" * 100,
    ],
    ids=ascii,
)
def test_any_text_has_a_unit_vector(case: tuple[Embedder, float], text: str) -> None:
    """Whatever characters a prompt holds, it has a finite vector of length 1."""
    embedder, _ = case

    vectors = embedder.encode([text, "a plain text"])

    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-3)


@pytest.mark.parametrize("unit", ["x", "x ", " ", "\u4e2d", "\x00", "\ud800", "word. "], ids=ascii)
def test_a_megabyte_has_the_vector_of_its_beginning(case: tuple[Embedder, float], unit: str) -> None:
    """1 MB of anything is cut to 32 characters per token that the model reads, before it is tokenised."""
    embedder, least = case
    read = CHARACTERS_PER_TOKEN * embedder.fingerprint.max_length
    text = unit * (1_000_000 // len(unit))

    whole, begin = embedder.encode([text, text[:read]])

    assert whole @ begin >= least


def test_a_tokenizer_is_given_no_more_than_is_cut(case: tuple[Embedder, float]) -> None:
    """It would pass over the blanks and read the words behind them, had it been given them."""
    embedder, least = case
    blanks = " " * CHARACTERS_PER_TOKEN * embedder.fingerprint.max_length

    nothing, behind, before = embedder.encode(["", blanks + "prove it", blanks[8:] + "prove it"])

    assert nothing @ behind >= least
    assert nothing @ before < least


def test_reads_no_further_than_the_maximum_length(case: tuple[Embedder, float]) -> None:
    """What follows the 256th token changes nothing."""
    embedder, least = case
    head = "word " * 254

    first, second = embedder.encode([head, head + "and something else altogether"])

    assert first @ second >= least


def test_one_string_is_refused(case: tuple[Embedder, float]) -> None:
    """A bare string is a mistake, not a list of texts of one character."""
    embedder, _ = case

    with pytest.raises(InvalidInputError, match="one string"):
        embedder.encode("a prompt")


def test_every_back_end_has_a_fingerprint_of_its_own(minilm: Path) -> None:
    """A map fitted on one back end is served by that one: last digits differ even between exact ones."""
    embedders = [
        load_embedder(minilm, backend=backend, precision=precision, threads=1)
        for backend, precision, _ in BACK_ENDS
        if (backend, precision) != ("openvino", "bf16")
    ]
    fingerprints = [embedder.fingerprint for embedder in embedders]

    assert len(set(fingerprints)) == len(fingerprints)
    assert [one.precision for one in fingerprints] == [
        "f32-sentence-transformers",
        "f32-openvino",
        "f32-onnxruntime",
    ]
    assert {(one.name, one.dimension, one.max_length) for one in fingerprints} == {
        ("all-MiniLM-L6-v2", 384, 256)
    }


#: Meets shapes, and prints by how many MiB the process grew after the first 50.
_MEET_SHAPES = """
import sys
from pathlib import Path

import numpy as np
import psutil

from workers.embedding.openvino import open_openvino

run = open_openvino(Path(sys.argv[1]), precision="f32", threads=1)


def meet(rows, widths):
    for width in widths:
        ids = np.ones((rows, width), dtype=np.int64)
        run(ids, ids)
    return psutil.Process().memory_info().rss


begun = meet(1, range(4, 54))
print((meet(2, range(4, 154)) - begun) / 2**20)
"""


def test_new_shapes_do_not_fill_the_memory(minilm: Path) -> None:
    """150 pairs of rows and width beyond the first 50 take 100 MiB, and 220 where all are kept.

    In a process of its own: what the tests before it have left there moves the figure by as much.
    """
    done = subprocess.run(  # noqa: S603 (this interpreter and the script above)
        [sys.executable, "-c", _MEET_SHAPES, str(minilm / MODEL)],
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 150
