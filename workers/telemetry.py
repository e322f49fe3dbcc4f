"""Logs and metrics: one line of JSON per event on standard error, and counters in Prometheus's format."""

import logging
import sys

import structlog
from prometheus_client import Counter, Gauge, Histogram

#: Messages that a role finished, by topic kind; both labels come from closed sets.
MESSAGES = Counter("uniroute_messages_total", "Messages finished in a committed transaction", ["role"])
DEAD_LETTERS = Counter("uniroute_dead_letters_total", "Messages dead-lettered", ["role", "error_class"])
REJOINS = Counter("uniroute_rejoins_total", "Times a role lost its membership or its broker", ["role"])
IN_FLIGHT = Gauge("uniroute_in_flight", "Messages taken and not yet finished", ["role"])
COMMIT_SECONDS = Histogram("uniroute_commit_seconds", "Duration of a transaction's commit", ["role"])
STATE_PROBLEM = Gauge("uniroute_state_stale", "1 while the state in Postgres cannot be read", ["role"])


def configure_logs(*, level: str = "INFO") -> None:
    """Send structured logs to standard error; prompts and keys are never among them."""
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
