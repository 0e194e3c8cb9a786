"""Models that are damaged or hostile are refused in a sentence and run nothing; unusual sound ones are read exactly."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_models import PROMPTS, tiny_module, tiny_tokenizer
from test_models_loading import edit_json, write_gguf
from torch import Tensor, nn

from dsae_core import cli
from dsae_core.discovery import discover
from dsae_core.errors import UserError
from dsae_core.models import HeadSite, LanguageModel, collect_head_outputs, load_model, output_weights, tokenize
from dsae_core.prompts import PromptPairs
from fuzz.documents import mutate_json, mutate_text

PAIRS = PromptPairs(
    ("When Mary and John went to the store , John gave", "Anna and John went to the store , Anna gave"),
    ("When Mary and John went to the store , Anna gave", "Anna and John went to the store , Mary gave"),
)
LONGEST_SENTENCE = 700


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSAE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model and, beside it, one as a GGUF file."""
    path = tmp_path_factory.mktemp("sound")
    tiny_module("llama").save_pretrained(path / "folder")
    tiny_tokenizer().save_pretrained(path / "folder")
    write_gguf(path / "tiny.gguf")
    return path


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy of the saved model, to be damaged."""
    return Path(shutil.copytree(sound / "folder", tmp_path / "model"))


def refusal(path: Path) -> str:
    """What load_model says of a model, which must be one sentence."""
    with pytest.raises(UserError) as raised:
        load_model(str(path))
    message = str(raised.value)
    assert "\n" not in message
    assert "Traceback" not in message
    assert len(message) < LONGEST_SENTENCE
    return message


# --- damaged -----------------------------------------------------------------------------------------------


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", **changes)


def bytes_of(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


def weights(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def ids_beyond_the_vocabulary(folder: Path) -> None:
    """A tokenizer whose own vocabulary fits, and that puts an id around each text which does not."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [4000], "tokens": ["<s>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.promise("A damaged model is refused in one sentence, and never scored.")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (bytes_of("model.safetensors", lambda data: data[: len(data) // 2]), "cannot be loaded: .*again"),
        (bytes_of("model.safetensors", lambda data: data[:5]), "cannot be loaded"),
        (bytes_of("model.safetensors", lambda data: b""), "cannot be loaded"),
        (bytes_of("model.safetensors", lambda data: b"\xff" * 7 + b"\x7f" + data[8:]), "cannot be loaded"),
        (bytes_of("model.safetensors", lambda data: data.replace(b'"F32"', b'"F64"', 1)), "cannot be loaded"),
        (bytes_of("model.safetensors", lambda data: data.replace(b"o_proj", b"o_pr0j")), "lacks the weights .*o_proj"),
        (weights(lambda w: w["lm_head.weight"][0].fill_(float("nan"))), "not numbers .* in lm_head"),
        (weights(lambda w: w["model.norm.weight"].fill_(float("-inf"))), r"not numbers .* in model\.norm"),
        (weights(lambda w: [v.mul_(1e30) for n, v in w.items() if "_proj" in n]), "numbers that are not finite"),
        (config(num_attention_heads=2), "other sizes than its config names"),
        (config(num_attention_heads=3), "hidden size .* not a multiple of the number of attention heads"),
        (config(num_attention_heads=0), "cannot be loaded"),
        (config(num_attention_heads="four"), "num_attention_heads"),
        (config(num_key_value_heads=2), "other sizes than its config names"),
        (config(head_dim=16), "other sizes than its config names"),
        (config(num_hidden_layers=2), r"a layer that its config does not name, model\.layers\.2"),
        (config(num_hidden_layers=4), r"lacks the weights model\.layers\.3"),
        (config(num_hidden_layers=10**9), "names 1000000000 layers"),
        (config(vocab_size=12), "other sizes than its config names"),
        (config(rms_norm_eps=float("nan")), "numbers that are not finite"),
        (config(rope_parameters={"rope_type": "default", "rope_theta": float("nan")}), "numbers that are not finite"),
        (config(model_type="gpt2"), "lacks the weights"),
        (ids_beyond_the_vocabulary, "ids up to 4000 and the model embeds only 40"),
    ],
)
def test_a_damaged_folder(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message):
        load_model(str(folder))
    refusal(folder)


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "gguf"]
)
def test_whatever_happened_to_a_file(file: str, sound: Path, tmp_path: Path) -> None:
    """Random damage, the same in every run: a model comes out with the heads it has, or a sentence."""
    random = Random(file)
    folder = Path(shutil.copytree(sound / "folder", tmp_path / "model"))
    source = sound / "tiny.gguf" if file == "gguf" else sound / "folder" / file
    target = tmp_path / "tiny.gguf" if file == "gguf" else folder / file
    whole, refused = source.read_bytes(), 0
    for _ in range(12):
        data = mutate_json(whole, random) if file.endswith(".json") else _damaged(whole, random)
        target.write_bytes(data)
        model = loaded_or_refused(target if file == "gguf" else folder)
        if isinstance(model, str):
            refused += 1
            assert "\n" not in model
            assert len(model) < LONGEST_SENTENCE
        else:
            assert model.n_layers == len(model.sites) == 3
            assert model.n_heads * model.d_head == 32
    assert refused


def loaded_or_refused(path: Path) -> LanguageModel | str:
    try:
        return load_model(str(path))
    except UserError as error:
        return str(error)


def _damaged(data: bytes, random: Random) -> bytes:
    """Cut short, or changed in the first bytes, where the header is, or anywhere."""
    kind = random.randrange(4)
    if kind == 0:
        return data[: random.randrange(len(data))]
    if kind == 1:
        return mutate_text(data[:2000], random) + data[2000:]
    changed = bytearray(data)
    for _ in range(random.choice((1, 3, 20))):
        changed[random.randrange(len(data) if kind == 2 else 2000)] = random.choice((0, 255, random.randrange(256)))
    return bytes(changed)


@pytest.mark.parametrize("keep", [4, 20, 400, 3000, 30_000])
def test_a_gguf_file_cut_short(keep: int, sound: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes((sound / "tiny.gguf").read_bytes()[:keep])
    assert "cannot be loaded" in refusal(tmp_path / "tiny.gguf")


@pytest.mark.promise("A damaged model is refused in one sentence, and never scored.")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"spoilt": ("model.layers.1.mlp.up_proj.weight", float("nan"))}, r"not numbers .* in model\.layers\.1\.mlp"),
        ({"spoilt": ("model.embed_tokens.weight", float("inf"))}, r"not numbers .* in model\.embed_tokens"),
        ({"heads": 0, "key_value_heads": 0}, "cannot be loaded"),
        ({"heads": 3, "key_value_heads": 3}, "cannot be loaded"),
        ({"heads": 5}, "cannot be loaded"),
        ({"heads": 2**31}, "cannot be loaded"),
        ({"key_value_heads": 0}, "cannot be loaded"),
        ({"key_value_heads": 2}, "cannot be loaded"),
        ({"key_value_heads": 3}, "cannot be loaded"),
        ({"key_value_heads": 8}, "cannot be loaded"),
    ],
)
def test_a_damaged_gguf_file(damage: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", **damage)
    assert re.search(message, refusal(tmp_path / "tiny.gguf"))


@pytest.mark.parametrize(
    "name", ["", " ", "a" * 5000, "/" + "a/" * 3000, "~nobody-has-this-name/x", "a\x00b", "\ud800", "a\nb", "/dev/zero"]
)
def test_names_that_can_be_no_model(name: str) -> None:
    with pytest.raises(UserError) as raised:
        load_model(name)
    assert "\n" not in str(raised.value)


def test_the_command_says_it_in_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model.safetensors").write_bytes(b"no weights")
    monkeypatch.setattr(sys, "argv", ["dsae", "discover", "--model", str(folder), "--task", "ioi"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert "cannot be loaded" in captured.err
    assert "Traceback" not in captured.err + captured.out


def test_a_config_that_fits_its_weights_and_cannot_run(tmp_path: Path) -> None:
    """More key/value heads than heads."""
    path = saved(tmp_path / "model", "qwen2", {"num_key_value_heads": 8}, torch.float32)
    assert "cannot be loaded" in refusal(path)


# --- hostile -----------------------------------------------------------------------------------------------


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.path,)


def pickled_weights(folder: Path, trace: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(trace)))


def pickle_named_safetensors(folder: Path, trace: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Touch(trace)))


def pickle_in_the_index(folder: Path, trace: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(trace)))
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "pytorch_model.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pickle_as_hooked(folder: Path, trace: Path) -> None:
    (folder / "model.safetensors").unlink()
    shutil.copy(Path(__file__).parent / "data" / "hooked_tiny" / "config.json", folder / "config.json")
    (folder / "model_final.pth").write_bytes(pickle.dumps(Touch(trace)))


def own_code(folder: Path, trace: Path) -> None:
    classes = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    edit_json(folder / "config.json", model_type="of-its-own", auto_map=classes)
    (folder / "code.py").write_text(f"import pathlib\npathlib.Path({str(trace)!r}).touch()\n")


def own_tokenizer(folder: Path, trace: Path) -> None:
    (folder / "tokenizer.json").unlink()
    edit_json(
        folder / "tokenizer_config.json",
        tokenizer_class="OfItsOwn",
        auto_map={"AutoTokenizer": ["code.OfItsOwn", None]},
    )
    (folder / "code.py").write_text(f"import pathlib\npathlib.Path({str(trace)!r}).touch()\n")


@pytest.mark.promise("A model's files run no code: pickles and code of its own are refused.")
@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (pickled_weights, "weights as pickles, which can run code"),
        (pickle_named_safetensors, "cannot be loaded"),
        (pickle_in_the_index, "cannot be loaded"),
        (pickle_as_hooked, ""),
        (own_code, "brings code of its own, which is not run"),
        (own_tokenizer, "cannot be loaded"),
    ],
)
def test_nothing_of_a_model_is_run(
    folder: Path, tmp_path: Path, arm: Callable[[Path, Path], None], message: str
) -> None:
    trace = tmp_path / "ran"
    arm(folder, trace)
    assert message in refusal(folder)
    assert not trace.exists()


def outside(folder: Path, name: str) -> Path:
    """One of the folder's files, moved out of it."""
    place = folder.parent / "elsewhere"
    place.mkdir(exist_ok=True)
    return (folder / name).rename(place / name)


def index_that_leads_out(name: str) -> Callable[[Path], None]:
    """Sound weights beside the folder, under a name that only its index gives; {} is their folder's path."""

    def lead_out(folder: Path) -> None:
        weights = outside(folder, "model.safetensors")
        keys = load_file(weights).keys()
        save_file({f"unused.{number}": torch.zeros(1) for number in range(9)}, folder / "other.safetensors")
        index = {"metadata": {}, "weight_map": dict.fromkeys(keys, name.format(weights.parent))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return lead_out


def config_that_names_an_index(folder: Path) -> None:
    index_that_leads_out("../elsewhere/model.safetensors")(folder)
    (folder / "model.safetensors.index.json").rename(folder / "its.safetensors.index.json")
    edit_json(folder / "config.json", transformers_weights="its.safetensors.index.json")


def tokenizer_elsewhere(folder: Path) -> None:
    tokenizer = outside(folder, "tokenizer.json")
    tokenizer.rename(tokenizer.with_name("tokenizer.1.0.json"))
    edit_json(folder / "tokenizer_config.json", fast_tokenizer_files=["../elsewhere/tokenizer.1.0.json"])


def vocabulary_elsewhere(folder: Path) -> None:
    tokenizer = json.loads(outside(folder, "tokenizer.json").read_text())
    vocabulary = folder.parent / "elsewhere" / "vocab.json"
    vocabulary.write_text(json.dumps(tokenizer["model"]["vocab"]))
    merges = vocabulary.with_name("merges.txt")
    merges.write_text("#version: 0.2\n")
    named = {"vocab": str(vocabulary), "merges": str(merges)}
    edit_json(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", **named)


def linked(name: str, *, relative: bool = False) -> Callable[[Path], None]:
    def link(folder: Path) -> None:
        target = outside(folder, name)
        (folder / name).symlink_to(Path("..") / "elsewhere" / name if relative else target)

    return link


def linked_chat_template(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "x.jinja").symlink_to("/etc/hostname")


def linked_gguf(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_gguf(folder / "tiny.gguf")
    linked("tiny.gguf")(folder)


def linked_checkpoint(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    shutil.copytree(Path(__file__).parent / "data" / "hooked_tiny", folder, dirs_exist_ok=True)
    edit_json(folder / "config.json", default_prepend_bos=False)
    linked(next(folder.glob("*.pth")).name)(folder)


@pytest.mark.promise("Nothing outside a model's folder is read because a file or a link in it says so.")
@pytest.mark.parametrize(
    ("lead_out", "message"),
    [
        (index_that_leads_out("../elsewhere/model.safetensors"), "names '../elsewhere/model.safetensors', which is no"),
        (index_that_leads_out("{}/model.safetensors"), "which is no file of the model's folder"),
        (config_that_names_an_index, "cannot be loaded"),
        (tokenizer_elsewhere, r"names '../elsewhere/tokenizer\.1\.0\.json', which is no file"),
        (vocabulary_elsewhere, "names '/.*', which is no file"),
        (linked("model.safetensors"), r"model\.safetensors is a link to what is outside"),
        (linked("model.safetensors", relative=True), r"model\.safetensors is a link to what is outside"),
        (linked("config.json"), r"config\.json is a link to what is outside"),
        (linked("tokenizer.json"), r"tokenizer\.json is a link to what is outside"),
        (linked_chat_template, r"x\.jinja is a link to what is outside"),
        (linked_gguf, r"tiny\.gguf is a link to what is outside"),
        (linked_checkpoint, r"\.pth is a link to what is outside"),
    ],
)
def test_nothing_outside_the_folder_is_read(folder: Path, lead_out: Callable[[Path], None], message: str) -> None:
    """Each of these would be a sound model if what the link or the name leads to were read."""
    lead_out(folder)
    with pytest.raises(UserError, match=message):
        load_model(str(folder))
    refusal(folder)


def test_links_that_do_not_lead_out_are_read(folder: Path, tmp_path: Path) -> None:
    """A link to the folder, links within it, a GGUF file that is named itself, and the hub's cache of links."""
    digest = load_model(str(folder)).digest
    (tmp_path / "link").symlink_to(folder)
    assert load_model(str(tmp_path / "link")).digest == digest
    (folder / "config.json").rename(folder / "config.1.json")
    (folder / "config.json").symlink_to("config.1.json")
    assert load_model(str(folder)).digest == digest

    repository = tmp_path / "models--some--model"
    snapshot = repository / "snapshots" / "0123abcd"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, repository / "blobs" / f"{number}")
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / f"{number}")
    assert load_model(str(snapshot)).digest == digest
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    assert "is a link to what is outside" in refusal(snapshot)

    write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "other.gguf").symlink_to(tmp_path / "tiny.gguf")
    assert load_model(str(tmp_path / "other.gguf")).n_layers == 3


def test_the_weights_that_are_read_are_those_that_are_digested(folder: Path) -> None:
    """An index beside the one file of weights does not count, as transformers passes over it."""
    digest = load_model(str(folder)).digest
    tensors = load_file(folder / "model.safetensors")
    save_file({key: 2 * value for key, value in tensors.items()}, folder / "shard.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "shard.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    edit_json(folder / "config.json", transformers_weights="shard.safetensors")
    model = load_model(str(folder))
    assert model.digest == digest
    assert torch.equal(model.module.lm_head.weight, tensors["lm_head.weight"])


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Touch(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


# --- unusual and sound -------------------------------------------------------------------------------------

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "sliding window": ("mistral", {"sliding_window": 3, "num_key_value_heads": 4}),
    "sliding window in every other layer": (
        "gemma2",
        {"sliding_window": 3, "head_dim": 8, "num_key_value_heads": 2, "layer_types": None},
    ),
    "grouped queries": ("llama", {"num_key_value_heads": 2}),
    "one key and value for all": ("qwen2", {"num_key_value_heads": 1}),
    "tied embeddings": ("llama", {"tie_word_embeddings": True}),
    "untied embeddings": ("llama", {"tie_word_embeddings": False}),
}
STORED = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def saved(path: Path, kind: str, options: dict[str, Any], dtype: torch.dtype) -> Path:
    module = tiny_module(kind, **{name: value for name, value in options.items() if value is not None})
    nn.Module.to(module, dtype).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.mark.promise("What the heads write adds up to the attention's output, in every kind of model and weights read.")
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", KINDS)
def test_unusual_models_are_read_exactly(kind: str, stored: str, tmp_path: Path) -> None:
    model = load_model(str(saved(tmp_path / "model", *KINDS[kind], STORED[stored])))
    assert model.module.dtype == torch.float32
    assert_heads_add_up(model, tolerance=1e-4)
    found = discover(model, PAIRS, epochs=2, n_features=8)
    assert found.node_scores.shape == (3, 4)
    assert bool(torch.isfinite(found.node_scores).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_well(dtype: torch.dtype, tmp_path: Path) -> None:
    model = load_model(str(saved(tmp_path / "model", "llama", {"num_key_value_heads": 2}, dtype)), dtype=dtype)
    assert model.module.dtype == dtype
    assert_heads_add_up(model, tolerance=0.05)
    assert bool(torch.isfinite(discover(model, PAIRS, epochs=2, n_features=8).node_scores).all())


def assert_heads_add_up(model: LanguageModel, tolerance: float) -> None:
    """What the heads write, and the bias, is what the attention (and the norm after it) puts out."""
    batch = tokenize(model, PROMPTS)
    seen: dict[int, Tensor] = {}
    handles = [
        _output_of(model, site).register_forward_hook(_keep(seen, layer)) for layer, site in enumerate(model.sites)
    ]
    outputs = collect_head_outputs(model, batch)
    for handle in handles:
        handle.remove()
    written = torch.einsum("etlhd,lhdk->letk", outputs.z, output_weights(model))
    for layer, site in enumerate(model.sites):
        assert site.projection.bias is None
        expected = seen[layer].reshape(written[layer].shape)[batch.mask].float()
        error = (written[layer][batch.mask] - expected).abs().max()
        assert error <= tolerance * expected.abs().max(), layer


def _output_of(model: LanguageModel, site: HeadSite) -> nn.Module:
    return site.norm or model.module.get_submodule(site.path.rpartition(".")[0])


def _keep(seen: dict[int, Tensor], layer: int) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        seen[layer] = (output[0] if isinstance(output, tuple) else output).clone()

    return hook


def test_a_tokenizer_is_that_of_the_folder_and_not_that_of_the_family(tmp_path: Path) -> None:
    model = load_model(str(saved(tmp_path / "model", "qwen2", {"num_key_value_heads": 1}, torch.float32)))
    assert tokenize(model, PROMPTS).tokens[1][-2:] == ("Anna", "gave")


def test_a_window_hides_what_is_outside_it(tmp_path: Path) -> None:
    """The first word cannot reach the last head output of a layer whose window is two tokens, and does without one."""
    changed = ["Mary and John went to the store", "Anna and John went to the store"]
    differences = {}
    for window in (2, 64):
        path = saved(
            tmp_path / f"{window}", "mistral", {"sliding_window": window, "num_key_value_heads": 4}, torch.float32
        )
        model = load_model(str(path))
        z = collect_head_outputs(model, tokenize(model, changed)).z
        differences[window] = float((z[0, -1, 0] - z[1, -1, 0]).abs().max())
    assert differences[2] == 0
    assert differences[64] > 1e-3
