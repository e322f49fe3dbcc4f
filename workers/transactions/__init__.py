"""The exactly-once consume-process-produce loop that every role runs, its offsets and its dead letters.

Read ``loop`` first: its contract says what happens at each kind of failure.
"""

from workers.transactions.backoff import Backoff
from workers.transactions.batch_work import BatchWork
from workers.transactions.call_work import CallWork, Start
from workers.transactions.config import LoopConfig
from workers.transactions.dead_letters import dead_letter
from workers.transactions.loop import TransactionLoop
from workers.transactions.observer import Interruption, LoopCounters, LoopObserver
from workers.transactions.offsets import OffsetTracker
from workers.transactions.work import Completion, Grant, Partition, Rejection, Starting, Work

__all__ = [
    "Backoff",
    "BatchWork",
    "CallWork",
    "Completion",
    "Grant",
    "Interruption",
    "LoopConfig",
    "LoopCounters",
    "LoopObserver",
    "OffsetTracker",
    "Partition",
    "Rejection",
    "Start",
    "Starting",
    "TransactionLoop",
    "Work",
    "dead_letter",
]
