"""The CUDA bodies of encode_codes and discover_heads, run on the CPU by csrc/cpusim, against plain torch."""

import struct
from typing import Any, NamedTuple

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


class Kernel(NamedTuple):
    """Which kernel encodes.

    Attributes:
        rows_each: rows of a thread, a block encodes 16 times as many; with tensor cores, rows of a tile.
        tiles_each: with tensor cores, how many tiles a block takes one after another; 0 without tensor cores.
        small: whether d and F are filled up to 64; without effect where they are larger.
    """

    rows_each: int
    tiles_each: int = 0
    small: bool = False


FLOAT32 = [Kernel(2), Kernel(8)]
TENSOR = [Kernel(64, 1), Kernel(128, 3), Kernel(128, 2, True)]

LAYOUTS = [
    "heads first", "positions first", "a slice of a larger tensor", "a slice at multiples of 16 bytes", "expanded",
]  # fmt: skip

Sizes = tuple[int, int, int, int, int]


def simulate(*arguments: Any, **options: Any) -> tuple[Tensor, ...]:
    """Codes and values; with n_positive, those of discover_heads and its counts and mass, too."""
    return simulate_and_count(*arguments, **options)[0]


def simulate_and_count(
    z: Tensor,
    dictionary: Tensor,
    bias: Tensor,
    threshold: float,
    n_positive: int | None = None,
    mask: Tensor | None = None,
    kernel: Kernel = FLOAT32[0],
    order: str = "random",
    seed: int = 0,
    bits: int | None = None,
    without: str = "",
) -> tuple[tuple[Tensor, ...], int]:
    """And for how many rows tensor cores left several possible winners."""
    (E, T, H, d), F = z.shape, dictionary.shape[-1]
    discover = n_positive is not None
    bits = bits or max(T * F + 31, 32) // 32 * 32
    memory = z.as_strided((z.untyped_storage().nbytes() // z.element_size(),), (1,), 0)
    request = struct.pack(
        "15q", discover, kernel.rows_each, kernel.tiles_each, kernel.small and max(d, F) <= 64, ORDERS[order], seed,
        TYPES[z.dtype], E, T, H, d, F, n_positive or 0, bits, mask is not None,
    )  # fmt: skip
    request += struct.pack("5qf", len(memory), z.storage_offset(), *z.stride()[:3], threshold)
    request += memory.view(torch.uint8).numpy().tobytes()
    request += dictionary.contiguous().numpy().tobytes() + bias.contiguous().numpy().tobytes()
    if mask is not None:
        request += mask.contiguous().numpy().tobytes()
    reply = np.frombuffer(cpusim.run("run_encode", request, without), np.int32)
    codes, values, counts, mass, rechecked = np.split(reply, np.cumsum([E * T * H, E * T * H, H, H]))
    found: tuple[Tensor, ...] = (
        torch.tensor(codes).reshape(E, T, H),
        torch.tensor(values.view(np.float32)).reshape(E, T, H),
    )
    if discover:
        found = (*found, torch.tensor(counts), torch.tensor(mass.view(np.float32)))
    return found, int(rechecked[0])


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
        kernel=st.sampled_from(FLOAT32 + TENSOR),
        order=st.sampled_from(sorted(ORDERS)),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_drawn_cases(
        self, sizes: Sizes, dtype: torch.dtype, threshold: float, kernel: Kernel, order: str, seed: int
    ) -> None:
        z, dictionary, bias = inputs(sizes, seed)
        got = simulate(z.to(dtype), dictionary, bias, threshold, kernel=kernel, order=order, seed=seed)
        assert_equal(got, reference.encode_codes(z, dictionary, bias, threshold))

    @pytest.mark.parametrize("kernel", FLOAT32 + TENSOR, ids=str)
    def test_codes_are_those_of_float64(self, kernel: Kernel) -> None:
        """Random numbers: wherever the two largest activations differ by more than rounding, the code is right."""
        z, dictionary, bias = inputs((10, 15, 2, 64, 70), exact=False)
        codes, values = simulate(z, dictionary, bias, 1.0, kernel=kernel)
        z64, dictionary64, bias64 = z.double(), dictionary.double(), bias.double()
        truth = torch.relu(torch.einsum("ethd,hdf->ethf", z64, dictionary64) + bias64)
        sizes = torch.einsum("ethd,hdf->ethf", z64.abs(), dictionary64.abs()) + bias64.abs()
        rounding = (z.shape[-1] + 2) * torch.finfo(torch.float32).eps * sizes.amax(-1)
        (largest, second), winners = truth.topk(2, dim=-1)[0].unbind(-1), truth.argmax(-1)
        certain = (largest - second > 2 * rounding) & (largest > 1.0 + rounding)
        assert certain.float().mean() > 0.95
        assert torch.equal(codes[certain].long(), winners[certain])
        assert ((values - largest).abs() <= rounding).all()

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("kernel", [FLOAT32[0], TENSOR[0], TENSOR[2]], ids=str)
    @pytest.mark.parametrize("depth", [9, 20])
    @pytest.mark.parametrize("dtype", TYPES)
    def test_reads_any_layout_of_z(self, layout: str, dtype: torch.dtype, depth: int, kernel: Kernel) -> None:
        z, dictionary, bias = inputs((4, 5, 3, depth, 8))
        z = z.to(dtype)
        roomy = torch.full((4, 10, 4, depth + 3), float("nan"), dtype=dtype)
        roomy[:, ::2, 1:, 2:-1] = z
        aligned = torch.full((4, 5, 4, 32), float("nan"), dtype=dtype)
        aligned[:, :, 1:, 8 : 8 + depth] = z
        view = {
            "heads first": z.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3),
            "positions first": z.transpose(0, 1).contiguous().transpose(0, 1),
            "a slice of a larger tensor": roomy[:, ::2, 1:, 2:-1],
            "a slice at multiples of 16 bytes": aligned[:, :, 1:, 8 : 8 + depth],
            "expanded": z[:1, :1].contiguous().expand(4, 5, 3, depth),
        }[layout]
        assert not view.is_contiguous()
        got = simulate(view, dictionary, bias, 1.0, kernel=kernel)
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
            got = simulate(z, dictionary, bias, 0.0, kernel=Kernel(8))
            assert_equal(got, reference.encode_codes(z.float(), dictionary, bias, 0.0))

    @pytest.mark.parametrize("kernel", FLOAT32, ids=str)
    def test_needs_each_of_its_barriers(self, kernel: Kernel) -> None:
        z, dictionary, bias = inputs((9, 2, 1, 70, 70))
        expected = reference.encode_codes(z, dictionary, bias, 0.0)

        def is_right(order: str, without: str) -> bool:
            codes, values = simulate(z, dictionary, bias, 0.0, kernel=kernel, order=order, without=without)
            return torch.equal(codes, expected[0]) and torch.equal(values, expected[1])

        assert is_right("random", "")
        assert len(list(cpusim.barriers("encode_codes"))) == 3
        assert cpusim.barriers_without_need("encode_codes", is_right) == []


def near_ties(sizes: Sizes, seed: int = 0, distance: float = 1e-4) -> tuple[Tensor, Tensor, Tensor]:
    """Features that differ from one another by about distance, relatively."""
    E, T, H, d, F = sizes
    g = torch.Generator().manual_seed(seed)
    column = torch.randn(H, d, 1, generator=g).abs()
    dictionary = column * (1 + distance * torch.randn(H, d, F, generator=g))
    return torch.randn(E, T, H, d, generator=g).abs(), dictionary, torch.zeros(H, F)


class TestTensorCores:
    """Codes and values are bit for bit those of the float32 kernel."""

    def assert_like_float32(
        self, z: Tensor, dictionary: Tensor, bias: Tensor, kernel: Kernel, order: str = "random", threshold: float = 0.5
    ) -> int:
        expected = simulate(z, dictionary, bias, threshold, kernel=Kernel(8))
        got, rechecked = simulate_and_count(z, dictionary, bias, threshold, kernel=kernel, order=order)
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1].view(torch.int32), expected[1].view(torch.int32))
        return rechecked

    @pytest.mark.parametrize("dtype", TYPES)
    @pytest.mark.parametrize("kernel", TENSOR, ids=str)
    @pytest.mark.parametrize(
        "sizes",
        [
            (1, 1, 2, 1, 1),
            (17, 1, 1, 63, 65),
            (43, 3, 2, 64, 64),
            (43, 3, 1, 80, 63),
            (1, 17, 3, 128, 200),
            (3, 43, 1, 1, 200),
            (0, 3, 2, 4, 5),
        ],
        ids=str,
    )
    def test_odd_shapes(self, sizes: Sizes, kernel: Kernel, dtype: torch.dtype) -> None:
        z, dictionary, bias = inputs(sizes, exact=False)
        self.assert_like_float32(z.to(dtype), dictionary, bias, kernel)

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("kernel", TENSOR, ids=str)
    def test_many_rows(self, kernel: Kernel, order: str) -> None:
        """A thousand of them, of which few have several possible winners."""
        rechecked = self.assert_like_float32(*inputs((100, 10, 1, 64, 64), exact=False), kernel, order)
        assert 0 < rechecked < 100

    @settings(deadline=None, max_examples=30)
    @given(
        sizes=st.tuples(
            st.integers(1, 90), st.integers(1, 3), st.integers(1, 2), st.integers(1, 130), st.integers(1, 140)
        ),
        kernel=st.sampled_from(TENSOR),
        dtype=st.sampled_from(list(TYPES)),
        order=st.sampled_from(sorted(ORDERS)),
        seed=st.integers(0, 2**32 - 1),
        of_z=st.integers(-50, 50),
        of_dictionary=st.integers(-50, 50),
        distance=st.sampled_from([0.0, 1e-7, 1e-5, 1e-3, 1.0]),
    )
    def test_near_ties_of_any_size(
        self,
        sizes: Sizes,
        kernel: Kernel,
        dtype: torch.dtype,
        order: str,
        seed: int,
        of_z: int,
        of_dictionary: int,
        distance: float,
    ) -> None:
        z, dictionary, bias = near_ties(sizes, seed, distance)
        z = (z * 2.0**of_z).to(dtype)
        self.assert_like_float32(z, dictionary * 2.0**of_dictionary, bias, kernel, order, threshold=0.0)

    @pytest.mark.parametrize("kernel", TENSOR, ids=str)
    def test_without_the_second_multiplication_codes_would_be_wrong(self, kernel: Kernel) -> None:
        z, dictionary, bias = near_ties((20, 15, 1, 64, 64), distance=3e-4)
        truth = torch.einsum("ethd,hdf->ethf", z.double(), dictionary.double())
        in_halves = torch.einsum("ethd,hdf->ethf", z.half().double(), dictionary.half().double())
        largest, second = truth.topk(2, dim=-1).values.unbind(-1)
        certain = largest - second > 128 * torch.finfo(torch.float32).eps * largest
        assert certain.float().mean() > 0.4
        winners = truth.argmax(-1)[certain]
        assert (in_halves.argmax(-1)[certain] != winners).float().mean() > 0.3
        (codes, _), rechecked = simulate_and_count(z, dictionary, bias, 0.0, kernel=kernel)
        assert torch.equal(codes[certain].long(), winners)
        assert rechecked == codes.numel()

    @pytest.mark.parametrize("kernel", TENSOR, ids=str)
    @pytest.mark.parametrize("features", [64, 130])
    def test_ties_of_all_features_go_to_the_first(self, features: int, kernel: Kernel) -> None:
        """More than the list of possible winners has room for."""
        z, dictionary, bias = inputs((30, 5, 1, 33, 1), exact=False)
        codes, _ = simulate(z, dictionary.expand(-1, -1, features), bias.expand(-1, features), 0.0, kernel=kernel)
        assert ((codes == 0) | (codes == ops.INACTIVE)).all()
        assert (codes == 0).any()

    @pytest.mark.parametrize("kernel", TENSOR, ids=str)
    def test_rows_of_zeros_are_multiplied_once(self, kernel: Kernel) -> None:
        z, dictionary, bias = inputs((10, 9, 1, 64, 64), exact=False)
        z[3:] = 0
        assert self.assert_like_float32(z, dictionary, torch.zeros_like(bias), kernel) < 10
        assert self.assert_like_float32(z, dictionary, bias, kernel) < 10

    @pytest.mark.parametrize("kernel", TENSOR, ids=str)
    @pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf"), 3e38, -1e25, 1e-40, 0.0])
    def test_numbers_of_every_kind(self, odd: float, kernel: Kernel) -> None:
        """In one row of z alone; in a feature; in a bias."""
        sizes = (13, 6, 2, 20, 40)
        z, dictionary, bias = inputs(sizes, exact=False)
        z[1, 2, 0, 3] = z[7, 1, 1] = odd
        assert self.assert_like_float32(z, dictionary, bias, kernel) <= 30
        z, dictionary, bias = inputs(sizes, exact=False)
        dictionary[0, 3, 7] = odd
        self.assert_like_float32(z, dictionary, bias, kernel)
        z, dictionary, bias = inputs(sizes, exact=False)
        bias[1, 30] = odd
        self.assert_like_float32(z, dictionary, bias, kernel)

    @pytest.mark.parametrize("kernel", TENSOR, ids=str)
    def test_rows_of_zeros_where_a_number_is_infinite_in_halves(self, kernel: Kernel) -> None:
        """Zero times infinity is no number, and the feature's activation is its bias all the same."""
        z, dictionary, bias = inputs((3, 4, 1, 20, 9), exact=False)
        z[0], dictionary[:, 3, 5], bias[:, 5] = 0.0, 1e5, 7.0
        self.assert_like_float32(z, dictionary, bias, kernel)

    def test_a_bias_of_minus_infinity_costs_nothing(self) -> None:
        z, dictionary, bias = inputs((13, 6, 1, 20, 40), exact=False)
        bias[0, 30], dictionary[0, :, 30] = -float("inf"), 1e30
        assert self.assert_like_float32(z, dictionary, bias, TENSOR[0]) < 20

    def test_needs_each_of_its_barriers(self) -> None:
        """Three tiles of two chunks of features, whose small integers leave many possible winners."""
        z, dictionary, bias = inputs((75, 2, 1, 20, 70))
        expected = reference.encode_codes(z, dictionary, bias, 0.0)

        def is_right(order: str, without: str) -> bool:
            got = simulate(z, dictionary, bias, 0.0, kernel=Kernel(64, 3), order=order, without=without)
            return torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])

        assert is_right("random", "")
        assert len(list(cpusim.barriers("encode_codes_tensor"))) == 5
        assert cpusim.barriers_without_need("encode_codes_tensor", is_right) == []

    def test_discover_heads_needs_its_barrier(self) -> None:
        arguments = (*inputs((50, 3, 2, 20, 40)), 0.0, 20)
        expected = reference.discover_heads(*arguments)

        def is_right(order: str, without: str) -> bool:
            got = simulate(*arguments, kernel=Kernel(64, 1), order=order, without=without)
            return all(torch.equal(ours, theirs) for ours, theirs in zip(got[:3], expected[:3], strict=True))

        assert is_right("random", "")
        assert len(list(cpusim.barriers("discover_heads_tensor"))) == 1
        assert cpusim.barriers_without_need("discover_heads_tensor", is_right) == []


class TestDiscoverHeads:
    @settings(deadline=None, max_examples=20)
    @given(
        sizes=st.tuples(
            st.integers(1, 9), st.integers(1, 7), st.integers(1, 2), st.integers(1, 20), st.integers(1, 70)
        ),
        dtype=st.sampled_from(list(TYPES)),
        threshold=st.sampled_from([0.0, 2.0, 9.0]),
        kernel=st.sampled_from(FLOAT32 + TENSOR),
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
        kernel: Kernel,
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
            kernel=kernel,
            order=order,
            seed=seed,
            bits=words and 32 * words,
        )
        assert_equal(got, reference.discover_heads(z, dictionary, bias, threshold, n_positive, mask))

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("sizes", [(0, 3, 2, 4, 5), (3, 0, 2, 4, 5), (20, 17, 1, 64, 64)], ids=str)
    @pytest.mark.parametrize("kernel", [FLOAT32[1], *TENSOR], ids=str)
    def test_like_reference(self, sizes: Sizes, order: str, kernel: Kernel) -> None:
        """No rows at all, and several tiles of rows."""
        arguments = (*inputs(sizes), 1.0, sizes[0] // 2)
        assert_equal(simulate(*arguments, kernel=kernel, order=order), reference.discover_heads(*arguments))

    def test_all_masked(self) -> None:
        codes, _, counts, mass = simulate(*inputs((4, 3, 2, 4, 5)), 0.0, 2, torch.zeros(4, 3, dtype=torch.bool))
        assert (codes == ops.INACTIVE).all()
        assert not counts.any()
        assert not mass.any()
