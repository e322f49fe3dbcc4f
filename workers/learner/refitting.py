"""New error rates and lengths out of what was counted and booked, published as versions."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from routing.costs import fit_input_ratios, fit_latencies, fit_lengths
from routing.learning import cautious_rates
from workers.errors import UsageError, WaitableError
from workers.learner.believing import believe
from workers.storage.cell_counts import lock_refits, try_lock_refits
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.error_rates import ErrorRates, RatesVersion
from workers.storage.journal import Journal
from workers.storage.ledger import Ledger
from workers.storage.lengths import LengthCounts, Lengths, LengthsVersion
from workers.storage.llm_journal import LLMJournal
from workers.storage.llms import RATED_STATES, LLMs
from workers.storage.policy_books import PolicyBooks
from workers.storage.sources import Sources
from workers.storage.watches import Watches

#: Error rates outlive, by a day, the decisions made from them: the decisions topic keeps 30 days.
_KEEP_RATES = timedelta(days=31)
#: Lengths are published once so many replies are known, and again when an LLM has gained a fifth and ten.
_LEAST_REPLIES = 20
_GROWTH, _LEAST_NEWS = 1.2, 10.0

log = structlog.get_logger(__name__)


def refit(engine: Engine, *, reason: str, wait: bool = False, release: bool = False) -> int | None:
    """Publish error rates from the counts as they stand; give the version's number.

    ``None``, and nothing is published, where no map is active, the rates in force already say the same, or
    another process is refitting and ``wait`` is not set. Each LLM's rates come from its own counts and the
    map's frozen prior alone. While rates of earlier are held, those of the LLMs they cover stay, unless
    ``release`` is set; a change that is noticed meanwhile makes a new version with the same rates all the
    same: what LLMs are watched against is read anew with each version.
    """
    with transaction(engine) as session:
        fitted = ClusterMaps(session).active()
        if fitted is None:
            return None
        if wait:
            lock_refits(session, fitted.cluster_map.version)
        elif not try_lock_refits(session, fitted.cluster_map.version):
            return None
        names = [found.llm.name for found in LLMs(session).list(states=RATED_STATES)]
        if not names:
            return None
        map_version = fitted.cluster_map.version
        belief = believe(session, map_version, names, sizes=fitted.cluster_map.sizes)
        # Even where the rates stay: they do if all that is new comes from a source that is not believed.
        for name in Sources(session).judge(belief.trust):
            found = belief.trust[name]
            Journal(session).write("source flagged", name, bias=found.bias, compared=found.compared)
            log.warning("source_flagged", source=name, bias=found.bias)
        counts = belief.counts
        standings = LLMJournal(session).standings()
        probing = [name in standings and standings[name].cautious for name in names]
        rates = cautious_rates(fitted.prior, counts.errors, counts.labels, probing=probing)
        current = ErrorRates(session).current(map_version)
        held = None if current is None or release else current.held
        known = current is not None and current.deviations is not None and list(current.llms) == names
        known = known and not (release and current is not None and current.held is not None)
        keep: frozenset[str] = frozenset()
        if current is not None and held is not None:
            keep = _held_llms(session, ErrorRates(session).get(held) or current)
            rates = _hold(rates, names, current.rates, current.llms, keep)
            known = known and not Watches(session).changed_since(current.created_at)
        if known and current is not None and np.array_equal(current.rates, rates):
            return None
        deviations = fitted.prior.deviations(counts.errors, counts.labels)
        if current is not None and current.deviations is not None:
            deviations = _hold(deviations, names, current.deviations, current.llms, keep)
        return ErrorRates(session).publish(
            map_version, names, rates, reason=reason, deviations=deviations, held=held
        )


def _held_llms(session: Session, earlier: RatesVersion) -> frozenset[str]:
    """Give the LLMs whose rates an earlier version tells: not those that took over a name since."""
    renewals = LLMs(session).renewals()
    renewed = {name for name, at in renewals.items() if at is not None and at > earlier.created_at}
    return frozenset(earlier.llms) - renewed


def _hold(
    fresh: NDArray[np.float64],
    names: Sequence[str],
    held: NDArray[np.float64],
    covered: Sequence[str],
    keep: frozenset[str],
) -> NDArray[np.float64]:
    """Give ``fresh`` with the columns of those LLMs to ``keep`` that ``held`` covers taken from there."""
    place = {name: column for column, name in enumerate(covered)}
    both = fresh.copy()
    for column, name in enumerate(names):
        if name in place and name in keep:
            both[:, column] = held[:, place[name]]
    return both


def roll_back_rates(engine: Engine, version: int) -> int:
    """Put the rates of an earlier version in force, as a new one, and hold them; give its number.

    LLMs that joined since go on being learned; of the others learning goes on counting, and its rates wait
    for ``refit`` with ``release``. ``UsageError`` for a version that is not kept, or not of the map in force.
    """
    with transaction(engine) as session:
        active = ClusterMaps(session).active_version()
        earlier = ErrorRates(session).get(version)
        if active is None or earlier is None or earlier.map_version != active:
            raise UsageError(
                f"no version {version} of error rates on the map in force is kept: `uniroute rates history`"
            )
        lock_refits(session, active)
        current = ErrorRates(session).current(active)
        if current is None:  # ruled out: ``earlier`` is of this map
            raise UsageError("no error rates are in force")
        names, rates, deviations = current.llms, current.rates, current.deviations
        keep = _held_llms(session, earlier)
        rates = _hold(rates, names, earlier.rates, earlier.llms, keep)
        if deviations is not None and earlier.deviations is not None:
            deviations = _hold(deviations, names, earlier.deviations, earlier.llms, keep)
        Journal(session).write("rates rolled back", active, version=version, before=current.version)
        return ErrorRates(session).publish(
            active,
            names,
            rates,
            reason=f"rolled back to version {version}",
            deviations=deviations,
            held=version,
        )


def refit_lengths(engine: Engine) -> int | None:
    """Publish how long answers and calls are, and what prompts are billed as; give the version's number.

    ``None``, and nothing is published, where no map is active, too few replies are known, another process is
    refitting, or the version in force covers the same LLMs and none has gained a fifth of its replies since:
    so versions stay few while replies are many. An LLM without replies is taken for what it was registered
    as.
    """
    with transaction(engine) as session:
        fitted = ClusterMaps(session).active()
        if fitted is None or not try_lock_refits(session, fitted.cluster_map.version):
            return None
        map_version, sizes = fitted.cluster_map.version, fitted.cluster_map.sizes
        llms = [found.llm for found in LLMs(session).list(states=RATED_STATES)]
        names = [llm.name for llm in llms]
        usage, timings = LengthCounts(session).read(map_version, names, n_cells=sum(sizes))
        ratios = fit_input_ratios(LengthCounts(session).read_inputs(names))
        replies = usage.replies[: sizes[0]].sum(axis=0)
        if replies.sum() < _LEAST_REPLIES or not _has_moved(
            Lengths(session).current(map_version), names, replies
        ):
            return None
        prior = np.array([llm.expected_output_tokens for llm in llms])
        return Lengths(session).publish(
            map_version,
            names,
            replies=replies,
            lengths=replace(fit_lengths(usage, prior_tokens=prior, sizes=sizes), input_ratios=ratios),
            latencies=fit_latencies(timings),
        )


def _has_moved(current: LengthsVersion | None, names: Sequence[str], replies: NDArray[np.float64]) -> bool:
    if current is None or list(current.llms) != list(names):
        return True
    # Fewer than before are those of another model, which took over the name of one that was retired.
    return bool(np.any((replies > _GROWTH * current.replies + _LEAST_NEWS) | (replies < current.replies)))


def prune_versions(engine: Engine) -> int:
    """Delete what no decision still kept was made from, error rates and lengths of every map; count them.

    What was booked of the usage topic is forgotten with the records that topic no longer keeps.
    """
    keep_since = datetime.now(UTC) - _KEEP_RATES
    with transaction(engine) as session:
        Ledger(session).prune(before=keep_since)
        PolicyBooks(session).prune(before=keep_since)
        return sum(
            versions.prune(map_version, keep_since=keep_since)
            for map_version in ClusterMaps(session).list()
            for versions in (ErrorRates(session), Lengths(session))
        )


class Refitter:
    """Refits once every ``interval_s`` while there is something new, until it is told to stop.

    Now and then it prunes what is no longer needed too. Whatever fails is told, and tried again at the next
    interval.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        interval_s: float,
        prune_interval_s: float = 3600.0,
        refit: Callable[..., int | None] = refit,
        refit_lengths: Callable[[Engine], int | None] = refit_lengths,
        prune: Callable[[Engine], int] = prune_versions,
        clock: Callable[[], float] = time.monotonic,
        on_problem: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        """``on_problem`` runs on the refitter's thread after each try, with ``None`` where all went well."""
        self._engine = engine
        self._interval_s = interval_s
        self._prune_interval_s = prune_interval_s
        self._refit = refit
        self._refit_lengths = refit_lengths
        self._prune = prune
        self._clock = clock
        self._on_problem = on_problem
        self._prune_at = clock()

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set; nothing else ends it."""
        while not stop.wait(self._interval_s):
            self._on_problem(self._try())

    def _try(self) -> str | None:
        """Do what is due; give what went wrong."""
        try:
            version = self._refit(self._engine, reason="feedback")
            if version is not None:
                log.info("error_rates_published", version=version)
            if (version := self._refit_lengths(self._engine)) is not None:
                log.info("lengths_published", version=version)
            if self._clock() >= self._prune_at:
                log.info("versions_pruned", versions=self._prune(self._engine))
                self._prune_at = self._clock() + self._prune_interval_s
        except WaitableError as error:
            log.warning("refit_waits", problem=str(error))
            return str(error)
        except Exception as error:
            log.exception("refit_failed")
            return f"the refit failed: {type(error).__name__}"
        return None
