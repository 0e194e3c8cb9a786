"""pair_scores against its plain-torch twin."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsae_core import ops, reference


def random_codes(E: int, H: int, F: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(ops.INACTIVE, F, (E, H), generator=g, dtype=torch.int32)


@settings(deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 12), st.integers(0, 9), st.integers(1, 7)),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_like_reference(sizes: tuple[int, int, int], seed: int, data: st.DataObject) -> None:
    codes, n_positive = random_codes(*sizes, seed), data.draw(st.integers(0, sizes[0]))
    scores = ops.pair_scores(codes, n_positive, sizes[-1])
    assert torch.equal(scores, reference.pair_scores(codes, n_positive, sizes[-1]))


def test_like_sets_at_size() -> None:
    """More heads than fit one square of the mirrored triangle, more examples than codes."""
    codes = random_codes(60, 150, 20)
    scores = ops.pair_scores(codes, 40, 20)
    assert torch.equal(scores, scores.T)
    columns = codes.T.tolist()
    for h, g in [(0, 0), (0, 149), (63, 64), (64, 63), (149, 2), (100, 100), (130, 70)]:
        pairs = list(zip(columns[h], columns[g], strict=True))
        seen = set(pairs[40:])
        unique = {pair for pair in pairs[:40] if ops.INACTIVE not in pair and pair not in seen}
        assert scores[h, g] == len(unique)


def test_diagonal_is_each_heads_own_unique_codes() -> None:
    codes = random_codes(20, 30, 6)
    counts, _ = ops.unique_scores(codes[:, None], torch.ones(20, 1, 30), 12, 6)
    assert torch.equal(ops.pair_scores(codes, 12, 6).diagonal(), counts)


def test_all_inactive() -> None:
    codes = torch.full((4, 3), ops.INACTIVE, dtype=torch.int32)
    assert not ops.pair_scores(codes, 2, 5).any()


def test_reads_any_layout() -> None:
    codes = random_codes(20, 70, 9)
    strided = codes.T.contiguous().T
    assert not strided.is_contiguous()
    assert torch.equal(ops.pair_scores(strided, 11, 9), ops.pair_scores(codes, 11, 9))
    assert torch.equal(ops.pair_scores(codes[::2, 1:], 6, 9), ops.pair_scores(codes[::2, 1:].contiguous(), 6, 9))


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    codes, threads = random_codes(30, 90, 9), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = ops.pair_scores(codes, 13, 9)
        torch.set_num_threads(3)
        assert torch.equal(ops.pair_scores(codes, 13, 9), alone)
    finally:
        torch.set_num_threads(threads)


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.dsae.pair_scores.default, (random_codes(8, 5, 4), 3, 4))


def test_errors() -> None:
    codes = random_codes(5, 4, 6)
    too_large, too_small = codes.clone(), codes.clone()
    too_large[0, 2], too_small[4, 0] = 6, -2
    refused = [
        ((codes[0], 2, 6), r"codes must be \[examples, heads\], not of shape \[4\]"),
        ((codes.long(), 2, 6), "codes must be int32, not Long"),
        ((codes, 6, 6), r"n_positive must be between 0 and the number of examples \(5\), not 6"),
        ((codes, -1, 6), "n_positive must be between 0"),
        ((codes, 2, 0), "n_features must be between 1 and 16777216, not 0"),
        ((too_large, 2, 6), r"every code must be -1 \(inactive\) or between 0 and n_features - 1 = 5"),
        ((too_small, 2, 6), "every code must be"),
    ]
    for arguments, message in refused:
        with pytest.raises(RuntimeError, match=f"pair_scores: {message}"):
            ops.pair_scores(*arguments)
