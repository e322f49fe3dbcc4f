"""The errors of storage: what Postgres refused, in one sentence.

::

    WorkersError
    ├── WaitableError        Postgres is away, or asks to try again
    └── RefusedError         a value that the tables do not take
        └── NotMigratedError the tables are missing or of another version
"""

from workers.errors import WorkersError


class RefusedError(WorkersError):
    """Postgres refused a value; trying again would be refused again."""

    def __init__(self, problem: str, *, constraint: str | None = None) -> None:
        super().__init__(f"Postgres refused the change: {problem}")
        #: Name of the constraint that was not met, where it was one.
        self.constraint = constraint


class NotMigratedError(RefusedError):
    """The database lacks a table or a column."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; run `uniroute db upgrade`")
