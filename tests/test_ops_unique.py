"""unique_scores against its plain-torch twin."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsae_core import ops, reference


def random_codes(E: int, T: int, H: int, F: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(ops.INACTIVE, F, (E, T, H), generator=g, dtype=torch.int32)
    return codes, torch.rand(E, T, H, generator=g)


def assert_like_reference(codes: Tensor, values: Tensor, n_positive: int, n_features: int) -> None:
    counts, mass = ops.unique_scores(codes, values, n_positive, n_features)
    expected_counts, expected_mass = reference.unique_scores(codes, values, n_positive, n_features)
    torch.testing.assert_close(counts, expected_counts, rtol=0, atol=0)
    torch.testing.assert_close(mass, expected_mass, rtol=1e-5, atol=0)


@settings(deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 40), st.integers(1, 12)),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_like_reference(sizes: tuple[int, int, int, int], seed: int, data: st.DataObject) -> None:
    codes, values = random_codes(*sizes, seed)
    assert_like_reference(codes, values, data.draw(st.integers(0, sizes[0])), sizes[-1])


@pytest.mark.parametrize("n_positive", [0, 1, 15, 30])
def test_like_reference_at_size(n_positive: int) -> None:
    codes, values = random_codes(30, 17, 50, 200)
    assert_like_reference(codes, values, n_positive, 200)


def test_all_inactive() -> None:
    codes = torch.full((4, 3, 5), ops.INACTIVE, dtype=torch.int32)
    counts, mass = ops.unique_scores(codes, torch.ones(4, 3, 5), 2, 7)
    assert counts.tolist() == [0] * 5
    assert mass.tolist() == [0.0] * 5


def test_reads_any_layout() -> None:
    codes, values = random_codes(7, 5, 20, 6)
    expected = ops.unique_scores(codes, values, 4, 6)
    strided_codes = codes.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    strided_values = values.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided_codes.is_contiguous()
    assert not strided_values.is_contiguous()
    for got, want in zip(ops.unique_scores(strided_codes, strided_values, 4, 6), expected, strict=True):
        assert torch.equal(got, want)


def test_nan_and_negative_values_count_as_nothing() -> None:
    codes = torch.tensor([0, 1, 0, 1], dtype=torch.int32).reshape(2, 2, 1)
    values = torch.tensor([float("nan"), 2.0, -3.0, -1.0]).reshape(2, 2, 1)
    assert_like_reference(codes, values, 2, 2)
    assert ops.unique_scores(codes, values, 2, 2)[1].item() == 1.0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("E", "T", "H", "F", "n_positive"),
    [(20, 17, 270, 64, 10), (1, 1, 1, 1, 1), (9, 40, 33, 70_000, 4), (3, 2, 5, 3_000_000, 2), (5, 0, 4, 3, 2)],
)
def test_cuda_like_reference(E: int, T: int, H: int, F: int, n_positive: int) -> None:
    codes, values = random_codes(E, T, H, min(F, 50))
    codes = torch.where(codes >= 0, codes + F - min(F, 50), codes)
    counts, mass = ops.unique_scores(codes.cuda(), values.cuda(), n_positive, F)
    expected_counts, expected_mass = ops.unique_scores(codes, values, n_positive, F)
    assert torch.equal(counts.cpu(), expected_counts)
    torch.testing.assert_close(mass.cpu(), expected_mass, rtol=1e-6, atol=0)


def test_opcheck() -> None:
    codes, values = random_codes(5, 3, 4, 6)
    torch.library.opcheck(torch.ops.dsae.unique_scores.default, (codes, values, 2, 6))


def test_errors() -> None:
    codes, values = random_codes(5, 3, 4, 6)
    too_large, too_small, in_a_negative = codes.clone(), codes.clone(), codes.clone()
    too_large[0, 2, 3], too_small[1, 0, 0], in_a_negative[4, 2, 1] = 6, -2, 6
    refused = [
        ((codes[0], values, 2, 6), r"codes must be \[examples, positions, heads\], not of shape \[3, 4\]"),
        ((codes, values[:4], 2, 6), r"values must have the shape of codes, \[5, 3, 4\], not \[4, 3, 4\]"),
        ((codes.long(), values, 2, 6), "codes must be int32, not Long"),
        ((codes, values.double(), 2, 6), "values must be float32, not Double"),
        ((codes, values, 6, 6), r"n_positive must be between 0 and the number of examples \(5\), not 6"),
        ((codes, values, -1, 6), "n_positive must be between 0"),
        ((codes, values, 2, 0), "n_features must be between 1 and 16777216, not 0"),
        ((codes, values, 2, 2**24 + 1), "n_features must be between 1 and 16777216, not 16777217"),
        ((too_large, values, 2, 6), r"every code must be -1 \(inactive\) or between 0 and n_features - 1 = 5"),
        ((too_small, values, 2, 6), "every code must be"),
        ((in_a_negative, values, 2, 6), "every code must be"),
    ]
    for arguments, message in refused:
        with pytest.raises(RuntimeError, match=f"unique_scores: {message}"):
            ops.unique_scores(*arguments)
