"""Logs and metrics: one line of JSON per event on standard error, and counters in Prometheus's format."""

import logging
import sys
from collections.abc import Callable, Mapping

import structlog
from prometheus_client import Counter, Gauge, Histogram

MESSAGES = Counter("uniroute_messages_total", "Messages finished in a committed transaction", ["role"])
RECORDS = Counter("uniroute_records_total", "Records produced in a committed transaction", ["role"])
COMMIT_SECONDS = Histogram("uniroute_commit_seconds", "Duration of a transaction", ["role"])
CONSUMED = Counter("uniroute_consumed_total", "Messages taken to be processed", ["role"])
SKIPPED = Counter("uniroute_skipped_total", "Messages delivered again that were finished before", ["role"])
DEAD_LETTERS = Counter("uniroute_dead_letters_total", "Messages dead-lettered", ["role", "error_class"])
HELD = Counter("uniroute_held_total", "Finished messages held for want of a dead-letter topic", ["role"])
FORGOTTEN = Counter("uniroute_forgotten_total", "Messages in flight that another will do again", ["role"])
REPEATED = Counter("uniroute_repeated_calls_total", "Calls begun again after a crash or a move", ["role"])
INTERRUPTIONS = Counter("uniroute_interruptions_total", "Times the clients were renewed", ["role", "cause"])
STATE_PROBLEM = Gauge("uniroute_state_stale", "1 while the state in Postgres cannot be read", ["role"])


class RoleMetrics:
    """Counts what a role's loop reports; every label comes from a closed set.

    Dead letters of our own bugs carry the class of an exception of ours, never text from a message.
    """

    def __init__(
        self, role: str, *, on_shares: Callable[[Mapping[str, float]], None] = lambda _shares: None
    ) -> None:
        self._role = role
        self._on_shares = on_shares

    def consumed(self, topic: str, messages: int) -> None:  # noqa: ARG002 (topics are not a closed set)
        """Count what was taken."""
        CONSUMED.labels(self._role).inc(messages)

    def skipped(self, topic: str, messages: int) -> None:  # noqa: ARG002
        """Count what a predecessor had finished."""
        SKIPPED.labels(self._role).inc(messages)

    def committed(self, messages: int, records: int, seconds: float) -> None:
        """Count a transaction."""
        MESSAGES.labels(self._role).inc(messages)
        RECORDS.labels(self._role).inc(records)
        COMMIT_SECONDS.labels(self._role).observe(seconds)

    def dead_lettered(self, topic: str, error_class: str) -> None:  # noqa: ARG002
        """Count a dead letter."""
        DEAD_LETTERS.labels(self._role, error_class).inc()

    def held(self, topic: str) -> None:  # noqa: ARG002
        """Count what cannot be committed yet."""
        HELD.labels(self._role).inc()

    def forgotten(self, messages: int) -> None:
        """Count what was dropped in flight."""
        FORGOTTEN.labels(self._role).inc(messages)

    def owns(self, shares: Mapping[str, float]) -> None:
        """Pass it on."""
        self._on_shares(shares)

    def repeated(self, topic: str, messages: int) -> None:  # noqa: ARG002
        """Count calls that are made again."""
        REPEATED.labels(self._role).inc(messages)

    def interrupted(self, cause: str) -> None:
        """Count renewed clients."""
        INTERRUPTIONS.labels(self._role, cause).inc()


def configure_logs(*, level: str = "INFO") -> None:
    """Send structured logs to standard error; prompts and keys are never among them.

    kafka-python warns of each task that takes a tenth of a second, as any does on a busy machine: left out.
    """
    logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
