"""The bodies of the CUDA kernels, run on the CPU by csrc/cpusim, against the plain-torch reference."""

import struct
import subprocess

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


@pytest.mark.parametrize("order", ORDERS)
class TestTheSimulator:
    """Kernels with known faults, and two without."""

    def run(self, kernel: str, order: str) -> subprocess.CompletedProcess[str]:
        command = [str(cpusim.program("self_check")), kernel, str(ORDERS[order])]
        return subprocess.run(command, capture_output=True, text=True)

    def test_runs_a_right_kernel(self, order: str) -> None:
        result = self.run("with_barrier", order)
        assert result.stdout.split() == [str((i + 1) % 70) for i in range(70)]

    def test_exchanges_numbers_in_a_warp(self, order: str) -> None:
        sums = [sum(range(32))] * 32 + [sum(range(32, 64))] * 32 + list(range(64, 70))
        assert self.run("warp_sums", order).stdout.split() == [str(number) for number in sums]

    def test_shows_a_missing_barrier(self, order: str) -> None:
        unwritten = str(np.frombuffer(b"\xcd" * 4, np.int32)[0])
        assert unwritten in self.run("without_barrier", order).stdout.split()

    def test_copies_while_it_runs(self, order: str) -> None:
        assert self.run("copies", order).stdout.split() == ["22", "33", *["0"] * 67, "11"]

    @pytest.mark.parametrize("kernel", ["copies_without_wait", "copies_without_barrier"])
    def test_shows_a_copy_that_is_not_waited_for(self, order: str, kernel: str) -> None:
        unwritten = str(np.frombuffer(b"\xcd" * 4, np.int32)[0])
        assert unwritten in self.run(kernel, order).stdout.split()

    def test_multiplies_like_tensor_cores(self, order: str) -> None:
        """Lane 4 g + j has columns 2 j and 2 j + 1 of rows g and g + 8."""
        of_lanes = [(g + 1 + g + 9) * 10 * (2 * j + 1 + 2 * j + 2) + 2 for g in range(8) for j in range(4)]
        assert self.run("products", order).stdout.split() == [str(number) for number in of_lanes * 2 + [2] * 6]

    @pytest.mark.parametrize(
        ("kernel", "says"),
        [
            ("divergent_barrier", "some threads wait for others that don't come"),
            ("lane_outside_mask", "a *_sync whose mask leaves it out"),
            ("beyond_shared_memory", "heap-buffer-overflow"),
            ("copy_without_end", "a thread ends before its asynchronous copies"),
            ("copy_not_aligned", "an asynchronous copy is not aligned"),
        ],
    )
    def test_reports_a_fault(self, order: str, kernel: str, says: str) -> None:
        result = self.run(kernel, order)
        assert result.returncode != 0
        assert says in result.stderr


def simulate_unique_scores(
    codes: Tensor,
    values: Tensor,
    n_positive: int,
    n_features: int,
    *,
    order: str = "random",
    seed: int = 0,
    bits: int | None = None,
    without: str = "",
) -> tuple[Tensor, Tensor, bool]:
    """Counts, mass, and whether every code was in range. bits: the bitmap's size, all that is of use by default."""
    E, T, H = codes.shape
    bits = bits or max(T * n_features + 31, 32) // 32 * 32
    request = struct.pack("8q", ORDERS[order], seed, bits, E, T, H, n_positive, n_features)
    request += codes.contiguous().numpy().tobytes() + values.contiguous().numpy().tobytes()
    reply = cpusim.run("run_unique_scores", request, without)
    counts = torch.tensor(np.frombuffer(reply[: 4 * H], np.int32))
    mass = torch.tensor(np.frombuffer(reply[4 * H : 8 * H], np.float32))
    return counts, mass, bool(np.frombuffer(reply[8 * H :], np.int32)[0])


def random_codes(E: int, T: int, H: int, F: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(ops.INACTIVE, F, (E, T, H), generator=g, dtype=torch.int32)
    return codes, torch.rand(E, T, H, generator=g)


def assert_like_reference(
    got: tuple[Tensor, Tensor, bool], codes: Tensor, values: Tensor, n_positive: int, n_features: int
) -> None:
    counts, mass, in_range = got
    expected_counts, expected_mass = reference.unique_scores(codes, values, n_positive, n_features)
    assert in_range
    assert torch.equal(counts, expected_counts)
    torch.testing.assert_close(mass, expected_mass, rtol=1e-5, atol=0)


class TestUniqueScores:
    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize(
        ("E", "T", "H", "F", "n_positive", "bits"),
        [
            (1, 1, 1, 1, 1, None),
            (20, 17, 3, 64, 10, None),
            (20, 17, 3, 64, 10, 320),  # four passes
            (12, 40, 2, 7, 9, 32),  # more positions than lanes, more positives than warps, nine passes
            (300, 2, 1, 400, 150, None),  # more negatives than threads
            (4, 70, 2, 30, 3, None),  # three positions a lane, most of their codes unique
            (6, 3, 2, 5, 0, None),
            (6, 3, 2, 5, 6, None),
            (4, 0, 2, 5, 2, None),
        ],
    )
    def test_like_reference(
        self,
        order: str,
        E: int,
        T: int,
        H: int,
        F: int,
        n_positive: int,
        bits: int | None,
    ) -> None:
        codes, values = random_codes(E, T, H, F)
        got = simulate_unique_scores(codes, values, n_positive, F, order=order, bits=bits)
        assert_like_reference(got, codes, values, n_positive, F)

    @settings(deadline=None, max_examples=40)
    @given(
        sizes=st.tuples(st.integers(0, 12), st.integers(0, 35), st.integers(1, 3), st.integers(1, 40)),
        order=st.sampled_from(sorted(ORDERS)),
        seed=st.integers(0, 2**32 - 1),
        words=st.none() | st.integers(1, 8),
        data=st.data(),
    )
    def test_drawn_cases(
        self,
        sizes: tuple[int, int, int, int],
        order: str,
        seed: int,
        words: int | None,
        data: st.DataObject,
    ) -> None:
        codes, values = random_codes(*sizes, seed)
        n_positive, n_features = data.draw(st.integers(0, sizes[0])), sizes[-1]
        got = simulate_unique_scores(
            codes,
            values,
            n_positive,
            n_features,
            order=order,
            seed=seed,
            bits=words and 32 * words,
        )
        assert_like_reference(got, codes, values, n_positive, n_features)

    @pytest.mark.parametrize(("example", "code"), [(0, 5), (0, -2), (3, 5), (3, -2)])
    def test_reports_a_code_out_of_range(self, example: int, code: int) -> None:
        codes, values = random_codes(4, 3, 2, 5)
        codes[example, 1, 1] = code
        assert not simulate_unique_scores(codes, values, 2, 5)[2]

    def test_needs_each_of_its_barriers(self) -> None:
        """Without any one of them, some schedule must give a wrong result: so the tests above would see it missing."""
        # Sixteen codes spread over bitmaps of which every warp clears a part, in two passes.
        codes, values = random_codes(20, 9, 1, 16)
        codes, n_features = torch.where(codes >= 0, codes * 75, codes), 1200
        expected, _ = reference.unique_scores(codes, values, 10, n_features)

        def is_right(order: str, without: str) -> bool:
            got = simulate_unique_scores(codes, values, 10, n_features, order=order, bits=5408, without=without)
            return torch.equal(got[0], expected)

        assert is_right("random", "")
        assert len(list(cpusim.barriers("score_head"))) == 4
        assert cpusim.barriers_without_need("score_head", is_right) == []
