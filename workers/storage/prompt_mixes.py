"""What routed prompts come to, window by window, held against those that their map was fitted on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from routing.learning import MixReport, PromptMix
from workers.storage.learning_tables import PromptMixRow


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptMix:
    """The window that fills, and what came of the last full one."""

    window: PromptMix
    #: Windows that were filled.
    windows: int
    report: MixReport | None
    reported_at: datetime | None


def write_mix(mix: PromptMix) -> dict[str, Any]:
    """Give a mix as JSON has it."""
    return {
        "cells": mix.cells.tolist(),
        "distance": mix.distance,
        "distance_squared": mix.distance_squared,
    }


def read_mix(body: Mapping[str, Any]) -> PromptMix:
    """Read what ``write_mix`` gave."""
    return PromptMix(
        cells=np.array(body["cells"], dtype=np.float64),
        distance=float(body["distance"]),
        distance_squared=float(body["distance_squared"]),
    )


class PromptMixes:
    """Windows by map."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def read(self, map_version: str) -> KeptMix | None:
        """Give what is kept of a map; ``None`` before its first prompt."""
        row = self._session.get(PromptMixRow, map_version)
        return None if row is None else _read(row)

    def lock(self, map_version: str, *, size: int) -> KeptMix:
        """Give what is kept of a map of ``size`` cells, which nobody else moves in this transaction."""
        none = PromptMix(cells=np.zeros(size), distance=0.0, distance_squared=0.0)
        new = insert(PromptMixRow).values(map_version=map_version, window=write_mix(none))
        self._session.execute(new.on_conflict_do_nothing())
        row = self._session.get_one(PromptMixRow, map_version, with_for_update=True, populate_existing=True)
        return _read(row)

    def keep(self, map_version: str, window: PromptMix) -> None:
        """Write a window that was locked."""
        self._session.get_one(PromptMixRow, map_version).window = write_mix(window)

    def report(self, map_version: str, found: MixReport, *, windows: int) -> None:
        """Say what came of a full window."""
        row = self._session.get_one(PromptMixRow, map_version)
        row.report, row.windows, row.reported_at = asdict(found), windows, func.now()


def _read(row: PromptMixRow) -> KeptMix:
    return KeptMix(
        window=read_mix(row.window),
        windows=row.windows,
        report=None if row.report is None else MixReport(**row.report),
        reported_at=row.reported_at,
    )
