import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from routing.embedders import Embedder
from routing.errors import FingerprintMismatchError, InvalidInputError
from workers.embedding import loading
from workers.embedding.artifacts import find_artifact, list_artifacts, read_artifact
from workers.embedding.errors import ArtifactError, BackendUnavailableError
from workers.embedding.loading import load_embedder, open_for, verify_artifact
from workers.embedding.openvino import check_bf16

pytestmark = pytest.mark.model


def change_manifest(artifact: Path, **changes: Any) -> None:
    """Write the manifest anew with other values."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    (artifact / "manifest.json").write_text(json.dumps(manifest | changes))


def test_a_whole_artifact_is_verified(tiny: Path) -> None:
    """Verifying gives the fingerprint that its embedder has."""
    fingerprint = verify_artifact(tiny)

    assert (fingerprint.name, fingerprint.dimension, fingerprint.max_length) == ("tiny", 16, 12)
    assert fingerprint == load_embedder(tiny).fingerprint


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_changed_file_is_refused(tiny: Path, name: str) -> None:
    """One bit of the graph or the tokenizer, and the artifact is not opened."""
    content = bytearray((tiny / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tiny / name).write_bytes(content)

    with pytest.raises(ArtifactError, match=f"{name} is not the file that was exported"):
        load_embedder(tiny)


def test_a_missing_file_is_named(tiny: Path) -> None:
    """A copy that stopped half-way says what it lacks."""
    (tiny / "tokenizer.json").unlink()

    with pytest.raises(ArtifactError, match=r"tokenizer\.json is missing"):
        load_embedder(tiny)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"dimension": 17}, "its probe is not of length 17"),
        ({"format": 2}, "is not one of an embedder"),
        ({"kind": "word2vec"}, "is not one of an embedder"),
        ({"surprise": 1}, "is not one of an embedder"),
        ({"files": {"../../etc/passwd": "0"}}, "names"),
        ({"probe": [0.25] * 16}, "this back end does not compute this model"),
        ({"probe": [float("nan")] * 16}, "is not one of an embedder"),
    ],
)
def test_a_manifest_of_something_else_is_refused(tiny: Path, changes: dict[str, Any], problem: str) -> None:
    """The manifest is checked against its own format and against what the graph computes."""
    change_manifest(tiny, **changes)

    with pytest.raises(ArtifactError, match=problem):
        load_embedder(tiny)


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    """The sentence says how to make one."""
    with pytest.raises(ArtifactError, match="uniroute embedder export"):
        read_artifact(tmp_path)


def test_listing_skips_drafts_and_finds_the_newest(tiny: Path) -> None:
    """Drafts are hidden; of two exports of a model the later is found by name, each by its folder."""
    folder = tiny.parent
    shutil.copytree(tiny, folder / ".draft-1")
    later = Path(shutil.copytree(tiny, folder / "tiny-later"))
    change_manifest(later, exported_at="2999-01-01T00:00:00+00:00")

    assert [artifact.folder for artifact in list_artifacts(folder)] == [tiny, later]
    assert find_artifact("tiny", folder).folder == later
    assert find_artifact(tiny.name, folder).folder == tiny
    assert list_artifacts(folder / "absent") == ()


def test_an_unknown_name_lists_the_known_ones(tiny: Path) -> None:
    """A typing error is seen at once."""
    with pytest.raises(ArtifactError, match=r"no artifact 'tinny' \(there: tiny\)"):
        load_embedder("tinny", folder=tiny.parent)


def test_a_map_finds_its_embedder(tiny: Path) -> None:
    """The fingerprint of a map opens the artifact it was fitted on."""
    fingerprint = read_artifact(tiny).fingerprint("openvino")

    embedder = open_for(fingerprint, folder=tiny.parent, threads=1)

    assert embedder.fingerprint == fingerprint


def test_a_map_opens_the_back_end_it_was_fitted_with(tiny: Path, tiny_source: Path) -> None:
    """Onnxruntime for its map though OpenVINO is installed and preferred; the reference for its own."""
    onnx = load_embedder(tiny, backend="onnxruntime", threads=1).fingerprint
    reference = load_embedder(tiny, backend="sentence-transformers", threads=1).fingerprint

    assert load_embedder(tiny, threads=1).fingerprint.precision == "f32-openvino"
    assert open_for(onnx, folder=tiny.parent, threads=1).fingerprint == onnx
    assert open_for(reference, folder=tiny.parent, threads=1).fingerprint == reference
    assert reference.precision == "f32-sentence-transformers"
    assert reference.name == tiny_source.name


def test_another_back_end_than_the_maps_is_refused(tiny: Path) -> None:
    """A router whose setting names a back end that its map was not fitted with is told both."""
    fingerprint = read_artifact(tiny).fingerprint("openvino")

    with pytest.raises(FingerprintMismatchError, match=r"set to 'onnxruntime'.* fitted with 'openvino'"):
        open_for(fingerprint, backend="onnxruntime", folder=tiny.parent, threads=1)


def test_a_mismatch_says_what_differs(tiny: Path) -> None:
    """A map of another export is refused with the fields in which they differ, and no others."""
    fingerprint = replace(read_artifact(tiny).fingerprint("openvino"), checksum="f" * 64, max_length=512)

    with pytest.raises(FingerprintMismatchError) as caught:
        open_for(fingerprint, folder=tiny.parent)

    checksum = read_artifact(tiny).checksum
    assert caught.value.differences == (
        "max_length is 12, not 512",
        f"checksum is '{checksum}', not '{'f' * 64}'",
    )


def test_a_precision_that_no_back_end_has_is_a_mismatch(tiny: Path) -> None:
    """A map in a precision of the future is refused, not rounded."""
    fingerprint = replace(read_artifact(tiny).fingerprint("openvino"), precision="fp4")

    with pytest.raises(
        FingerprintMismatchError, match=r"precision is one of f32-sentence-transformers.*, not 'fp4'"
    ):
        open_for(fingerprint, folder=tiny.parent)


def test_an_empty_folder_says_what_to_export(tiny: Path, tmp_path: Path) -> None:
    """A new machine is told the command."""
    with pytest.raises(ArtifactError, match="uniroute embedder export tiny"):
        open_for(read_artifact(tiny).fingerprint("openvino"), folder=tmp_path / "nothing")


def test_back_ends_refuse_what_they_cannot_do(tiny: Path) -> None:
    """bf16 without OpenVINO, a transformer as a table, and an unknown name are errors, not fallbacks."""
    with pytest.raises(BackendUnavailableError, match="has no bf16"):
        load_embedder(tiny, backend="onnxruntime", precision="bf16")
    with pytest.raises(BackendUnavailableError, match="has no bf16"):
        load_embedder(tiny, backend="sentence-transformers", precision="bf16")
    with pytest.raises(BackendUnavailableError, match="is a transformer artifact"):
        load_embedder(tiny, backend="static")
    with pytest.raises(InvalidInputError, match="'tensorrt' is none of"):
        load_embedder(tiny, backend="tensorrt")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="at least 1, not 0"):
        load_embedder(tiny, threads=0)


def test_bf16_is_refused_where_it_would_be_emulated() -> None:
    """A CPU whose capabilities lack BF16 is told to use f32."""
    check_bf16(["FP32", "BF16", "INT8"])
    with pytest.raises(BackendUnavailableError, match="use precision f32"):
        check_bf16(["FP32", "INT8"])


def test_no_two_threads_open_at_once(tiny: Path) -> None:
    """Router and batcher of one process both open the embedder when the first LLM joins.

    OpenVINO sets up its bindings at its first inference, and stops a process whose threads do so together.
    """
    load_embedder(tiny)  # what is slow at first, the import, is done
    opened: list[Embedder] = []
    thread = threading.Thread(target=lambda: opened.append(load_embedder(tiny)))
    with loading._FIRST_USE:
        thread.start()
        thread.join(2)  # many times what it takes
        assert opened == []
    thread.join()

    assert len(opened) == 1
