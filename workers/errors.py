"""The errors of the workers, and what a loop does on each.

::

    WorkersError
    ├── WaitableError    Kafka, Postgres or an endpoint is away: wait, try again, commit nothing meanwhile
    ├── PoisonError      a message that no retry can mend: dead-letter it with its class and a sentence
    └── UsageError       a person asked for what cannot be done: one sentence with the fix, exit code 2
"""


class WorkersError(Exception):
    """Root of the tree."""


class WaitableError(WorkersError):
    """Something outside is away and is expected back."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what} is away: {problem}")
        self.what = what
        self.problem = problem


class PoisonError(WorkersError):
    """A message that cannot be processed, now or later."""

    def __init__(self, error_class: str, sentence: str) -> None:
        super().__init__(sentence)
        #: One word of a closed set, fit for a metric label.
        self.error_class = error_class
        self.sentence = sentence


class UsageError(WorkersError):
    """A request of a person that cannot be met; its text names the cause and the fix."""
