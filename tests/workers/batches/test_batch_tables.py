import gzip
import io
import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from workers.batches.places import copy_to, open_place
from workers.batches.tables import Columns, read_rows, tell_format
from workers.errors import UsageError


def read_csv(text: str, *columns: str) -> list[dict[str, object]]:
    """Give the lines that a CSV file becomes."""
    source = io.BytesIO(text.encode())
    return [json.loads(line) for line in read_rows(source, "csv", Columns.read(list(columns)))]


def write_parquet(rows: list[dict[str, object]]) -> io.BytesIO:
    """Give a Parquet file of these rows."""
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), file)
    file.seek(0)
    return file


def test_a_row_of_csv_becomes_a_line_by_the_mapping() -> None:
    """Columns are taken by role; what nobody names has its usual default."""
    [first, second] = read_csv(
        'id,question,how,most\na,"two\nlines",be brief,50\n,plain,,\n',
        "prompt=question", "custom_id=id", "system=how", "max_tokens=most",
    )  # fmt: skip

    assert first == {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "auto",
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "two\nlines"},
            ],
            "max_completion_tokens": 50,
        },
    }
    assert (second["custom_id"], second["body"]) == (
        "2",
        {"model": "auto", "messages": [{"role": "user", "content": "plain"}]},
    )


def test_a_packed_table_is_read_as_a_plain_one() -> None:
    """The usual names need no mapping, and gzip is told by its first bytes."""
    packed = io.BytesIO(gzip.compress("\ufeffprompt,custom_id\nhello,x\n".encode()))

    [line] = [json.loads(one) for one in read_rows(packed, "csv", Columns.read([]))]

    assert (line["custom_id"], line["body"]["messages"][0]["content"]) == ("x", "hello")


def test_parquet_rows_may_hold_whole_conversations() -> None:
    """As a list, or as JSON in a text; a row without either is a line that is refused by itself."""
    turns = [{"role": "user", "content": "hi"}]
    as_list, as_text = write_parquet([{"messages": turns}]), write_parquet([{"talk": json.dumps(turns)}])
    empty = write_parquet([{"prompt": None}, {"prompt": "a"}])

    found = [
        json.loads(next(read_rows(file, "parquet", Columns.read(list(columns)))))["body"]["messages"]
        for file, columns in ((as_list, ()), (as_text, ("messages=talk",)), (empty, ()))
    ]

    assert found == [turns, turns, []]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (["prompt=nothing"], "no such column; there are: question"),
        ([], "no column is the prompt"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(columns: list[str], problem: str) -> None:
    """Before any row is read, with the columns that there are."""
    with pytest.raises(UsageError, match=problem):
        read_csv("question\nhello\n", *columns)


@pytest.mark.parametrize("given", ["prompt", "prompt=", "colour=red"])
def test_a_mapping_that_is_none_is_refused(given: str) -> None:
    """The sentence lists the roles."""
    with pytest.raises(UsageError, match="roles are prompt, messages"):
        Columns.read([given])


def test_a_broken_parquet_file_is_told() -> None:
    """In one sentence, not by a trace."""
    with pytest.raises(UsageError, match="cannot be read"):
        list(read_rows(io.BytesIO(b"PAR1 not really"), "parquet", Columns.read([])))


def test_formats_are_told_by_name() -> None:
    """Compression aside."""
    names = ("a.parquet", "s3://b/a.csv.gz", "a.jsonl.zst", "a")

    assert [tell_format(name) for name in names] == ["parquet", "csv", "jsonl", "jsonl"]


def test_results_are_put_below_a_url_under_their_final_name_alone(tmp_path: Path) -> None:
    """What is read back from the store is what was written, and no draft is left."""
    source = tmp_path / "output.jsonl"
    source.write_bytes(b"one\ntwo\n")

    copy_to(source, "memory://results/of/today", "b.output.jsonl")

    with open_place("memory://results/of/today/b.output.jsonl") as file:
        assert file.read() == b"one\ntwo\n"
    listed = fsspec.filesystem("memory").ls("/results/of/today", detail=False)
    assert listed == ["/results/of/today/b.output.jsonl"]


@pytest.mark.parametrize("place", ["memory://not/there", "nosuch://a/b", "/not/there"])
def test_a_place_that_cannot_be_read_is_told(place: str) -> None:
    """By its name."""
    with pytest.raises(UsageError, match=r"there|nosuch"), open_place(place):
        pass
