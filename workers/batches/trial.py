"""Plans a file without calling anything, and leaves nothing behind."""

import tempfile
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from workers.batches.folders import BatchFolder
from workers.batches.ingest import Lines, ingest
from workers.batches.planning import as_facts, make_plan
from workers.batches.preparing import Texts, make_goal
from workers.batches.purse import Purse
from workers.batches.requests import Options, Wishes
from workers.batches.submission import DEFAULT_WINDOW
from workers.batches.vectors import Vectors
from workers.embedding.loading import open_configured
from workers.errors import UsageError
from workers.router import RoutingView, build_view
from workers.settings import Settings
from workers.storage.engine import transaction
from workers.storage.snapshots import load_state


def plan_file(
    file: Path,
    options: Options,
    *,
    view: RoutingView,
    settings: Settings,
    tenant: str = "",
    window: timedelta = DEFAULT_WINDOW,
) -> dict[str, Any]:
    """Give the plan of a file as facts, with ``bad``, the lines that would be refused.

    Raises ``UsageError`` for a file without a good line, or a policy that is not there.
    """
    with tempfile.TemporaryDirectory(prefix="uniroute-plan-") as name:
        folder = BatchFolder(Path(name))
        wishes = Wishes(batch_id="plan", reply_to=f"{settings.reply_prefix}plan")
        found = ingest(file, folder, wishes, settings)
        if found.good == 0:
            raise UsageError(f"{file} has no good line among {found.bad}")
        with (
            closing(Lines(folder)) as lines,
            closing(Vectors(folder, view.embedder.fingerprint)) as vectors,
        ):
            texts = Texts(lines, wishes, settings)
            while vectors.count < len(lines):
                texts.embed_next(vectors, view.embedder)
            nothing = Decimal(0)
            purse = Purse(
                budget_usd=None if options.budget_usd is None else Decimal(repr(options.budget_usd)),
                spent_usd=nothing,
                reserved_usd=nothing,
                settled_usd=nothing,
                largest_overrun_usd=nothing,
            )
            goal = make_goal(
                options,
                view,
                purse,
                tenant=tenant,
                seconds_left=window.total_seconds(),
                window=settings.batch_window,
            )
            plan = make_plan(lines, vectors, range(len(lines)), view.snapshot, goal)
    return {**as_facts(plan), "bad": found.bad}


def read_view(engine: Engine, settings: Settings) -> RoutingView:
    """Give what lines are decided from now; ``UsageError`` where nothing is published yet."""
    with transaction(engine) as session:
        state = load_state(session)
    view = build_view(state, open_embedder=partial(open_configured, settings))
    if view is None:
        raise UsageError("no cluster map with error rates is in force: run uniroute map fit")
    return view
