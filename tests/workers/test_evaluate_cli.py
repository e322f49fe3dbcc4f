"""``uniroute evaluate`` on a small set that the test writes itself."""

import json
import math
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from outcome_folders import PROMPTS, changed, write_folder, write_topics
from pyarrow import parquet
from rich.console import Console
from typer.testing import CliRunner

from routing.embedders import FloatMatrix
from workers.cli import evaluate as evaluate_command
from workers.errors import UsageError
from workers.evaluation.parallel import run_in_processes
from workers.evaluation.plots import plot_findings
from workers.evaluation.reports import METHOD_FIELDS, make_report, write_report
from workers.evaluation.study import Findings, Study, read_methods, run_study
from workers.evaluation.tables import match_labels, render_findings

QUICK = ("uniroute-kmeans", "shrunk", "default")
TOPICS = ("algebra", "botany", "cooking", "dance")


def embed_topics(texts: Sequence[str]) -> tuple[FloatMatrix, str]:
    """One direction per topic, and a little of each text's own."""
    rows = np.zeros((len(texts), 8), dtype=np.float32)
    for row, text in enumerate(texts):
        topic, number = text.split()
        rows[row, TOPICS.index(topic)] = 1.0
        rows[row, 4 + int(number) % 4] = 0.2
    unit: FloatMatrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit, "topics f32"


def embed_ones(texts: Sequence[str]) -> tuple[FloatMatrix, str]:
    """No difference between texts."""
    return np.ones((len(texts), 1), np.float32), "ones"


@pytest.fixture(scope="session")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An outcome folder with four topics and six LLMs."""
    return write_topics(tmp_path_factory.mktemp("outcomes") / "topics")


@pytest.fixture(scope="session")
def findings(topics: Path) -> Findings:
    """Two numbers of labels on it."""
    study = Study(folder=topics, labels=(40, 10), clusters=4, trials=3, methods=QUICK)
    return run_study(study, embed=embed_topics)


def test_the_report_has_the_promised_fields(findings: Findings, tmp_path: Path) -> None:
    """Dataset, protocol, and every measure of every method; JSON without NaN or Infinity."""
    file = tmp_path / "deep" / "report.json"

    write_report(findings, file)

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    report = json.loads(file.read_text(), parse_constant=refuse)
    assert set(report) == {"dataset", "protocol", "methods", "by_labels"}
    assert report["dataset"] == "topics"
    assert report["protocol"]["labels"] == 40
    assert report["protocol"]["cost_source"] == "recorded USD"
    assert set(report["methods"]) == {*QUICK, "zero", "best-single", "cheapest", "random", "oracle"}
    for method in report["methods"].values():
        assert tuple(method) == METHOD_FIELDS
        assert len(method["area_ci"]) == len(method["minus_uniroute_ci"]) == 2
    assert report["methods"]["cheapest"]["seconds_fit"] is None
    assert report["methods"] == report["by_labels"]["40"]


def test_a_report_of_one_number_of_labels_has_no_table_of_labels(topics: Path) -> None:
    """``by_labels`` is there only where there are several."""
    study = Study(folder=topics, labels=(20,), clusters=4, trials=1, methods=QUICK)

    report = make_report(run_study(study, embed=embed_topics))

    assert set(report) == {"dataset", "protocol", "methods"}


def test_the_table_is_sorted_by_area(findings: Findings) -> None:
    """Best on top; every method and reference once per table."""
    text = _shown(findings)
    first = text[text.index("40 labels") : text.index("10 labels")]
    names = [line.split()[0] for line in first.splitlines()[2:] if line.strip()]

    methods = findings.evaluations[0].methods
    assert names == sorted(methods, key=lambda name: -methods[name].area)
    assert "costs: recorded USD" in text
    assert "matches" in text


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    """More labels than val prompts, and prompts that lack a score."""
    folder = write_topics(tmp_path / "gaps", n_llms=4, per_topic=20)
    _drop_last_outcome(folder)
    study = Study(folder=folder, labels=(400,), clusters=4, trials=2, methods=QUICK)

    found = run_study(study, embed=embed_topics)

    text = " ".join(_shown(found).split())
    assert found.incomplete == 1
    assert "1 prompts lack a score of some LLM" in text
    assert "Asked for 400 labels, but val has 32 prompts" in text


def test_labels_to_match_lie_between_known_ones() -> None:
    """.5 half-way from .4 at 10 labels to .6 at 40: the geometric mean, 20; also at the ends, and never."""
    assert match_labels([10, 40], [0.4, 0.6], 0.5) == pytest.approx(20)
    assert match_labels([10, 40], [0.4, 0.6], 0.3) == 10
    assert match_labels([10, 40], [0.4, 0.6], 0.7) is None


def test_curves_are_drawn_as_png_and_svg(findings: Findings, tmp_path: Path) -> None:
    """One figure per number of labels; the SVG names both axes and every router."""
    files = plot_findings(findings, tmp_path / "plots")

    assert [file.name for file in files] == [
        "topics-40.png",
        "topics-40.svg",
        "topics-10.png",
        "topics-10.svg",
    ]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    drawn = files[1].read_text()
    for words in ("Mean cost per prompt", "Mean score", "uniroute-kmeans (", "default (", "best-single"):
        assert words in drawn


def test_processes_give_the_numbers_of_one(topics: Path) -> None:
    """Two processes, equal bits."""
    study = Study(folder=topics, labels=(10,), clusters=4, trials=2, methods=QUICK)

    serial = run_study(study, embed=embed_topics)
    parallel = run_study(
        study,
        embed=embed_topics,
        run=lambda work, trials: run_in_processes(work, trials, jobs=2),
    )

    one, two = (found.evaluations[0].methods["default"] for found in (serial, parallel))
    assert one.areas.tolist() == two.areas.tolist()
    assert one.area_ci == two.area_ci


def test_methods_are_read_by_name() -> None:
    """All of them, or those named, raw UniRoute always among them."""
    assert "default" in read_methods("all")
    assert read_methods("knn, oracle") == ("knn", "uniroute-kmeans")
    with pytest.raises(UsageError, match="no method 'kmn'; there are: all, zero"):
        read_methods("kmn")


def test_a_set_that_is_too_small_gets_a_sentence(tmp_path: Path) -> None:
    """Two LLMs leave nothing to learn from."""
    folder = write_folder(tmp_path / "tiny", prompts=PROMPTS)

    with pytest.raises(UsageError, match="needs 3, not 2"):
        run_study(Study(folder=folder), embed=embed_ones)


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--labels", "many", "'many' is not a number"),
        ("--labels", "0", "must be at least 1"),
        ("--labels", "10,10", "names a number twice"),
        ("--clusters", "few", "'few' is neither auto nor a number"),
        ("--methods", "magic", "there is no method 'magic'"),
    ],
)
def test_an_option_that_makes_no_sense_gets_a_sentence(
    option: str, value: str, sentence: str, topics: Path
) -> None:
    """Before anything is read or embedded."""
    result = CliRunner().invoke(evaluate_command.command, [str(topics), option, value])

    assert isinstance(result.exception, UsageError)
    assert sentence in str(result.exception)


def test_a_bad_folder_is_refused_before_anything_is_embedded(tmp_path: Path) -> None:
    """The sentence is about the folder, though there is no such embedder either."""
    folder = write_folder(tmp_path / "bad", prompts=changed(PROMPTS, 0, split="dev"))

    result = CliRunner().invoke(evaluate_command.command, [str(folder), "--embedder", "no-such-model"])

    assert isinstance(result.exception, UsageError)
    assert "column split, row 1: 'dev' is not train, val or test" in str(result.exception)


@pytest.mark.parametrize("write", [write_report, plot_findings])
def test_a_place_that_cannot_be_written_gets_a_sentence(
    write: Callable[[Findings, Path], object], findings: Findings, tmp_path: Path
) -> None:
    """A folder where a file should be made below a file."""
    blocked = tmp_path / "file"
    blocked.write_text("")

    with pytest.raises(UsageError, match="cannot be written"):
        write(findings, blocked / "below")


def test_every_number_of_a_summary_is_finite_or_unknown(findings: Findings) -> None:
    """Areas and intervals are always known; only times and unreached costs may be NaN."""
    for evaluation in findings.evaluations:
        for summary in evaluation.methods.values():
            known = (summary.area, *summary.area_ci, summary.minus_uniroute, *summary.minus_uniroute_ci)
            assert all(math.isfinite(value) for value in known)


def _shown(found: Findings) -> str:
    console = Console(file=StringIO(), width=160)
    with console.capture() as capture:
        console.print(render_findings(found))
    return capture.get()


def _drop_last_outcome(folder: Path) -> None:
    table = parquet.read_table(folder / "outcomes.parquet")
    parquet.write_table(table.slice(0, table.num_rows - 1), folder / "outcomes.parquet")
