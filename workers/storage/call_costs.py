"""What calls used and cost, by the version of the price that they were charged by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

import msgspec
import numpy as np
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from routing.costs import RatedCall, calibration, rerate_call
from routing.llms import Price
from workers.storage.cost_tables import CallCostRow


@dataclass(frozen=True, slots=True, kw_only=True)
class BookedCall:
    """A call whose usage the endpoint told."""

    tenant: str
    #: Seconds since the epoch.
    decided_at: int
    llm: str
    rated: RatedCall
    #: What the decision had predicted of it; ``None`` where the decision did not foresee this call.
    predicted_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCosts:
    """What the calls of one LLM came to at one version of its price."""

    llm: str
    #: The sum of the calls.
    rated: RatedCall
    #: What decisions had predicted of the calls that answered them at once, and what these calls cost.
    predicted_usd: Decimal
    predicted_cost_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What one LLM's calls cost, and of those that a decision foresaw what it had predicted."""

    settled_usd: float
    predicted_usd: float
    #: What the calls of ``predicted_usd`` cost, and that over it; ``None`` where there were none.
    predicted_cost_usd: float
    calibration: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerating:
    """What one LLM's calls were charged, and what they would be charged at another price."""

    calls: int
    settled_usd: float
    #: ``None`` where the LLM has no such price.
    rerated_usd: float | None


class CallBooks:
    """Sums over calls by tenant, UTC day of the decision, LLM and price version; every write adds."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, calls: Sequence[BookedCall]) -> None:
        """Add calls; the caller sees to it that none is added twice."""
        if calls:
            rows = [_row(call) for call in calls]
            self._session.execute(_ADD, {"rows": msgspec.json.encode(rows).decode()})

    def sums(self, *, since: date | None = None, tenant: str | None = None) -> list[CallCosts]:
        """Give what calls came to, by LLM and price version ascending, of decisions from that day on."""
        kept = CallCostRow
        totals = (
            func.sum(column)
            for column in (
                kept.calls,
                kept.input_tokens,
                kept.cached_tokens,
                kept.output_tokens,
                kept.cost_usd,
                kept.predicted_usd,
                kept.predicted_cost_usd,
            )
        )
        asked = select(kept.llm, kept.price_version, *totals).group_by(kept.llm, kept.price_version)
        if since is not None:
            asked = asked.where(kept.day >= since)
        if tenant is not None:
            asked = asked.where(kept.tenant == tenant)
        found = [
            CallCosts(
                llm=llm,
                rated=RatedCall(
                    calls=int(sums[0]),
                    input_tokens=float(sums[1]),
                    cached_input_tokens=float(sums[2]),
                    output_tokens=float(sums[3]),
                    cost_usd=float(sums[4]),
                    price_version=str(version),
                ),
                predicted_usd=sums[5],
                predicted_cost_usd=sums[6],
            )
            for llm, version, *sums in self._session.execute(asked)
        ]
        return sorted(found, key=lambda one: (one.llm, int(one.rated.price_version)))


def compare_calls(sums: Sequence[CallCosts], llms: Sequence[str]) -> dict[str, Comparison]:
    """Hold what calls cost against what was predicted of them, for each of ``llms``."""
    own = [[one for one in sums if one.llm == name] for name in llms]
    predicted = np.array([float(sum(one.predicted_usd for one in found)) for found in own])
    actual = np.array([float(sum(one.predicted_cost_usd for one in found)) for found in own])
    ratios = calibration(actual, predicted)
    return {
        name: Comparison(
            settled_usd=sum((one.rated.cost_usd for one in own[row]), 0.0),
            predicted_usd=float(predicted[row]),
            predicted_cost_usd=float(actual[row]),
            calibration=None if np.isnan(ratios[row]) else float(ratios[row]),
        )
        for row, name in enumerate(llms)
    }


def rerate_calls(sums: Sequence[CallCosts], prices: Mapping[str, Price]) -> dict[str, Rerating]:
    """Charge calls again at other prices, by LLM."""
    found: dict[str, Rerating] = {}
    for one in sums:
        before = found.get(one.llm, Rerating(calls=0, settled_usd=0.0, rerated_usd=0.0))
        price = prices.get(one.llm)
        rerated = None
        if price is not None:
            rerated = (before.rerated_usd or 0.0) + rerate_call(one.rated, price, version="").cost_usd
        found[one.llm] = Rerating(
            calls=before.calls + one.rated.calls,
            settled_usd=before.settled_usd + one.rated.cost_usd,
            rerated_usd=rerated,
        )
    return found


def _row(call: BookedCall) -> dict[str, object]:
    rated, predicted = call.rated, call.predicted_usd
    return {
        "tenant": call.tenant,
        "day": datetime.fromtimestamp(call.decided_at, tz=UTC).date(),
        "llm": call.llm,
        "price_version": int(rated.price_version),
        "calls": rated.calls,
        "input_tokens": rated.input_tokens,
        "cached_tokens": rated.cached_input_tokens,
        "output_tokens": rated.output_tokens,
        "cost_usd": rated.cost_usd,
        "predicted_usd": predicted or 0.0,
        "predicted_cost_usd": 0.0 if predicted is None else rated.cost_usd,
    }


_SUMS = (
    "calls",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "cost_usd",
    "predicted_usd",
    "predicted_cost_usd",
)
_ADD = text(
    f"INSERT INTO call_costs (tenant, day, llm, price_version, {', '.join(_SUMS)}) "  # noqa: S608 - our own
    f"SELECT tenant, day, llm, price_version, {', '.join(f'sum({name})' for name in _SUMS)} "
    "FROM json_to_recordset(CAST(:rows AS json)) AS rows "
    "(tenant text, day date, llm text, price_version bigint, "
    f"{', '.join(f'{name} numeric' for name in _SUMS)}) "
    # In one order everywhere, so that learners side by side wait for each other and never deadlock.
    "GROUP BY tenant, day, llm, price_version ORDER BY tenant, day, llm, price_version "
    "ON CONFLICT (tenant, day, llm, price_version) DO UPDATE SET "
    + ", ".join(f"{name} = call_costs.{name} + excluded.{name}" for name in _SUMS)
)
