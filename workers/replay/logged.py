"""Reads logged decisions: the last ones, or those of a stretch of time."""

from datetime import datetime

import msgspec

from workers.messages import DecisionRecord
from workers.reading import read_last, read_since
from workers.settings import Settings
from workers.topics import Topics

#: Decisions that are looked back at where neither a number nor a stretch of time is given.
LAST_DECISIONS = 1_000


def read_decisions(
    settings: Settings,
    *,
    last: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[DecisionRecord]:
    """Give the decisions made from ``since`` to before ``until``, oldest first, or the ``last`` of them.

    Without a number it is every one of the stretch of time, or the last ``LAST_DECISIONS`` where none is
    given.
    """
    topic = Topics(settings.topic_prefix).decisions
    if since is None and until is None:
        last = LAST_DECISIONS if last is None else last
        logged = read_last(settings, topic, last)
    else:
        logged = list(read_since(settings, topic, since))
    records = (msgspec.json.decode(one.value, type=DecisionRecord) for one in logged)
    wanted = [
        record
        for record in records
        if (since is None or record.decided_at >= since) and (until is None or record.decided_at < until)
    ]
    return sorted(wanted, key=lambda record: (record.decided_at, record.decision_id))[
        0 if last is None else -last :
    ]
