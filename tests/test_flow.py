"""What reaches the prediction and who carries the change: cases worked out by hand, and what must always hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dsae_core.flow import Surroundings, change_shares, depth_weight, reach
from dsae_core.models import LanguageModel, Routes, collect_head_outputs, output_weights, tokenize
from dsae_core.prompts import PromptPairs


def one_head_routes(attention: list[Tensor], values: list[Tensor], streams: list[Tensor]) -> Routes:
    """Layers of one head over one prompt: attention [T, T], values [T, d], streams [T, D] a layer."""
    return Routes(
        torch.stack(attention)[:, None, None],
        torch.stack(values)[:, None, :, None],
        torch.stack(streams)[:, None],
    )


def test_reach_worked_out_by_hand() -> None:
    # Two layers, two positions. In layer 1 the last position attends to the first with .5, whose value has length 2;
    # written through the identity that is 1, and the stream there is 4 long: a quarter. Layer 0's own attention
    # only says what can reach layer 0's input, which nothing asks for.
    attention = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    values = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    routes = one_head_routes([attention, attention], [values, values], [torch.zeros(2, 2)] * 2)
    norms = torch.full((2, 1, 2), 4.0)
    found = reach(routes, norms, torch.eye(2).expand(2, 1, 2, 2))
    assert found.shape == (1, 2, 2)
    assert torch.allclose(found[0, 1], torch.tensor([1.0, 1.0]))
    # Written in layer 1 at the first position: no layer is left to move it. In layer 0: layer 1 moves a quarter.
    assert torch.allclose(found[0, 0], torch.tensor([0.25, 0.0]))


def test_reach_adds_up_over_heads_as_lengths_of_unlike_directions_and_ends_at_one() -> None:
    attention = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).expand(2, 1, 2, 2, 2)
    values = torch.ones(2, 1, 2, 2, 1)
    routes = Routes(attention, values, torch.zeros(2, 1, 2, 1))
    w_o = torch.ones(2, 2, 1, 1)
    assert reach(routes, torch.full((2, 1, 2), 10.0), w_o)[0, 0, 0] == pytest.approx(2**0.5 / 10)
    assert reach(routes, torch.full((2, 1, 2), 0.1), w_o)[0, 0, 0] == 1


def test_shares_by_value_worked_out_by_hand() -> None:
    # Layer 1's head copies position 0 to the last position, layer 0's head wrote all of the change at position 0,
    # nothing changes at the last position otherwise: each is charged with the whole change, where it wrote.
    attention = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    own = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    change = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    zero = torch.zeros(2, 2)
    positive = one_head_routes([own, attention], [change, change], [zero, change])
    negative = one_head_routes([own, attention], [zero, zero], [zero, zero])
    z = torch.stack([change, torch.tensor([[3.0, 0.0], [3.0, 0.0]])], dim=1)[None, :, :, None]
    # At position 0 layer 1's head writes too, but nothing is left to take that to the prediction.
    shares, edges = change_shares(positive, negative, z, torch.eye(2).expand(2, 1, 2, 2))
    assert torch.allclose(shares[0, :, :, 0], torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    # All that layer 1's head read, layer 0's head had written.
    assert torch.allclose(edges, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))


def test_shares_by_pattern_go_half_to_who_asked_and_half_to_the_asked() -> None:
    # The head's values stay; its pattern moves from position 1 to position 0 because of what was written before.
    moved, stayed = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    values = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    zero, first = torch.zeros(2, 2), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    positive = one_head_routes([stayed, moved], [first, values], [zero, first * 1e-4])
    negative = one_head_routes([stayed, stayed], [zero, values], [zero, zero])
    late = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    z = torch.stack([first, late], dim=1)[None, :, :, None]
    shares, edges = change_shares(positive, negative, z, torch.eye(2).expand(2, 1, 2, 2))
    assert shares[0, 1, 1, 0] == pytest.approx(1, abs=1e-3)
    # Positions 0 and 1: half for the query at 1, half for the keys; all of the pattern's effect is at key 0.
    assert torch.allclose(shares[0, :, 0, 0], torch.tensor([0.5, 0.5]), atol=1e-3)
    # What it read had changed by 1e-4 of what layer 0 wrote: that head put 1e4 times the change there.
    assert edges[0, 1] == pytest.approx(1e4, rel=1e-3)


def test_shares_of_the_last_layer_and_what_came_in_add_up_to_one(
    tiny_model: LanguageModel, tiny_pairs: PromptPairs
) -> None:
    outputs = collect_head_outputs(
        tiny_model, tokenize(tiny_model, [*tiny_pairs.positive, *tiny_pairs.negative]), routes=True
    )
    w_o = output_weights(tiny_model)
    around = Surroundings.of(outputs, w_o, 3)
    assert outputs.routes is not None
    assert around.shares is not None
    assert around.residual_norm is not None
    streams = outputs.routes.streams[-1, :, -1]
    written = torch.einsum("ehd,hdm->em", outputs.z[:, -1, -1], w_o[-1])
    total = (streams + written)[:3] - (streams + written)[3:]
    came_in = ((streams[:3] - streams[3:]) * total).sum(dim=-1) / total.square().sum(dim=-1)
    assert torch.allclose(around.shares[:, -1, -1].sum(dim=-1) + came_in, torch.ones(3), atol=1e-4)
    assert not around.shares[:, :-1, -1].any()  # after the last layer nothing moves between positions
    assert (around.weight >= 0).all()
    assert (around.weight <= 1).all()
    assert around.shares.shape == (3, 6, 2, 4)
    assert around.edges is not None
    assert not around.edges[4:].any()
    assert not around.edges[:, :4].any()
    assert (around.edges[:4, 4:] > 0).all()


def test_padding_takes_no_part(tiny_model: LanguageModel, tiny_pairs: PromptPairs) -> None:
    def around(*pairs: PromptPairs) -> Surroundings:
        prompts = [p for side in ("positive", "negative") for q in pairs for p in getattr(q, side)]
        outputs = collect_head_outputs(tiny_model, tokenize(tiny_model, prompts), routes=True)
        return Surroundings.of(outputs, output_weights(tiny_model), len(prompts) // 2)

    longer = PromptPairs(("the cat and the cat and the cat saw it",), ("the cat and the dog and the cat saw it",))
    alone, padded = around(tiny_pairs), around(tiny_pairs, longer)
    assert alone.shares is not None
    assert padded.shares is not None
    length = alone.weight.shape[1]
    assert torch.allclose(padded.weight[:3, -length:], alone.weight, atol=1e-4)
    assert torch.allclose(padded.shares[:3, -length:], alone.shares, atol=1e-4)
    assert not padded.weight[:3, :-length].any()
    assert not padded.shares[:3, :-length].any()


def test_emphasis_averages_shares_without_their_sign() -> None:
    shares = torch.tensor([[[[0.3]], [[-0.1]]], [[[0.0]], [[0.2]]]])  # two pairs, two positions, one head
    around = Surroundings(torch.ones(2, 2, 1), shares=shares)
    assert around.emphasis(1.0).item() == pytest.approx((0.4 + 0.2) / 2 + 1e-3)
    assert around.emphasis(0.5).item() == pytest.approx(0.301**0.5)
    assert Surroundings(torch.ones(2, 2, 1)).emphasis(0.5).item() == 1


def test_depth_stands_in_where_nothing_is_known() -> None:
    weight = depth_weight(2, 3, 4)
    assert torch.allclose(weight[0, 0], torch.tensor([1.0, 0.75, 0.5, 0.25]).sqrt())
    assert torch.equal(weight[1, 2], torch.ones(4))
