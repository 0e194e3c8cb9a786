"""discover_heads against its plain-torch twin and against the two operators it joins."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsae_core import ops, reference

Sizes = tuple[int, int, int, int, int]


def small_integers(sizes: Sizes, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """z, dictionary and bias of small integers: their products are exact in float32, and many tie."""
    E, T, H, d, F = sizes
    g = torch.Generator().manual_seed(seed)
    z, dictionary, bias = (
        torch.randint(-2, 3, shape, generator=g).float() for shape in [(E, T, H, d), (H, d, F), (H, F)]
    )
    return z, dictionary, bias


def random_inputs(sizes: Sizes, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    E, T, H, d, F = sizes
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(E, T, H, d, generator=g),
        torch.randn(H, d, F, generator=g),
        torch.randn(H, F, generator=g),
    )


def random_mask(E: int, T: int, seed: int = 0) -> Tensor:
    return torch.rand(E, T, generator=torch.Generator().manual_seed(seed)) < 0.7


def assert_like_reference(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for name, ours, theirs in zip(("codes", "values", "counts"), got, expected, strict=False):
        assert torch.equal(ours, theirs), name
        assert ours.dtype == theirs.dtype
    torch.testing.assert_close(got[3], expected[3], rtol=1e-5, atol=0)


@settings(deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 7), st.integers(0, 5), st.integers(0, 20), st.integers(1, 20), st.integers(1, 40)),
    seed=st.integers(0, 2**32),
    threshold=st.sampled_from([0.0, 2.0, 9.0]),
    masked=st.booleans(),
    data=st.data(),
)
def test_like_reference(sizes: Sizes, seed: int, threshold: float, masked: bool, data: st.DataObject) -> None:
    inputs, n_positive = small_integers(sizes, seed), data.draw(st.integers(0, sizes[0]))
    mask = random_mask(*sizes[:2], seed) if masked else None
    got = ops.discover_heads(*inputs, threshold, n_positive, mask)
    assert_like_reference(got, reference.discover_heads(*inputs, threshold, n_positive, mask))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_is_the_two_operators_in_one(dtype: torch.dtype) -> None:
    z, dictionary, bias = random_inputs((20, 17, 37, 64, 64))
    z, mask = z.to(dtype), random_mask(20, 17)
    codes, values = ops.encode_codes(z, dictionary, bias, 1.0)
    assert (codes != ops.INACTIVE).all()
    codes = codes.masked_fill(~mask[:, :, None], ops.INACTIVE)
    counts, mass = ops.unique_scores(codes, values, 9, 64)
    got = ops.discover_heads(z, dictionary, bias, 1.0, 9, mask)
    for ours, theirs in zip(got, (codes, values, counts, mass), strict=True):
        assert torch.equal(ours, theirs)


def test_one_example() -> None:
    """Without negatives every active code is unique; without positives none is."""
    inputs = small_integers((1, 3, 2, 4, 5))
    codes, values, counts, mass = ops.discover_heads(*inputs, 0.0, 1)
    assert torch.equal(counts, (codes[0] != ops.INACTIVE).sum(0).int())
    assert torch.equal(mass, values[0].amax(0))
    assert not ops.discover_heads(*inputs, 0.0, 0)[2].any()


@pytest.mark.parametrize("how", ["threshold", "mask"])
def test_all_inactive(how: str) -> None:
    inputs = small_integers((4, 3, 5, 4, 6))
    mask = torch.zeros(4, 3, dtype=torch.bool) if how == "mask" else None
    codes, values, counts, mass = ops.discover_heads(*inputs, 1e9 if how == "threshold" else 0.0, 2, mask)
    assert (codes == ops.INACTIVE).all()
    assert (values > 0).any()
    assert counts.tolist() == [0] * 5
    assert mass.tolist() == [0.0] * 5


def test_reads_any_layout() -> None:
    z, dictionary, bias = random_inputs((5, 4, 6, 8, 9))
    mask = random_mask(5, 4)
    expected = ops.discover_heads(z, dictionary, bias, 0.5, 3, mask)
    strided = z.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    strided_mask = mask.T.contiguous().T
    assert not strided.is_contiguous()
    assert not strided_mask.is_contiguous()
    for got, want in zip(ops.discover_heads(strided, dictionary, bias, 0.5, 3, strided_mask), expected, strict=True):
        assert torch.equal(got, want)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    inputs, threads = random_inputs((10, 7, 45, 16, 20)), torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results.append(ops.discover_heads(*inputs, 0.5, 4))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize("masked", [False, True])
def test_opcheck(masked: bool) -> None:
    mask = random_mask(2, 3) if masked else None
    arguments = (*random_inputs((2, 3, 4, 5, 6)), 0.5, 1, mask)
    torch.library.opcheck(torch.ops.dsae.discover_heads.default, arguments)


def test_errors() -> None:
    z, dictionary, bias = random_inputs((2, 3, 4, 5, 6))
    refused = [
        ((z[0], dictionary, bias, 0.0, 1), r"z must be \[examples, positions, heads, d\], not of shape \[3, 4, 5\]"),
        ((z, dictionary[:3], bias, 0.0, 1), r"dictionary must be .* = \[4, 5, features\], not of shape \[3, 5, 6\]"),
        ((z, dictionary, bias[:, :5], 0.0, 1), r"bias must be \[heads, features\] = \[4, 6\], not of shape \[4, 5\]"),
        ((z.double(), dictionary, bias, 0.0, 1), "z must be float32, float16 or bfloat16, not Double"),
        ((z, dictionary.half(), bias, 0.0, 1), "dictionary must be float32, not Half"),
        ((z, dictionary, bias, -1.0, 1), "threshold must be 0 or more, not -1"),
        ((z, dictionary, bias, 0.0, 3), r"n_positive must be between 0 and the number of examples \(2\), not 3"),
        ((z, dictionary, bias, 0.0, 1, torch.ones(3, 2).bool()), r"mask must be \[.*\] = \[2, 3\], not of .* \[3, 2\]"),
        ((z, dictionary, bias, 0.0, 1, torch.ones(2, 3)), "mask must be bool, not Float"),
    ]
    for arguments, message in refused:
        with pytest.raises(RuntimeError, match=f"discover_heads: {message}"):
            ops.discover_heads(*arguments)
