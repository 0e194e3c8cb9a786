"""Direct-path patching against a run where the path is cut open by hand, and where there is no path."""

from __future__ import annotations

import copy

import pytest
import torch

from dsae_core.circuits import Circuit, Edge
from dsae_core.interventions import record_head_inputs
from dsae_core.models import LanguageModel, adapt, tokenize
from dsae_core.paths import path_effects, with_edges
from dsae_core.prompts import PromptPairs

ALL_HEADS = [(layer, head) for layer in range(2) for head in range(4)]


def without_mlps(model: LanguageModel) -> LanguageModel:
    """The tiny model with its MLPs silenced, so that heads are all that writes."""
    module = copy.deepcopy(model.module)
    with torch.no_grad():
        for block in module.model.layers:
            block.mlp.down_proj.weight.zero_()
    return adapt(module, model.tokenizer, "attention only")


def test_every_path_forward_and_none_backward(tiny_model: LanguageModel, solved_pairs: PromptPairs) -> None:
    edges = path_effects(tiny_model, solved_pairs, ALL_HEADS, rows_per_pass=6)
    assert {(e.sender, e.receiver) for e in edges} == {((0, a), (1, b)) for a in range(4) for b in range(4)}
    assert [abs(e.effect) for e in edges] == sorted((abs(e.effect) for e in edges), reverse=True)
    assert edges[0].effect != 0
    assert all(e.low <= e.effect + 1e-5 and e.effect <= e.high + 1e-5 for e in edges)


def test_the_receiver_gets_the_senders_change_and_no_other(
    tiny_model: LanguageModel, solved_pairs: PromptPairs
) -> None:
    """With no heads between and no MLPs, patching all of layer 0 but the sender back to the positive is the path."""
    from dsae_core.interventions import edit_head_outputs, last_logits, run_clean
    from dsae_core.models import TokenBatch
    from dsae_core.paths import _received

    model, n = without_mlps(tiny_model), len(solved_pairs)
    both = tokenize(model, [*solved_pairs.positive, *solved_pairs.negative])
    positive = TokenBatch(both.ids[:n], both.mask[:n], both.tokens[:n])
    negative = TokenBatch(both.ids[n:], both.mask[n:], both.tokens[n:])
    own, _ = record_head_inputs(model, positive)
    sources, _ = record_head_inputs(model, negative)
    found = _received(model, run_clean(model, positive), own, sources, (0, 2), [(1, 1), (1, 3)])
    expected: list[torch.Tensor] = []

    def patch(layer: int, z: torch.Tensor) -> torch.Tensor:
        if layer == 0:
            z = z.clone()
            z[:, :, 2] = sources[0][:, :, 2]
        else:
            expected.append(z.clone())
        return z

    with edit_head_outputs(model, patch):
        last_logits(model, positive.ids, positive.mask)
    assert list(found) == [(1, 1), (1, 3)]
    for (_, head), received in found.items():
        assert torch.allclose(received, expected[0][:, :, head], atol=1e-5)
        assert not torch.allclose(received, own[1][:, :, head], atol=1e-4)


def test_a_sender_that_writes_nothing_has_no_paths(tiny_model: LanguageModel, solved_pairs: PromptPairs) -> None:
    model = without_mlps(tiny_model)
    with torch.no_grad():
        model.module.model.layers[0].self_attn.o_proj.weight[:, model.d_head : 2 * model.d_head] = 0
    edges = path_effects(model, solved_pairs, ALL_HEADS)
    silent = [abs(e.effect) for e in edges if e.sender == (0, 1)]
    assert len(silent) == 4
    assert max(silent) < 1e-5
    assert max(abs(e.effect) for e in edges) > 1e-3


def test_only_sure_edges_are_kept(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from dsae_core.circuits import read_circuit

    edges = [
        Edge((0, 1), (1, 2), 0.3, 0.2, 0.4),
        Edge((0, 1), (1, 3), 0.3, -0.1, 0.7),
        Edge((0, 0), (1, 2), -0.05, -0.08, -0.02),
        Edge((0, 0), (1, 3), 0.01, 0.005, 0.02),
    ]
    circuit = with_edges(Circuit("measured", "tiny", "toy", ((0, 0), (0, 1))), edges, threshold=0.02)
    assert circuit.edges == (edges[0], edges[2])
    assert circuit.provenance["edges"]["paths_tested"] == 4
    assert read_circuit(circuit.save(tmp_path / "c.json")) == circuit


@pytest.mark.parametrize("kept", [0, 1])
def test_edges_follow_the_prompts_order(kept: int, tiny_model: LanguageModel, solved_pairs: PromptPairs) -> None:
    """Dropping a prompt pair changes the effects: they are means over prompts, not over the first alone."""
    one = PromptPairs(
        *(
            column[kept : kept + 1]
            for column in (solved_pairs.positive, solved_pairs.negative, solved_pairs.answer, solved_pairs.distractor)
        )
    )
    whole = {(e.sender, e.receiver): e.effect for e in path_effects(tiny_model, solved_pairs, ALL_HEADS)}
    single = {(e.sender, e.receiver): e.effect for e in path_effects(tiny_model, one, ALL_HEADS)}
    assert max(abs(whole[k] - single[k]) for k in whole) > 1e-4
