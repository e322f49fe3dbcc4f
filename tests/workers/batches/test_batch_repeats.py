"""What a batch counts as calls that were made again."""

import pytest

from workers import messages
from workers.batches.tally import count_repeated
from workers.messages import Message


@pytest.mark.parametrize(
    ("before", "called", "again"),
    [
        (2, 1, 2),  # three calls: the second and the third
        (1, 0, 0),  # one call, and no money for another
        (2, 0, 1),
        (0, 3, 0),  # tries after errors are no repetitions
    ],
)
def test_calls_made_again_are_counted(before: int, called: int, again: int) -> None:
    """Of all calls for a line, those after the first one that a crash had the line begin anew."""
    headers = (
        (messages.REPEATED_CALLS, str(before).encode()),
        (messages.ATTEMPT, str(called).encode()),
    )
    reply = Message(topic="r", partition=0, offset=0, timestamp_ms=0, key=b"k", value=b"{}", headers=headers)

    assert count_repeated(reply) == again
