"""What an installation needs before it serves: tables, topics and a default policy."""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from workers.policies import DEFAULT_POLICY, build_policy
from workers.settings import Settings
from workers.storage.engine import make_engine, transaction
from workers.storage.migrate import upgrade
from workers.storage.policies import Policies
from workers.topics import core_topics, create_topics

#: Lambda: 0.01 USD weighs as much as 0.2 in the probability of a wrong answer.
_DEFAULT_ERROR_PER_USD = 20.0


def install(settings: Settings) -> tuple[str, ...]:
    """Run the migrations, create the topics that are missing, and declare a default policy if there is none.

    Safe to call again and from several processes at once; gives the names of the topics that were new.
    """
    upgrade(settings.database_url)
    created = create_topics(settings, core_topics(settings))
    engine = make_engine(settings.database_url, application_name="uniroute-install")
    try:
        with transaction(engine) as session:
            policies = Policies(session)
            if DEFAULT_POLICY not in policies.current():
                set_policy(policies, DEFAULT_POLICY, error_per_usd=_DEFAULT_ERROR_PER_USD)
    finally:
        engine.dispose()
    return created


def keep_signing_key(path: Path) -> str:
    """Give the key kept in ``path``, made there first if there is none; nobody else may read the file.

    The file appears whole or not at all, and of two processes at once the first one's key is kept.
    """
    if not path.exists():
        descriptor, draft = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32))
        with contextlib.suppress(FileExistsError):  # another process was faster
            Path(path).hardlink_to(draft)
        Path(draft).unlink()
    return path.read_text(encoding="ascii")


def set_policy(policies: Policies, name: str, *, error_per_usd: float) -> int:
    """Put a Lagrangian policy in force, give its version; ``InvalidInputError`` for an impossible lambda."""
    body = {"kind": "lagrangian", "error_per_usd": error_per_usd}
    build_policy(name, body)
    return policies.put(name, body)
