import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.embedding.windows import micro_batches, pad_rows


def test_cuts_by_length_longest_first() -> None:
    """Neighbours in length travel together; equal lengths keep their order."""
    # 100 and 90 (90 >= .75 * 100), then 60 alone as 40 < 45, then 40, then the two 10s.
    batches = micro_batches([10, 100, 40, 10, 90, 60], max_rows=8, max_tokens=1000, least_fill=0.75)

    assert [batch.tolist() for batch in batches] == [[1, 4], [5], [2], [0, 3]]


def test_rows_and_tokens_are_bounded() -> None:
    """Ten texts of 50 tokens: 3 rows where 170 tokens are allowed, 4 where 4 rows are."""
    by_tokens = micro_batches([50] * 10, max_rows=4, max_tokens=170)
    by_rows = micro_batches([50] * 10, max_rows=4, max_tokens=1000)

    assert [len(batch) for batch in by_tokens] == [3, 3, 3, 1]
    assert [len(batch) for batch in by_rows] == [4, 4, 2]


def test_a_text_longer_than_the_bound_travels_alone() -> None:
    """No text is left out for its length."""
    assert [batch.tolist() for batch in micro_batches([9, 500, 8], max_tokens=100)] == [[1], [0, 2]]


@given(
    lengths=st.lists(st.integers(0, 300), max_size=60),
    max_rows=st.integers(1, 8),
    max_tokens=st.integers(1, 600),
    least_fill=st.floats(0, 1),
)
def test_every_text_occurs_once_and_no_batch_breaks_a_bound(
    lengths: list[int], max_rows: int, max_tokens: int, least_fill: float
) -> None:
    """Whatever the lengths, the batches are a partition within the bounds."""
    batches = list(micro_batches(lengths, max_rows=max_rows, max_tokens=max_tokens, least_fill=least_fill))

    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest, shortest = max(lengths[index] for index in batch), min(lengths[index] for index in batch)
        assert 1 <= len(batch) <= max_rows
        assert len(batch) == 1 or len(batch) * longest <= max_tokens
        assert len(batch) == 1 or shortest >= least_fill * longest


def test_pads_on_the_right_with_the_models_own_token() -> None:
    """Short rows are filled with the pad token and masked there."""
    ids, mask = pad_rows([[5, 6, 7], [8]], pad_id=1)

    np.testing.assert_array_equal(ids, [[5, 6, 7], [8, 1, 1]])
    np.testing.assert_array_equal(mask, [[1, 1, 1], [1, 0, 0]])


def test_rows_without_tokens_have_one_masked_column() -> None:
    """No runtime is handed a matrix of width 0."""
    ids, mask = pad_rows([[], []], pad_id=3)

    np.testing.assert_array_equal(ids, [[3], [3]])
    assert not mask.any()


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_empty_texts_are_batched_too(lengths: list[int]) -> None:
    """Texts of no tokens are texts; no texts are no batches."""
    assert sum(len(batch) for batch in micro_batches(lengths)) == len(lengths)
