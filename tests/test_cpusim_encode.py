"""The CUDA bodies of encode_codes and discover_heads, run on the CPU by csrc/cpusim, against plain torch."""

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

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
ROWS_EACH = [2, 8]
"""Rows of a thread: a block encodes 16 times as many."""

Sizes = tuple[int, int, int, int, int]


def simulate(
    z: Tensor,
    dictionary: Tensor,
    bias: Tensor,
    threshold: float,
    n_positive: int | None = None,
    mask: Tensor | None = None,
    *,
    rows_each: int = 2,
    order: str = "random",
    seed: int = 0,
    bits: int | None = None,
    without: str = "",
) -> tuple[Tensor, ...]:
    """Codes and values; with n_positive, those of discover_heads and its counts and mass, too."""
    (E, T, H, d), F = z.shape, dictionary.shape[-1]
    discover = n_positive is not None
    bits = bits or max(T * F + 31, 32) // 32 * 32
    memory = z.as_strided((z.untyped_storage().nbytes() // z.element_size(),), (1,), 0)[z.storage_offset() :]
    request = struct.pack(
        "13q", discover, rows_each, ORDERS[order], seed, TYPES[z.dtype], E, T, H, d, F, n_positive or 0, bits,
        mask is not None,
    )  # fmt: skip
    request += struct.pack("4qf", len(memory), *z.stride()[:3], threshold)
    request += memory.view(torch.uint8).numpy().tobytes()
    request += dictionary.contiguous().numpy().tobytes() + bias.contiguous().numpy().tobytes()
    if mask is not None:
        request += mask.contiguous().numpy().tobytes()
    reply = np.frombuffer(cpusim.run("run_encode", request, without), np.int32)
    codes, values, counts, mass = np.split(reply, np.cumsum([E * T * H, E * T * H, H]))
    found = torch.tensor(codes).reshape(E, T, H), torch.tensor(values.view(np.float32)).reshape(E, T, H)
    return (*found, torch.tensor(counts), torch.tensor(mass.view(np.float32))) if discover else found


def inputs(sizes: Sizes, seed: int = 0, exact: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """z, dictionary and bias. exact: small integers, whose products are exact in float32 and often tie."""
    E, T, H, d, F = sizes
    g = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        return torch.randint(-2, 3, shape, generator=g).float() if exact else torch.randn(*shape, generator=g)

    return numbers(E, T, H, d), numbers(H, d, F), numbers(H, F)


def assert_equal(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for name, ours, theirs in zip(("codes", "values", "counts"), got, expected, strict=False):
        assert torch.equal(ours, theirs), name
    if len(got) == 4:
        torch.testing.assert_close(got[3], expected[3], rtol=1e-5, atol=0)


class TestEncodeCodes:
    @settings(deadline=None, max_examples=20)
    @given(
        sizes=st.tuples(
            st.integers(1, 7), st.integers(1, 6), st.integers(1, 3), st.integers(1, 70), st.integers(1, 140)
        ),
        dtype=st.sampled_from(list(TYPES)),
        threshold=st.sampled_from([0.0, 2.0, 9.0]),
        rows_each=st.sampled_from(ROWS_EACH),
        order=st.sampled_from(sorted(ORDERS)),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_drawn_cases(
        self, sizes: Sizes, dtype: torch.dtype, threshold: float, rows_each: int, order: str, seed: int
    ) -> None:
        z, dictionary, bias = inputs(sizes, seed)
        got = simulate(z.to(dtype), dictionary, bias, threshold, rows_each=rows_each, order=order, seed=seed)
        assert_equal(got, reference.encode_codes(z, dictionary, bias, threshold))

    @pytest.mark.parametrize("rows_each", ROWS_EACH)
    def test_codes_are_those_of_float64(self, rows_each: int) -> None:
        """Random numbers: wherever the two largest activations differ by more than rounding, the code is right."""
        z, dictionary, bias = inputs((10, 15, 2, 64, 70), exact=False)
        codes, values = simulate(z, dictionary, bias, 1.0, rows_each=rows_each)
        z64, dictionary64, bias64 = z.double(), dictionary.double(), bias.double()
        truth = torch.relu(torch.einsum("ethd,hdf->ethf", z64, dictionary64) + bias64)
        sizes = torch.einsum("ethd,hdf->ethf", z64.abs(), dictionary64.abs()) + bias64.abs()
        rounding = (z.shape[-1] + 2) * torch.finfo(torch.float32).eps * sizes.amax(-1)
        (largest, second), winners = truth.topk(2, dim=-1)[0].unbind(-1), truth.argmax(-1)
        certain = (largest - second > 2 * rounding) & (largest > 1.0 + rounding)
        assert certain.float().mean() > 0.95
        assert torch.equal(codes[certain].long(), winners[certain])
        assert ((values - largest).abs() <= rounding).all()

    @pytest.mark.parametrize("layout", ["heads first", "positions first", "a slice of a larger tensor", "expanded"])
    @pytest.mark.parametrize("dtype", TYPES)
    def test_reads_any_layout_of_z(self, layout: str, dtype: torch.dtype) -> None:
        z, dictionary, bias = inputs((4, 5, 3, 9, 8))
        z = z.to(dtype)
        roomy = torch.full((4, 10, 4, 12), float("nan"), dtype=dtype)
        roomy[:, ::2, 1:, 2:-1] = z
        view = {
            "heads first": z.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3),
            "positions first": z.transpose(0, 1).contiguous().transpose(0, 1),
            "a slice of a larger tensor": roomy[:, ::2, 1:, 2:-1],
            "expanded": z[:1, :1].contiguous().expand(4, 5, 3, 9),
        }[layout]
        assert not view.is_contiguous()
        got = simulate(view, dictionary, bias, 1.0)
        assert_equal(got, reference.encode_codes(view.float(), dictionary, bias, 1.0))

    def test_nan_never_wins_and_touches_no_other_row(self) -> None:
        z, dictionary, bias = inputs((3, 4, 2, 5, 70))
        z[1, 2, 0] = float("nan")
        dictionary[1, 0, 3] = float("nan")
        bias[0, 69] = float("nan")
        assert_equal(simulate(z, dictionary, bias, 0.0), reference.encode_codes(z, dictionary, bias, 0.0))

    def test_infinite_activations_win(self) -> None:
        z, dictionary, bias = inputs((2, 2, 1, 3, 5))
        bias[0, 3] = float("inf")
        codes, values = simulate(z, dictionary, bias, 0.0)
        assert (codes == 3).all()
        assert values.isinf().all()

    def test_half_precision_numbers_of_every_kind(self) -> None:
        """Bit patterns of both types, seen through +1 and -1, is the float that torch makes of it."""
        dictionary, bias = torch.tensor([[[1.0, -1.0]]]), torch.zeros(1, 2)
        patterns = torch.arange(-(2**15), 2**15, 128, dtype=torch.int16)
        special = torch.tensor([0, 1, 0x3FF, 0x400, 0x7BFF, 0x7C00, 0x7C01, 0x7E00, 0x7F80, 0x7FFF], dtype=torch.int16)
        for dtype in (torch.float16, torch.bfloat16):
            z = torch.cat([patterns, special, special - 2**15]).view(dtype).reshape(-1, 1, 1, 1)
            got = simulate(z, dictionary, bias, 0.0, rows_each=8)
            assert_equal(got, reference.encode_codes(z.float(), dictionary, bias, 0.0))

    @pytest.mark.parametrize("rows_each", ROWS_EACH)
    def test_needs_each_of_its_barriers(self, rows_each: int) -> None:
        z, dictionary, bias = inputs((9, 2, 1, 70, 70))
        expected = reference.encode_codes(z, dictionary, bias, 0.0)

        def is_right(order: str, without: str) -> bool:
            codes, values = simulate(z, dictionary, bias, 0.0, rows_each=rows_each, order=order, without=without)
            return torch.equal(codes, expected[0]) and torch.equal(values, expected[1])

        assert is_right("random", "")
        assert len(list(cpusim.barriers("encode_codes"))) == 3
        assert cpusim.barriers_without_need("encode_codes", is_right) == []


class TestDiscoverHeads:
    @settings(deadline=None, max_examples=20)
    @given(
        sizes=st.tuples(
            st.integers(1, 9), st.integers(1, 7), st.integers(1, 2), st.integers(1, 20), st.integers(1, 70)
        ),
        dtype=st.sampled_from(list(TYPES)),
        threshold=st.sampled_from([0.0, 2.0, 9.0]),
        rows_each=st.sampled_from(ROWS_EACH),
        order=st.sampled_from(sorted(ORDERS)),
        seed=st.integers(0, 2**32 - 1),
        words=st.none() | st.integers(1, 6),
        masked=st.booleans(),
        data=st.data(),
    )
    def test_drawn_cases(
        self,
        sizes: Sizes,
        dtype: torch.dtype,
        threshold: float,
        rows_each: int,
        order: str,
        seed: int,
        words: int | None,
        masked: bool,
        data: st.DataObject,
    ) -> None:
        (z, dictionary, bias), n_positive = inputs(sizes, seed), data.draw(st.integers(0, sizes[0]))
        mask = torch.rand(sizes[:2], generator=torch.Generator().manual_seed(seed)) < 0.6 if masked else None
        got = simulate(
            z.to(dtype),
            dictionary,
            bias,
            threshold,
            n_positive,
            mask,
            rows_each=rows_each,
            order=order,
            seed=seed,
            bits=words and 32 * words,
        )
        assert_equal(got, reference.discover_heads(z, dictionary, bias, threshold, n_positive, mask))

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("sizes", [(0, 3, 2, 4, 5), (3, 0, 2, 4, 5), (20, 17, 1, 64, 64)], ids=str)
    def test_like_reference(self, sizes: Sizes, order: str) -> None:
        """No rows at all, and several tiles of rows."""
        arguments = (*inputs(sizes), 1.0, sizes[0] // 2)
        assert_equal(simulate(*arguments, rows_each=8, order=order), reference.discover_heads(*arguments))

    def test_all_masked(self) -> None:
        codes, _, counts, mass = simulate(*inputs((4, 3, 2, 4, 5)), 0.0, 2, torch.zeros(4, 3, dtype=torch.bool))
        assert (codes == ops.INACTIVE).all()
        assert not counts.any()
        assert not mass.any()
