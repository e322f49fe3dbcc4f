"""Every error the routing core raises.

::

    RoutingError
    ├── InvalidInputError        also a ValueError: a value is out of range, misshapen or not finite
    ├── UnknownPriceError        an LLM without a price; never read as 0
    ├── UnknownLLMError          a name that is not in the snapshot
    ├── FingerprintMismatchError embeddings of one embedder offered to a map of another
    ├── NoCandidateError         the caller's limits leave no LLM
    ├── MissingSupportError      logged decisions that say nothing of another policy's choices
    └── InfeasibleError          a batch that its budget and capacities cannot serve
"""

from collections.abc import Mapping, Sequence


class RoutingError(Exception):
    """Root of the tree: catch it to catch everything the core raises on purpose."""


class InvalidInputError(RoutingError, ValueError):
    """A value that cannot be used, named together with what would do."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class UnknownPriceError(RoutingError):
    """An LLM has no price, so no cost of it can be known."""

    def __init__(self, llm: str, field: str) -> None:
        super().__init__(f"LLM {llm!r} has no {field}: set it, 0 included, before prompts are routed")
        self.llm = llm
        self.field = field


class UnknownLLMError(RoutingError):
    """A name that no registered LLM has."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        listed = ", ".join(known) or "none"
        super().__init__(f"no LLM is named {name!r}; registered: {listed}")
        self.name = name
        self.known = known


class FingerprintMismatchError(RoutingError):
    """An embedder that differs from the one a cluster map was fitted on."""

    def __init__(self, differences: tuple[str, ...]) -> None:
        super().__init__(
            f"the embedder is not the one the cluster map was fitted on: {'; '.join(differences)}"
        )
        self.differences = differences


class NoCandidateError(RoutingError):
    """Limits that leave no LLM; ``removed`` tells which limit removed which LLM."""

    def __init__(self, removed: Mapping[str, str]) -> None:
        reasons = "; ".join(f"{llm}: {limit}" for llm, limit in sorted(removed.items()))
        super().__init__(f"no LLM is left within the limits ({reasons or 'no LLM is registered'})")
        self.removed = dict(removed)


class InfeasibleError(RoutingError):
    """Supplies that no assignment of the whole batch fits; ``short`` tells by how much of each."""

    def __init__(self, short: Mapping[str, float]) -> None:
        missing = "; ".join(f"{supply}: {amount:.6g}" for supply, amount in sorted(short.items()))
        super().__init__(f"the batch cannot be assigned within its limits; short of {missing}")
        self.short = dict(short)


class MissingSupportError(RoutingError):
    """Logged decisions that could never have been what another policy would do; ``decisions`` names them.

    No estimate of that policy's value can be had from such a log without guessing, so none is given.
    """

    def __init__(self, decisions: Sequence[str], *, of: int, example: str = "") -> None:
        shown = ", ".join(decisions[:5]) + (", ..." if len(decisions) > 5 else "")  # noqa: PLR2004
        super().__init__(
            f"{len(decisions)} of {of} logged decisions could not have chosen what the policy would choose, "
            f"so they say nothing of it: {shown}{'; ' + example if example else ''}"
        )
        self.decisions = tuple(decisions)
        self.of = of
