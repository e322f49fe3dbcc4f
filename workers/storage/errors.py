"""The errors of storage: what Postgres refused, in one sentence.

::

    WorkersError
    ├── WaitableError         Postgres is away, or asks to try again
    │   ├── NotMigratedError  the tables are missing or of another version
    │   └── NotPermittedError Postgres does not let our user do it
    └── RefusedError          a value that the tables do not take

What an operator mends while the processes run is waited for: no message is given up meanwhile.
"""

from workers.errors import WaitableError, WorkersError


class RefusedError(WorkersError):
    """Postgres refused a value; trying again would be refused again."""

    def __init__(self, problem: str, *, constraint: str | None = None) -> None:
        super().__init__(f"Postgres refused the change: {problem}")
        #: Name of the constraint that was not met, where it was one.
        self.constraint = constraint


class NotMigratedError(WaitableError):
    """The database lacks a table or a column, until somebody migrates it."""

    def __init__(self, problem: str) -> None:
        super().__init__("the schema in Postgres", f"{problem}; run `uniroute db upgrade`")

    def __str__(self) -> str:
        return self.problem


class NotPermittedError(WaitableError):
    """The user of the database URL may not do it, until somebody grants it."""

    def __init__(self, problem: str) -> None:
        fix = "grant what is missing to the user that UNIROUTE_DATABASE_URL names"
        super().__init__("a permission in Postgres", f"{problem}; {fix}")

    def __str__(self) -> str:
        return self.problem
