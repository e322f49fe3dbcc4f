"""Which calls a process that died had sent."""

from pathlib import Path

import pytest

from workers.messages import Message
from workers.transactions.call_journal import CallJournal

PARTITION = ("uniroute.dispatch.a", 3)


def message(offset: int) -> Message:
    """A message at this offset."""
    return Message(
        topic=PARTITION[0],
        partition=PARTITION[1],
        offset=offset,
        timestamp_ms=0,
        key=b"k",
        value=b"v",
        headers=(),
    )


def open_journal(folder: Path, *, cluster: str = "127.0.0.1:9092") -> CallJournal:
    """The journal of one slot."""
    return CallJournal.open(folder, name="uniroute.executor.0", cluster=cluster)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a process leaves that died after the log was told of calls 5, 6 and 7 and had sent 6 alone."""
    journal = open_journal(tmp_path)
    journal.asking((message(offset), 1) for offset in (5, 6, 7))
    journal.sending(message(6), 1)
    journal.close()
    return tmp_path


def test_calls_that_were_not_sent_are_known_after_a_crash(folder: Path) -> None:
    """Of three that the log counts, the two that never left are told."""
    found = open_journal(folder).unsent(PARTITION, position=5, counts={5: 1, 6: 1, 7: 1})

    assert found == [5, 7]


def test_a_call_that_the_log_never_heard_of_is_not_taken_off(folder: Path) -> None:
    """The process died before its transaction: what the log counts for 5 and 7 was before."""
    journal = open_journal(folder)
    journal.asking([(message(5), 2)])

    assert journal.unsent(PARTITION, position=5, counts={5: 1}) == []


def test_a_later_call_of_another_worker_stays_counted(folder: Path) -> None:
    """Another slot began 5 again: of the two, the one that never left is taken off."""
    assert open_journal(folder).unsent(PARTITION, position=5, counts={5: 2}) == [5]


def test_a_torn_note_is_as_if_it_was_not_written(folder: Path) -> None:
    """The process died while it wrote that 7 is sent: nothing had left."""
    path = folder / "uniroute.executor.0.calls"
    journal = open_journal(folder)
    journal.sending(message(7), 1)
    journal.close()
    path.write_bytes(path.read_bytes()[:-1])

    assert open_journal(folder).unsent(PARTITION, position=5, counts={7: 1}) == [7]


def test_notes_of_another_cluster_say_nothing(folder: Path) -> None:
    """The same offsets are other messages there: every call that its log counts counts as made."""
    journal = open_journal(folder, cluster="elsewhere:9092")

    assert journal.unsent(PARTITION, position=5, counts={5: 1}) == []


def test_whoever_finds_the_journal_held_counts_every_call(folder: Path) -> None:
    """Two processes of one slot do not write the same notes."""
    first = open_journal(folder)

    second = open_journal(folder)

    assert second.unsent(PARTITION, position=5, counts={5: 1}) == []
    assert first.unsent(PARTITION, position=5, counts={5: 1}) == [5]


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    """Notes are kept in memory then."""
    (tmp_path / "file").touch()
    journal = open_journal(tmp_path / "file")
    journal.asking([(message(5), 1)])

    assert journal.unsent(PARTITION, position=5, counts={5: 1}) == [5]


def test_the_file_holds_what_is_in_flight(tmp_path: Path) -> None:
    """A million calls that are finished leave a file of a few megabytes at most."""
    journal = open_journal(tmp_path)
    for start in range(0, 300_000, 1_000):
        calls = [message(start + number) for number in range(1_000)]
        journal.asking((call, 1) for call in calls)
        for call in calls[:10]:
            journal.sending(call, 1)
        journal.finished(calls)

    assert (tmp_path / "uniroute.executor.0.calls").stat().st_size < 5 * 1024 * 1024
