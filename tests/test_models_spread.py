"""Models that accelerate spreads over devices: here the CPU and the disk, which go the ways that several GPUs do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from saved_model import save_model

from dsae_core.baselines import BASELINES
from dsae_core.circuits import Head
from dsae_core.discovery import discover
from dsae_core.errors import UserError
from dsae_core.interventions import interchange_effects
from dsae_core.models import LanguageModel, collect_head_outputs, load_model, output_weights, tokenize
from dsae_core.paths import path_effects
from dsae_core.prompts import PromptPairs
from dsae_core.tasks import ioi

SPREADS = {
    "all on the CPU": {"": "cpu"},
    "last layers on the disk": {
        "model.embed_tokens": "cpu",
        "model.rotary_emb": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "cpu",
        "model.layers.2": "disk",
        "model.norm": "disk",
        "lm_head": "disk",
    },
    "all but one layer on the disk": {
        "model.embed_tokens": "disk",
        "model.rotary_emb": "cpu",
        "model.layers.0": "disk",
        "model.layers.1": "cpu",
        "model.layers.2": "disk",
        "model.norm": "disk",
        "lm_head": "disk",
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("spread"), layers=3)


@pytest.fixture(scope="module")
def whole(folder: Path) -> LanguageModel:
    return load_model(str(folder))


@pytest.fixture(scope="module")
def pairs(whole: LanguageModel) -> PromptPairs:
    return ioi(whole.tokenizer, 6, 1000)


@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
def test_a_spread_model_gives_what_a_whole_one_gives(
    spread: dict[str, str], folder: Path, whole: LanguageModel, pairs: PromptPairs
) -> None:
    model = load_model(str(folder), device=spread)
    on_disk = {name for name, weight in model.module.named_parameters() if weight.is_meta}
    assert bool(on_disk) == ("disk" in spread.values())
    assert model.device == torch.device("cpu")
    assert (model.digest, model.n_layers, model.n_heads) == (whole.digest, whole.n_layers, whole.n_heads)
    assert torch.equal(output_weights(model), output_weights(whole))
    outputs, expected = (collect_head_outputs(m, tokenize(m, pairs.positive), routes=True) for m in (model, whole))
    assert torch.equal(outputs.z, expected.z)
    assert torch.equal(outputs.residual_norm, expected.residual_norm)
    assert outputs.routes is not None
    assert expected.routes is not None
    assert torch.equal(outputs.routes.attention, expected.routes.attention)
    assert torch.equal(discover(model, pairs).node_scores, discover(whole, pairs).node_scores)

    heads: list[Head] = [(0, 0), (1, 1), (2, 2)]
    effects = [interchange_effects(m, pairs, ablation=how).effects for m in (model, whole) for how in ("mean", "zero")]
    assert torch.equal(effects[0], effects[2])
    assert torch.equal(effects[1], effects[3])
    assert path_effects(model, pairs, heads) == path_effects(whole, pairs, heads)
    for name in ("attribution", "hisp", "ig5", "eap"):
        assert torch.equal(*(BASELINES[name].score(m, pairs, 0) for m in (model, whole))), name
    # Nothing of this has brought a weight back for good.
    assert {name for name, weight in model.module.named_parameters() if weight.is_meta} == on_disk


def test_auto_finds_room_for_every_layer(folder: Path, whole: LanguageModel, pairs: PromptPairs) -> None:
    model = load_model(str(folder), device="auto")
    assert torch.allclose(output_weights(model).cpu(), output_weights(whole))
    outputs, expected = (collect_head_outputs(m, tokenize(m, pairs.positive)) for m in (model, whole))
    assert torch.allclose(outputs.z.cpu(), expected.z, atol=1e-4)


def test_a_weight_on_the_disk_that_is_no_number_is_found(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"not numbers .*model\.layers\.2\.mlp\.up_proj\.weight"):
        load_model(str(tmp_path), device=SPREADS["last layers on the disk"])


def test_other_formats_are_not_spread(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(UserError, match="cannot be spread over devices"):
        load_model(str(file), device="auto")
    with pytest.raises(UserError, match="cuda:1 or auto"):
        load_model(str(file), device="everywhere")
