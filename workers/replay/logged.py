"""Reads logged decisions: the last ones, or those of a stretch of time."""

from datetime import datetime

import msgspec

from workers.messages import DecisionRecord
from workers.reading import read_last, read_since
from workers.settings import Settings
from workers.topics import Topics


def read_decisions(
    settings: Settings, *, last: int, since: datetime | None = None, until: datetime | None = None
) -> list[DecisionRecord]:
    """Give the last ``last`` decisions made from ``since`` to before ``until``, oldest first."""
    topic = Topics(settings.topic_prefix).decisions
    if since is None and until is None:
        logged = read_last(settings, topic, last)
    else:
        logged = list(read_since(settings, topic, since))
    records = (msgspec.json.decode(one.value, type=DecisionRecord) for one in logged)
    wanted = [
        record
        for record in records
        if (since is None or record.decided_at >= since) and (until is None or record.decided_at < until)
    ]
    return sorted(wanted, key=lambda record: (record.decided_at, record.decision_id))[-last:]
