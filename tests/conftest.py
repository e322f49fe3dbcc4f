"""Fixtures that more than one folder of tests needs."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def outcomes_dir() -> Path:
    """The folder of recorded outcomes: ``UNIROUTE_OUTCOMES``, else ``shared/data`` beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("UNIROUTE_OUTCOMES", default))
    if not folder.is_dir():
        pytest.skip(
            "no outcome folders here: set UNIROUTE_OUTCOMES to a folder that holds mmlupro28 and llmrouter9"
        )
    return folder
