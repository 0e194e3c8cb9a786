"""A discovery from activations that are on another device runs there: nothing on its way is made or mixed in here."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from elsewhere import ELSEWHERE, MixedDevicesError, watched
from torch import Tensor

from dsae_core import codes, discovery, looking, ops
from dsae_core.flow import Surroundings
from dsae_core.models import HeadOutputs, LanguageModel, Routes, collect_head_outputs, output_weights, tokenize
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery

TENSORS = ("node_scores", "pair_scores", "codes", "activations", "edge_scores")


@pytest.fixture(params=[2**26, 700])
def operators_run_there(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """And there work on all examples at once, or on some."""
    monkeypatch.setattr(codes, "_AT_ONCE", request.param)
    for module in (ops, discovery):
        monkeypatch.setattr(module, "runs_on", lambda _: True)


def assert_the_same(there: Discovery, here: Discovery) -> None:
    for name in TENSORS:
        ours, theirs = getattr(there, name), getattr(here, name)
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            assert ours.device.type == "cpu", name
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


class TestTheDevice:
    def test_computes(self) -> None:
        x = torch.arange(6.0).reshape(2, 3)
        with watched():
            y = (x.to(ELSEWHERE) @ x.T.to(ELSEWHERE)).amax(dim=0)
            assert y.device == ELSEWHERE
            assert torch.equal(y.cpu(), (x @ x.T).amax(dim=0))

    @pytest.mark.parametrize(
        "work", [lambda x: x + torch.arange(3), lambda x: x * x.cpu(), lambda x: x.sum() + torch.zeros(())]
    )
    def test_refuses(self, work: Callable[[Tensor], Tensor]) -> None:
        x = torch.ones(3)
        with watched(), pytest.raises(MixedDevicesError):
            work(x.to(ELSEWHERE))


@pytest.mark.usefixtures("operators_run_there")
@pytest.mark.parametrize(
    ("method", "options", "n_negative", "masked"),
    [
        ("positional", {}, 4, False),
        ("positional", {}, 4, True),
        ("positional", {}, 3, False),
        ("paper", {"epochs": 60}, 4, True),
        ("paper", {"epochs": 2, "pool": "last", "inactive": "zero", "per_union": True}, 3, False),
    ],
)
def test_from_activations(method: str, options: dict[str, object], n_negative: int, masked: bool) -> None:
    g = torch.Generator().manual_seed(0)
    positive, negative = (torch.randn(n, 6, 2, 3, 8, generator=g) for n in (4, n_negative))
    w_o = torch.randn(2, 3, 8, 20, generator=g)
    mask = torch.ones(4 + n_negative, 6, dtype=torch.bool)
    if masked:
        mask[1, :2] = mask[5, :2] = False
    arguments = positive, negative, w_o, mask
    here = discovery.discover_from_activations(*arguments, method=method, seed=3, **options)
    with watched():
        moved = [tensor.to(ELSEWHERE) for tensor in arguments]
        there = discovery.discover_from_activations(*moved, method=method, seed=3, **options)
    assert_the_same(there, here)


@pytest.mark.usefixtures("operators_run_there")
def test_with_what_surrounds_the_heads(tiny_model: LanguageModel) -> None:
    prompts = [f"{a} and {b} ran to the {c}" for a, b in (("Mary", "John"), ("Anna", "Mary")) for c in ("cat", "dog")]
    batch = tokenize(tiny_model, prompts)
    outputs, w_o = collect_head_outputs(tiny_model, batch, routes=True), output_weights(tiny_model)
    routes = outputs.routes
    assert routes is not None

    def discover(outputs: HeadOutputs, w_o: Tensor, mask: Tensor) -> Discovery:
        around = Surroundings.of(outputs, w_o, 2)
        return discovery.discover_from_activations(outputs.z[:2], outputs.z[2:], w_o, mask, surroundings=around)

    here = discover(outputs, w_o, batch.mask)
    assert here.edge_scores is not None
    with watched():
        moved = Routes(*(tensor.to(ELSEWHERE) for tensor in (routes.attention, routes.values, routes.streams)))
        z, norm = outputs.z.to(ELSEWHERE), outputs.residual_norm.to(ELSEWHERE)
        there = discover(
            replace(outputs, z=z, residual_norm=norm, routes=moved), *(t.to(ELSEWHERE) for t in (w_o, batch.mask))
        )
    assert_the_same(there, here)


@pytest.mark.parametrize("method", ["positional", "paper"])
def test_a_device_that_fails_while_it_scores(
    method: str, tiny_model: LanguageModel, tiny_pairs: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole discovery is done again on the CPU, not only the forward passes."""
    expected = discovery.discover(tiny_model, tiny_pairs, method=method, epochs=3)
    batch = tokenize(tiny_model, [*tiny_pairs.positive, *tiny_pairs.negative])
    outputs = collect_head_outputs(tiny_model, batch, routes=method == "positional")
    w_o = output_weights(tiny_model)
    monkeypatch.setattr(looking, "collect_head_outputs", lambda *_, **__: outputs)
    monkeypatch.setattr(looking, "output_weights", lambda _: w_o)
    real = LanguageModel.device.fget
    assert real is not None
    says = property(lambda self: torch.device("cuda") if self is tiny_model else real(self))
    monkeypatch.setattr(LanguageModel, "device", says)
    encode, failures = discovery.encode_codes, [torch.OutOfMemoryError("CUDA out of memory.")]

    def fail_once(*args: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return encode(*args, **options)

    monkeypatch.setattr(discovery, "encode_codes", fail_once)
    with pytest.warns(UserWarning, match=r"The device cuda failed \(CUDA out of memory\)\. The model ran on the CPU"):
        found = discovery.discover(tiny_model, tiny_pairs, method=method, epochs=3)
    assert torch.equal(found.node_scores, expected.node_scores)
    assert len(found.warnings) == 1
