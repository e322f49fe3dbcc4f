import gzip
import json
import os
import tracemalloc
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import zstandard

from workers.batches.folders import BatchFolder
from workers.batches.ingest import LINE, Ingested, Lines, ingest
from workers.batches.lines import StoppedError, read_lines
from workers.batches.requests import Wishes
from workers.settings import Settings

SETTINGS = Settings(max_prompt_bytes=2_000)
WISHES = Wishes(batch_id="batch_1", reply_to="uniroute.replies.batches.batch_1")


def make_line(custom_id: str = "a", *, content: str = "hello", **changes: object) -> bytes:
    """One good line of a batch file."""
    body = {"model": "auto", "messages": [{"role": "user", "content": content}]}
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps({**line, **changes}).encode() + b"\n"


def ingest_bytes(folder: Path, content: bytes) -> tuple[Ingested, list[dict[str, object]]]:
    """Check a file's lines; give the counts, and line and class of each that was refused."""
    source = folder / "in.jsonl"
    source.write_bytes(content)
    batch = BatchFolder(folder / "batch")
    found = ingest(source, batch, WISHES, SETTINGS)
    entries = [json.loads(raw) for raw in batch.invalid.read_bytes().splitlines()]
    return found, [{"line": one["line"], "code": one["error"]["code"]} for one in entries]


def test_each_bad_line_has_its_reason_and_the_rest_go_on(tmp_path: Path) -> None:
    """A line is refused alone, with its number and a class that says why."""
    content = b"".join(
        [
            make_line("a"),
            b"\n",  # blank lines count, and are no lines
            b"{half\n",
            make_line("a", content="again"),
            make_line("b", url="/v1/embeddings"),
            make_line("c", content="x" * 10_000),
            b"\xff\xfe\xfa\n",
            make_line("d", body={"model": "auto", "messages": []}),
            make_line(""),
            make_line("e")[:-20],  # the file ends in the middle of a line
        ]
    )

    found, refused = ingest_bytes(tmp_path, content)

    assert found == Ingested(good=1, bad=8)
    assert [(one["line"], one["code"]) for one in refused] == [
        (3, "not_json"),
        (4, "duplicate_custom_id"),
        (5, "invalid_line"),
        (6, "too_large"),
        (7, "wrong_encoding"),
        (8, "invalid_body"),
        (9, "invalid_line"),
        (10, "not_json"),
    ]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_compressed_files_are_read_as_plain_ones(tmp_path: Path, pack: object) -> None:
    """Gzip and zstd are told by their first bytes; a byte-order mark is passed over."""
    content = b"\xef\xbb\xbf" + make_line("a") + make_line("b").rstrip(b"\n")

    found, refused = ingest_bytes(tmp_path, pack(content))  # type: ignore[operator]

    assert found == Ingested(good=2, bad=0)
    assert refused == []


def test_a_file_that_breaks_off_keeps_its_whole_lines(tmp_path: Path) -> None:
    """Of a cut gzip file the lines before the cut are good, and one entry says that it was cut."""
    lines = [make_line(f"line {number}", content=f"{number * 7919 % 10007}" * 50) for number in range(200)]
    packed = gzip.compress(b"".join(lines))

    found, refused = ingest_bytes(tmp_path, packed[: len(packed) // 2])

    assert 0 < found.good < 200
    assert refused == [{"line": found.good + 1, "code": "truncated_file"}]


def test_utf_16_is_told_in_its_first_line(tmp_path: Path) -> None:
    """A file in another encoding is one error, not a million."""
    found, refused = ingest_bytes(tmp_path, make_line().decode().encode("utf-16"))

    assert found == Ingested(good=0, bad=1)
    assert refused == [{"line": 1, "code": "wrong_encoding"}]


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    """Nothing in, nothing out, no error: the batch says that it is empty."""
    assert ingest_bytes(tmp_path, b"") == (Ingested(good=0, bad=0), [])


def test_a_long_line_is_never_held_whole(tmp_path: Path) -> None:
    """A line of 200 MB is read past in pieces of one, its size is told, and the next line is good."""
    path = tmp_path / "in.jsonl"
    with path.open("wb") as file:
        file.truncate(200_000_000)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + make_line())

    tracemalloc.start()
    long, good = list(read_lines(path, max_bytes=1_000))
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most_bytes < 4 * 1024 * 1024
    assert long.problem is not None
    assert long.problem.error_class == "too_large"
    assert "200000001 bytes" in long.problem.sentence
    assert long.value == b""
    assert (good.number, good.problem) == (2, None)


def test_good_lines_are_found_by_row_and_by_number(tmp_path: Path) -> None:
    """What was written is read back: id, body, tokens, limits."""
    ingest_bytes(
        tmp_path,
        b"{bad\n"
        + make_line("one")
        + make_line("två", content="x" * 400, body=json.loads(make_line())["body"]),
    )

    lines = Lines(BatchFolder(tmp_path / "batch"))

    assert len(lines) == 2
    assert [lines.number(row) for row in range(2)] == [2, 3]
    assert (lines.find(2), lines.find(3), lines.find(1), lines.find(4)) == (0, 1, None, None)
    assert lines.custom_id(1) == "två"
    assert json.loads(lines.body(0))["messages"][0]["content"] == "hello"
    assert lines.tokens(slice(0, 1)).tolist() == [1.25]
    lines.close()


def test_ingest_stops_soon_and_leaves_nothing_complete(tmp_path: Path) -> None:
    """A batch that is cancelled while it is checked has no complete index."""
    source = tmp_path / "in.jsonl"
    source.write_bytes(make_line())
    folder = BatchFolder(tmp_path / "batch")

    with pytest.raises(StoppedError):
        ingest(source, folder, WISHES, SETTINGS, stopped=lambda: True)

    assert not folder.index.exists()


@pytest.mark.parametrize("content", [b"\n" * 100_000, b"x" * 50_000_000], ids=["blank", "too long"])
def test_it_stops_where_no_line_comes_of_what_is_read(tmp_path: Path, content: bytes) -> None:
    """Blank lines and a line that is read past: at the third look, thousands of lines or megabytes on."""
    source, looks = tmp_path / "in.jsonl", iter([False, False, True])
    source.write_bytes(content)

    with pytest.raises(StoppedError):
        ingest(source, BatchFolder(tmp_path / "batch"), WISHES, SETTINGS, stopped=lambda: next(looks))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
@pytest.mark.parametrize("filling", [b"0", b"\n", b"x\n"], ids=["one line", "blank lines", "bad lines"])
def test_a_packed_file_is_read_as_far_as_a_file_may_go(tmp_path: Path, pack: object, filling: bytes) -> None:
    """Some kilobytes hold a gigabyte, say: the lines before the limit are good, the rest is one entry."""
    content = make_line("a") + filling * (4_000_000 // len(filling)) + b"\n" + make_line("b")
    source, batch = tmp_path / "in.jsonl", BatchFolder(tmp_path / "batch")
    source.write_bytes(pack(content))  # type: ignore[operator]
    settings = SETTINGS.model_copy(update={"max_batch_bytes": 5_000})

    found = ingest(source, batch, WISHES, settings)

    refused = [json.loads(raw)["error"] for raw in batch.invalid.read_bytes().splitlines()]
    assert found.good == 1
    assert refused[-1]["code"] == "too_large"
    assert (
        "UNIROUTE_MAX_BATCH_BYTES" in refused[-1]["message"] or "4000001 bytes" not in refused[-1]["message"]
    )
    assert sum(one["code"] == "too_large" for one in refused) <= 2


def test_no_more_lines_are_read_than_fit_in_memory(tmp_path: Path) -> None:
    """The third of two is too many, whether the file goes on or not."""
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"a\n\nc\nd\n")

    found = list(read_lines(source, max_bytes=10, most_lines=2))

    assert [(line.number, line.value) for line in found] == [(1, b"a"), (3, b"")]
    assert found[1].problem is not None
    assert (found[1].problem.error_class, "2 lines at most" in found[1].problem.sentence) == (
        "too_large",
        True,
    )


def test_a_line_is_found_by_its_number(tmp_path: Path) -> None:
    """Blank and bad lines leave gaps; a number beyond the last is nobody's."""
    ingest_bytes(tmp_path, make_line("a") + b"\n" + make_line("b") + b"{half\n" + make_line("c"))

    with closing(Lines(BatchFolder(tmp_path / "batch"))) as lines:
        found = [lines.find(number) for number in (0, 1, 2, 3, 4, 5, 6, 2**40)]

    assert found == [None, 0, None, 1, None, 2, None, None]


def test_finding_a_line_takes_no_memory(tmp_path: Path) -> None:
    """It is done for every reply: nothing of a batch's size may be copied for it."""
    folder = BatchFolder(tmp_path)
    index = np.zeros(100_000, dtype=LINE)
    index["number"] = np.arange(1, 100_001)
    np.save(folder.index, index)
    folder.lines.touch()
    folder.limits.write_bytes(b"[]")

    with closing(Lines(folder)) as lines:
        tracemalloc.start()
        row = lines.find(77_777)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert row == 77_776
    assert peak < 10_000
