"""``uniroute policy calibrate``, and what README says of cascades: that all of it is a policy."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from routing.errors import InvalidInputError
from workers.cli import console
from workers.cli.main import command
from workers.documents import read_document
from workers.policies import check_llms, read_policies, read_policy

README = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")


def completion(logprob: float) -> Mapping[str, Any]:
    """An answer of one token."""
    return {"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{"logprob": logprob}]}}]}


def calibrate(folder: Path, lines: Sequence[Mapping[str, Any]], *options: str) -> int:
    """Run the command on these lines and give its exit code."""
    file = folder / "answers.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        console.run(command, ["policy", "calibrate", str(file), *options])
    return int(ended.value.code or 0)


def test_a_curve_is_fitted_and_fits_a_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong at -3 and -1, right at -2 and 0: the middle two are pooled to a half."""
    lines = [{"answer": completion(at), "score": score} for at, score in ((-3, 0), (-2, 1), (-1, 0), (0, 1))]

    assert calibrate(tmp_path, [*lines, {"answer": {"choices": []}, "score": 1}]) == 0
    said = capsys.readouterr().out
    found = yaml.safe_load(said)
    assert found == {"calibration": {"confidences": [-3.0, -2.0, -1.0, 0.0], "chances": [0.0, 0.5, 0.5, 1.0]}}
    assert "how sure their LLM was: 1." in said
    read_policy("p", {"kind": "cascade", "llms": ["a", "b"], "accept": 0.8, **found})


def test_each_llm_that_is_named_gets_a_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From numbers, as a scorer's are."""
    lines = [
        {"confidence": at, "score": score, "llm": llm}
        for llm, at, score in (("a", 0.2, 0), ("a", 0.9, 1), ("b", 0.4, 1))
    ]

    assert calibrate(tmp_path, lines, "--confidence", "scorer", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "calibration": {
            "a": {"confidences": [0.2, 0.9], "chances": [0.0, 1.0]},
            "b": {"confidences": [0.4], "chances": [1.0]},
        },
        "answers": 3,
        "silent": 0,
    }


def test_a_long_curve_keeps_its_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a hundred knots three are left: the first, the middle, the last."""
    lines = [{"confidence": at / 100, "score": at / 100} for at in range(101)]

    assert calibrate(tmp_path, lines, "--knots", "3", "--confidence", "scorer") == 0
    assert yaml.safe_load(capsys.readouterr().out)["calibration"] == {
        "confidences": [0.0, 0.5, 1.0],
        "chances": [0.0, 0.5, 1.0],
    }


@pytest.mark.parametrize(
    ("line", "options", "sentence"),
    [
        ({"score": 1}, (), "line 1: give an answer, or a confidence"),
        ({"score": 2, "confidence": 1}, (), "line 1: score is 2.0"),
        ({"score": 1, "answer": {}}, (), "none of its answers tells how sure"),
        ({"score": 1, "confidence": 1}, ("--confidence", "feeling"), "--confidence is 'feeling'"),
    ],
)
def test_what_cannot_be_fitted_is_told(
    line: Mapping[str, Any],
    options: Sequence[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one sentence."""
    assert calibrate(tmp_path, [line], *options) == 2
    assert sentence in capsys.readouterr().err


def test_readme_declares_cascades_that_can_be() -> None:
    """Each policy of its file is read, and refused where one of its LLMs is not registered."""
    [text] = re.findall(r"^```yaml\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    bodies = read_policies(text.encode())

    assert {body["kind"] for body in bodies.values()} == {"cascade"}
    assert read_document(text.encode(), source="README") == bodies
    for name, body in bodies.items():
        declared = read_policy(name, body)
        check_llms(name, declared, ["small", "medium", "large"])
        with pytest.raises(InvalidInputError, match="no LLM is named 'large'"):
            check_llms(name, declared, ["small", "medium"])
