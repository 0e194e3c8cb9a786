"""encode_codes against its plain-torch twin and against float64."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsae_core import ops, reference

SHAPES = [  # E, T, H, d, F
    (1, 1, 1, 1, 1),
    (1, 1, 1, 7, 31),
    (2, 1, 3, 64, 64),
    (3, 5, 2, 7, 33),
    (1, 13, 1, 65, 32),
    (5, 5, 1, 130, 100),
    (2, 6, 2, 16, 1000),
    (4, 3, 29, 8, 5),
    (40, 7, 3, 80, 200),
]


def random_inputs(shape: tuple[int, int, int, int, int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    E, T, H, d, F = shape
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(E, T, H, d, generator=g)
    return z, torch.randn(H, d, F, generator=g), torch.randn(H, F, generator=g)


def assert_right_up_to_rounding(
    z: Tensor, dictionary: Tensor, bias: Tensor, threshold: float, codes: Tensor, values: Tensor
) -> None:
    """Every value is within float32's rounding of the float64 truth, and every code has the largest activation."""
    z64, dictionary64, bias64 = z.double(), dictionary.double(), bias.double()
    truth = torch.relu(torch.einsum("ethd,hdf->ethf", z64, dictionary64) + bias64)
    magnitude = torch.einsum("ethd,hdf->ethf", z64.abs(), dictionary64.abs()) + bias64.abs()
    rounding = (z.shape[-1] + 2) * torch.finfo(torch.float32).eps * magnitude.amax(-1)
    assert ((values - truth.amax(-1)).abs() <= rounding).all()
    active = codes != ops.INACTIVE
    assert torch.equal(active, values > threshold)
    winners = truth.gather(-1, codes.clamp_min(0).long()[..., None])[..., 0]
    assert (winners >= truth.amax(-1) - 2 * rounding)[active].all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("threshold", [0.0, 3.0])
def test_right_up_to_rounding(shape: tuple[int, int, int, int, int], threshold: float) -> None:
    z, dictionary, bias = random_inputs(shape)
    codes, values = ops.encode_codes(z, dictionary, bias, threshold)
    assert_right_up_to_rounding(z, dictionary, bias, threshold, codes, values)


@settings(deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3, st.integers(1, 70), st.integers(1, 70)),
    span=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    threshold=st.sampled_from([0.0, 1.0, 4.0]),
)
def test_exact_on_small_integers(shape: tuple[int, int, int, int, int], span: int, seed: int, threshold: float) -> None:
    """Sums of small integers are exact in float32, and many tie: codes must equal the reference's to the last one."""
    E, T, H, d, F = shape
    g = torch.Generator().manual_seed(seed)
    z, dictionary, bias = (
        torch.randint(-span, span + 1, size, generator=g).float() for size in [(E, T, H, d), (H, d, F), (H, F)]
    )
    codes, values = ops.encode_codes(z, dictionary, bias, threshold)
    expected_codes, expected_values = reference.encode_codes(z, dictionary, bias, threshold)
    assert torch.equal(codes, expected_codes)
    assert torch.equal(values, expected_values)


@pytest.mark.parametrize("feature", [0, 15, 16, 31, 32, 33, 69])
def test_every_place_of_a_panel_can_win(feature: int) -> None:
    dictionary = torch.ones(1, 3, 70)
    dictionary[:, :, feature] = 2
    codes, _ = ops.encode_codes(torch.ones(14, 1, 1, 3), dictionary, torch.zeros(1, 70), 0.0)
    assert codes.flatten().tolist() == [feature] * 14


def strided_views(z: Tensor) -> dict[str, Tensor]:
    """The same [E, T, H, d] numbers in other memory layouts."""
    E, T, H, d = z.shape
    roomy = torch.full((E, 2 * T, H + 1, d + 3), float("nan"))
    roomy[:, ::2, 1:, 2:-1] = z
    return {
        "heads first": z.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3),
        "positions first": z.transpose(0, 1).contiguous().transpose(0, 1),
        "a slice of a larger tensor": roomy[:, ::2, 1:, 2:-1],
    }


@pytest.mark.parametrize("layout", ["heads first", "positions first", "a slice of a larger tensor"])
def test_reads_any_layout_of_z(layout: str) -> None:
    z, dictionary, bias = random_inputs((4, 5, 3, 66, 40))
    view = strided_views(z)[layout]
    assert torch.equal(view, z)
    assert not view.is_contiguous()
    for got, expected in zip(
        ops.encode_codes(view, dictionary, bias, 1.0), ops.encode_codes(z, dictionary, bias, 1.0), strict=True
    ):
        assert torch.equal(got, expected)


def test_reads_an_expanded_z_and_a_strided_dictionary() -> None:
    z, dictionary, bias = random_inputs((1, 1, 3, 10, 40))
    expanded = z.expand(6, 5, 3, 10)
    strided = dictionary.transpose(1, 2).contiguous().transpose(1, 2)
    strided_bias = bias.T.contiguous().T
    assert not strided.is_contiguous()
    assert not strided_bias.is_contiguous()
    codes, values = ops.encode_codes(expanded, strided, strided_bias, 0.5)
    expected_codes, expected_values = ops.encode_codes(z, dictionary, bias, 0.5)
    assert torch.equal(codes, expected_codes.expand(6, 5, 3))
    assert torch.equal(values, expected_values.expand(6, 5, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_head_outputs(dtype: torch.dtype) -> None:
    """They are converted exactly, so the results are those of the same numbers in float32."""
    z, dictionary, bias = random_inputs((4, 5, 3, 66, 40))
    z = z.to(dtype)
    for got, expected in zip(
        ops.encode_codes(z, dictionary, bias, 1.0), ops.encode_codes(z.float(), dictionary, bias, 1.0), strict=True
    ):
        assert torch.equal(got, expected)
        assert got.dtype in (torch.int32, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_precision_number(dtype: torch.dtype) -> None:
    """All 65536 bit patterns, subnormal and infinite ones too, seen through +1 and -1."""
    z = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).reshape(-1, 1, 1, 1)
    codes, values = ops.encode_codes(z, torch.tensor([[[1.0, -1.0]]]), torch.zeros(1, 2), 0.0)
    number = torch.where(z.isnan(), 0, z).float().flatten()
    assert torch.equal(values.flatten(), number.abs())
    assert torch.equal(codes.flatten(), torch.where(number == 0, ops.INACTIVE, (number < 0).int()))


@pytest.mark.parametrize("shape", [(0, 3, 2, 4, 5), (3, 0, 2, 4, 5), (3, 2, 0, 4, 5)], ids=str)
def test_nothing_to_encode(shape: tuple[int, int, int, int, int]) -> None:
    codes, values = ops.encode_codes(*random_inputs(shape), 0.0)
    assert codes.shape == values.shape == shape[:3]


def test_a_nan_head_output_touches_no_other() -> None:
    z, dictionary, bias = random_inputs((5, 5, 2, 20, 50))
    spoilt = z.clone()
    spoilt[1, 2, 0] = float("nan")
    codes, values = ops.encode_codes(spoilt, dictionary, bias, 0.0)
    expected_codes, expected_values = ops.encode_codes(z, dictionary, bias, 0.0)
    expected_codes[1, 2, 0], expected_values[1, 2, 0] = ops.INACTIVE, 0.0
    assert torch.equal(codes, expected_codes)
    assert torch.equal(values, expected_values)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    z, dictionary, bias = random_inputs((50, 7, 9, 64, 100))
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(ops.encode_codes(z, dictionary, bias, 0.5))
    finally:
        torch.set_num_threads(threads)
    for codes, values in results[1:]:
        assert torch.equal(codes, results[0][0])
        assert torch.equal(values, results[0][1])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_never_holds_all_activations() -> None:
    """20000 head outputs x 1024 features are 80 MB of activations, which the reference holds twice or more."""
    script = """
import sys
from pathlib import Path
import torch
from dsae_core import ops, reference

def kib(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])

encode = {"ops": ops, "reference": reference}[sys.argv[1]].encode_codes
z, dictionary, bias = torch.randn(20000, 1, 1, 64), torch.randn(1, 64, 1024), torch.randn(1, 1024)
encode(z[:100], dictionary, bias, 0.0)
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = kib("VmRSS")
encode(z, dictionary, bias, 0.0)
print(kib("VmHWM") - before)
"""

    def growth(module: str) -> int:
        command = [sys.executable, "-c", script, module]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert growth("reference") > 80_000
    assert growth("ops") < 4_000


def test_opcheck() -> None:
    z, dictionary, bias = random_inputs((2, 3, 4, 5, 6))
    torch.library.opcheck(torch.ops.dsae.encode_codes.default, (z, dictionary, bias, 0.5))


def test_errors() -> None:
    z, dictionary, bias = random_inputs((2, 3, 4, 5, 6))
    refused = [
        ((z[0], dictionary, bias, 0.0), r"z must be \[examples, positions, heads, d\], not of shape \[3, 4, 5\]"),
        ((z, dictionary[:3], bias, 0.0), r"dictionary must be .* = \[4, 5, features\], not of shape \[3, 5, 6\]"),
        ((z, dictionary[:, :2], bias, 0.0), r"dictionary must be .* not of shape \[4, 2, 6\]"),
        ((z, dictionary[0], bias, 0.0), r"dictionary must be .* not of shape \[5, 6\]"),
        ((z, dictionary[..., :0], bias[:, :0], 0.0), "n_features must be between 1"),
        ((z, dictionary, bias[:, :5], 0.0), r"bias must be \[heads, features\] = \[4, 6\], not of shape \[4, 5\]"),
        ((z.double(), dictionary, bias, 0.0), "z must be float32, float16 or bfloat16, not Double"),
        ((z, dictionary.half(), bias, 0.0), "dictionary must be float32, not Half"),
        ((z, dictionary, bias.int(), 0.0), "bias must be float32, not Int"),
        ((z.transpose(2, 3).contiguous().transpose(2, 3), dictionary, bias, 0.0), "must be contiguous .stride 1"),
        ((z, dictionary, bias, -0.1), "threshold must be 0 or more, not -0.1"),
        ((z, dictionary, bias, float("nan")), "threshold must be 0 or more, not nan"),
    ]
    for arguments, message in refused:
        with pytest.raises(RuntimeError, match=f"encode_codes: .*{message}"):
            ops.encode_codes(*arguments)
