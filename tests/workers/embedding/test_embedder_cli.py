import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from workers.cli.embedder import command
from workers.embedding.artifacts import read_artifact
from workers.embedding.errors import ArtifactError
from workers.errors import UsageError

pytestmark = pytest.mark.model

runner = CliRunner()


def test_export_prints_what_it_made(tiny_source: Path, tmp_path: Path) -> None:
    """The JSON names the folder, and the folder is an artifact."""
    done = runner.invoke(command, ["export", str(tiny_source), "--folder", str(tmp_path), "--json"])

    described = json.loads(done.stdout)
    assert done.exit_code == 0
    assert read_artifact(Path(described["folder"])).checksum == described["checksum"]
    assert described["dimension"] == 16


def test_list_and_verify_agree(tiny: Path) -> None:
    """What is listed can be verified, by name and all together."""
    listed = runner.invoke(command, ["list", "--folder", str(tiny.parent), "--json"])
    named = runner.invoke(command, ["verify", "tiny", "--folder", str(tiny.parent), "--json"])
    every = runner.invoke(command, ["verify", "--folder", str(tiny.parent), "--json"])

    (one,) = json.loads(listed.stdout)
    assert json.loads(named.stdout) == json.loads(every.stdout)
    assert json.loads(named.stdout)[0]["checksum"] == one["checksum"]
    assert "tiny" in runner.invoke(command, ["list", "--folder", str(tiny.parent)]).stdout
    assert "is whole" in runner.invoke(command, ["verify", str(tiny)]).stdout


def test_verify_refuses_a_damaged_artifact(tiny: Path) -> None:
    """The command ends with the error that names the file."""
    (tiny / "model.onnx").write_bytes(b"cut")

    done = runner.invoke(command, ["verify", str(tiny)])

    assert done.exit_code != 0
    assert isinstance(done.exception, ArtifactError)
    assert "model.onnx" in str(done.exception)


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    """Nothing to list is no error; nothing to verify is one."""
    listed = runner.invoke(command, ["list", "--folder", str(tmp_path)])
    verified = runner.invoke(command, ["verify", "--folder", str(tmp_path)])

    assert "uniroute embedder export" in listed.stdout
    assert isinstance(verified.exception, UsageError)


def test_bench_puts_back_ends_side_by_side(tiny: Path, tmp_path: Path) -> None:
    """One row per back end, in the order asked, each compared with the first."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"what is a router? {n}"}) + "\n" for n in range(40)))

    done = runner.invoke(
        command,
        [
            *("bench", "tiny", "--folder", str(tiny.parent), "--texts", str(prompts), "--threads", "1"),
            *("--back-ends", "onnxruntime,openvino", "--json"),
        ],
    )

    rows = json.loads(done.stdout)
    assert [row["label"] for row in rows] == ["onnxruntime", "openvino"]
    assert rows[1]["cosine_min"] > 0.9999
    assert rows[1]["same_cluster"] == 1.0


def test_bench_refuses_what_it_does_not_know(tiny: Path, tmp_path: Path) -> None:
    """An unknown back end and a missing list of prompts are sentences."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n')
    common = ["bench", "tiny", "--folder", str(tiny.parent)]

    unknown = runner.invoke(command, [*common, "--texts", str(prompts), "--back-ends", "tensorrt"])
    missing = runner.invoke(command, common)

    assert "there is no 'tensorrt'" in str(unknown.exception)
    assert "--outcomes FOLDER or --texts FILE" in str(missing.exception)
