"""When an LLM that joins counts as adopted."""

import numpy as np
import pytest

from workers.local.demo.joining import find_adoption


def test_a_share_that_grows_is_final_once_its_hundred_are_near() -> None:
    """0 for 50 prompts, .2 for the next 950: final .2, near from .16 on.

    After i > 100 prompts the mean of the last hundred is .2 (i - 50) / 100, while i <= 150: .16 at i = 130.
    """
    shares = np.repeat([0.0, 0.2], [50, 950])

    assert find_adoption(shares) == (pytest.approx(0.2), 129)


def test_a_share_that_holds_from_the_first_prompt_on() -> None:
    """One refit of a few prompts that says otherwise is averaged out."""
    shares = np.full(400, 0.1)
    shares[250:258] = 0.3  # at most .1 + .2 * 8 / 100 = .116 of the last hundred

    assert find_adoption(shares) == (pytest.approx(0.108), 0)


def test_a_share_that_never_holds_is_no_adoption() -> None:
    """Nor is one of no prompts."""
    assert find_adoption(np.repeat([0.2, 0.1, 0.4], [100, 100, 5]))[1] is not None
    assert find_adoption(np.repeat([0.1, 0.5], [100, 100])[:120])[1] is None
    assert find_adoption(np.zeros(0)) == (0.0, None)
