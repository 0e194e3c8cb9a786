"""The CUDA bodies of pair_scores, run on the CPU by csrc/cpusim, against the plain-torch reference."""

import struct

import cpusim
import numpy as np
import pytest
import torch
from cpusim import ORDERS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsae_core import ops, reference

pytestmark = pytest.mark.skipif(not cpusim.SOURCES.exists(), reason="installed without its sources")


def simulate(
    codes: Tensor,
    n_positive: int,
    n_features: int,
    *,
    at_once: int = 64,
    splits: int = 1,
    order: str = "random",
    seed: int = 0,
    without: str = "",
) -> tuple[Tensor, bool]:
    """Scores, and whether every code was in range. at_once: positives a launch; splits: blocks a square of heads."""
    E, H = codes.shape
    request = struct.pack("8q", ORDERS[order], seed, E, H, n_positive, n_features, at_once, splits)
    reply = np.frombuffer(
        cpusim.run("run_pair_scores", request + codes.contiguous().numpy().tobytes(), without), np.int32
    )
    return torch.tensor(reply[:-1]).reshape(H, H), bool(reply[-1])


def random_codes(E: int, H: int, F: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(ops.INACTIVE, F, (E, H), generator=g, dtype=torch.int32)


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 9), st.integers(1, 7)),
    order=st.sampled_from(sorted(ORDERS)),
    seed=st.integers(0, 2**32 - 1),
    at_once=st.integers(1, 40),
    splits=st.integers(1, 5),
    data=st.data(),
)
def test_drawn_cases(
    sizes: tuple[int, int, int], order: str, seed: int, at_once: int, splits: int, data: st.DataObject
) -> None:
    codes, n_positive = random_codes(*sizes, seed), data.draw(st.integers(1, sizes[0]))
    scores, in_range = simulate(codes, n_positive, sizes[-1], at_once=at_once, splits=splits, order=order, seed=seed)
    assert in_range
    assert torch.equal(scores, reference.pair_scores(codes, n_positive, sizes[-1]))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("E", "n_positive"), [(20, 10), (64, 32), (33, 33), (97, 1)])
def test_several_squares(E: int, n_positive: int, order: str) -> None:
    """More heads than a square's side."""
    codes = random_codes(E, 70, 4)
    scores, _ = simulate(codes, n_positive, 4, splits=3, order=order)
    assert torch.equal(scores, reference.pair_scores(codes, n_positive, 4))


def test_all_inactive() -> None:
    assert not simulate(torch.full((4, 3), ops.INACTIVE, dtype=torch.int32), 2, 5)[0].any()


def test_the_largest_codes() -> None:
    """Codes are only ever compared, so their size costs nothing."""
    codes, largest = random_codes(20, 5, 6), 2**31 - 2
    spread = torch.where(codes >= 0, largest - codes, codes)
    assert torch.equal(simulate(spread, 9, 2**31 - 1)[0], reference.pair_scores(codes, 9, 6))


@pytest.mark.parametrize(("example", "code"), [(0, 5), (0, -2), (3, 5), (3, -2)])
def test_reports_a_code_out_of_range(example: int, code: int) -> None:
    codes = random_codes(4, 3, 5)
    codes[example, 1] = code
    assert not simulate(codes, 2, 5)[1]


def test_needs_each_of_its_barriers() -> None:
    codes = random_codes(40, 9, 3)
    expected = reference.pair_scores(codes, 25, 3)

    def is_right(order: str, without: str) -> bool:
        return torch.equal(simulate(codes, 25, 3, order=order, without=without)[0], expected)

    assert is_right("random", "")
    assert len(list(cpusim.barriers("pair_scores"))) == 2
    assert cpusim.barriers_without_need("pair_scores", is_right) == []
