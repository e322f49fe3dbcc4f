"""Decides a demonstration's traffic again: unchanged, and with the dearest LLM at twice its price."""

from collections.abc import Sequence
from dataclasses import fields, replace
from statistics import fmean
from typing import Any

from sqlalchemy import Engine

from routing.llms import Price
from workers.messages import DecisionRecord
from workers.replay import plan_from_log, replay
from workers.storage.engine import transaction
from workers.storage.prices import Prices


def decide_again(engine: Engine, records: Sequence[DecisionRecord]) -> dict[str, Any]:
    """Give ``decisions`` and how many were ``identical``, and under ``doubled`` what a price would move.

    That is the share of the dearest LLM (by mean expected USD of a call, of those that got a prompt) as it
    was, and as it would have been at twice its price; ``None`` where nothing was decided.
    """
    found = replay(engine, records)
    report: dict[str, Any] = {"decisions": found.decisions, "identical": found.identical, "doubled": None}
    if not records:
        return report
    dearest = _find_dearest(records)
    with transaction(engine) as session:
        price = Prices(session).current()[dearest].price
    plan = plan_from_log(engine, records, prices={dearest: double(price)}).as_json()
    move = plan["llms"][dearest]
    report["doubled"] = {
        "llm": dearest,
        "share_before": move["before"]["share"],
        "share_after": move["after"]["share"],
    }
    return report


def double(price: Price) -> Price:
    """Give twice a price, in every part of it that is charged."""
    charged = {field.name: getattr(price, field.name) for field in fields(Price) if field.init}
    return replace(price, **{name: 2 * usd for name, usd in charged.items() if usd is not None})


def _find_dearest(records: Sequence[DecisionRecord]) -> str:
    usd: dict[str, list[float]] = {}
    for record in records:
        for one in record.candidates:
            usd.setdefault(one.llm, []).append(one.cost_usd)
    return max({record.llm for record in records}, key=lambda name: (fmean(usd[name]), name))
