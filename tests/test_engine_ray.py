"""The engine ray against the local one, with workers and drivers that are killed in mid-run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from saved_model import save_model

from dsae_core.benchmark import Benchmark, read_benchmark, run_benchmark
from dsae_core.circuits import Circuit
from dsae_core.engines.cluster import Placement, ray_pool
from dsae_core.engines.worker import Worker
from dsae_core.errors import UserError
from dsae_core.models import load_model

METHODS = ["norm", "positional", "attribution", "patching", "subnetwork"]
DRAWS = range(8)
DSAE = [sys.executable, "-c", "from dsae_core.cli import main; main()"]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Circuit:
    """A small saved model's made-up circuit; its `model` is the folder."""
    folder = tmp_path_factory.mktemp("ray") / "model"
    return Circuit("mine", str(save_model(folder)), "ioi", ((0, 1), (1, 2)))


@pytest.fixture(scope="module")
def local(truth: Circuit) -> Benchmark:
    """What the local engine gives, with one thread as the workers have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run_benchmark(
            load_model(truth.model), tasks=["ioi"], methods=METHODS, draws=DRAWS, examples=3, truths=[truth]
        )
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def benchmark_on_two_workers(truth: Circuit, target: Path) -> Iterator[subprocess.Popen[str]]:
    """dsae benchmark --engine ray, running."""
    file = truth.save(target.with_name("truth.json"))
    command = [*DSAE, "benchmark", "--models", truth.model, "--tasks", "ioi", "--methods", ",".join(METHODS)]
    command += ["--draws", str(len(DRAWS)), "--examples", "3", "--truth", str(file), "--json", str(target)]
    command += ["--engine", "ray", "--workers", "2"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            yield running
        finally:
            running.kill()


def wait_for_rows(running: subprocess.Popen[str], target: Path, n: int) -> None:
    while not target.exists() or len(read_benchmark(target).rows) < n:
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)


def kill_a_busy_worker(running: subprocess.Popen[str]) -> int:
    """Kill a worker while it scores, which Ray writes into its title; gives its process id."""
    while running.poll() is None:
        for process in psutil.Process(running.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error, IndexError):
                if process.cmdline()[0].startswith("ray::Worker.score"):
                    process.kill()
                    return process.pid
    pytest.fail(f"it ended before a worker was killed: {running.communicate()}")


def same_outcome(one: Benchmark, other: Benchmark) -> bool:
    """Whether all but times, memory and engines agree, to the last bit of every score."""

    def measured(benchmark: Benchmark) -> list[tuple[object, ...]]:
        return [(r.key, r.auc, r.average_precision, r.precision, r.recall, r.threads) for r in benchmark.rows]

    unsolved = ({miss["draw"]: miss for miss in benchmark.unsolved} for benchmark in (one, other))
    return (
        measured(one) == measured(other)
        and one.scores == other.scores
        and one.settings == other.settings
        and next(unsolved) == next(unsolved)
    )


@pytest.mark.promise("A benchmark on Ray whose worker is killed in mid-run has the rows of an undisturbed local one.")
def test_a_killed_workers_job_is_done_again(
    truth: Circuit, local: Benchmark, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    target = tmp_path / "table.json"
    with benchmark_on_two_workers(truth, target) as running:
        wait_for_rows(running, target, 2)
        killed = kill_a_busy_worker(running)
        printed, errors = running.communicate()
    assert running.returncode == 0, errors
    assert f"process {killed}) was lost at {truth.model}, ioi, draw" in errors
    assert "which is done again" in errors
    done = read_benchmark(target)
    assert local.rows
    assert local.unsolved
    assert same_outcome(done, local)
    assert {row.engine for row in done.rows} == {"ray"}
    assert {row.engine for row in local.rows} == {"local"}
    assert f"Rows: {len(done.rows)} by the engine ray, each with 1 thread" in printed
    record_property("figure", f"1 of 2 workers killed, {len(done.rows)} rows equal")


@pytest.mark.promise("A benchmark on Ray that is killed goes on where it was, and leaves no worker behind.")
def test_a_killed_driver_leaves_no_worker_behind_and_is_resumed(
    truth: Circuit, local: Benchmark, tmp_path: Path
) -> None:
    target = tmp_path / "table.json"
    with benchmark_on_two_workers(truth, target) as running:
        wait_for_rows(running, target, 3)
        everybody = psutil.Process(running.pid).children(recursive=True)
        listening = [c.laddr.ip for p in everybody for c in open_connections(p) if c.status == psutil.CONN_LISTEN]
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    assert listening
    assert {ip.removeprefix("::ffff:") for ip in listening} <= {"127.0.0.1", "::1"}  # nobody else can reach it
    # Ray's two agents look for a dead cluster for a minute or so before they end.
    left = [process for process in psutil.wait_procs(everybody, timeout=20)[1] if not is_agent(process)]
    assert psutil.wait_procs(left, timeout=60)[1] == []
    before = read_benchmark(target)
    assert len(before.rows) >= 3
    with benchmark_on_two_workers(truth, target) as running:
        _, errors = running.communicate()
    assert running.returncode == 0, errors
    done = read_benchmark(target)
    assert same_outcome(done, local)
    again = {row.key: row for row in done.rows}
    assert [again[row.key] for row in before.rows] == list(before.rows)  # their seconds too: they were not run again


def is_agent(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error, IndexError):
        return process.cmdline()[0].endswith("Agent")
    return False


def open_connections(process: psutil.Process) -> list[Any]:
    try:
        return list(process.net_connections(kind="inet"))
    except psutil.Error:
        return []


def test_exact_patching_on_ray_gives_the_local_circuit(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", layers=6)
    command = [*DSAE, "ground-truth", "--model", str(model), "--task", "ioi", "--examples", "8"]
    command += ["--edges", "--threshold", "0", "--json"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    documents = []
    for name, engine in (("local.json", []), ("ray.json", ["--engine", "ray", "--workers", "2"])):
        done = subprocess.run(
            [*command, str(tmp_path / name), *engine], text=True, capture_output=True, check=False, env=alone
        )
        assert done.returncode == 0, done.stderr
        documents.append(json.loads((tmp_path / name).read_text()))
        del documents[-1]["provenance"]["date"]
    assert documents[0] == documents[1]
    assert documents[0]["edges"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["local.json", "model", "ray.json"]


FAILING = '''
"""Workers that die, break and refuse: what becomes of each job, as JSON."""
import json, os, pathlib, sys
from dsae_core.engines.cluster import Placement, ray_pool
from dsae_core.engines.pool import Done, Job
from dsae_core.errors import UserError
import importlib.metadata

class Fragile:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
    def hello(self):
        return "here", importlib.metadata.version("dsae-core")
    def load(self, name):
        if name == "broken":
            os._exit(1)
        if name == "absent":
            raise UserError("There is no folder absent.")
        return name
    def work(self, kind, number):
        with (self.folder / kind).open("a") as file:
            file.write(".")
        if kind == "dies" or (kind == "dies once" and len((self.folder / kind).read_text()) == 1):
            os._exit(1)
        if kind == "breaks":
            raise RuntimeError("out of something\\nand more")
        if kind == "refuses":
            raise UserError("Row 3 is empty.")
        return number * 2

notes, ends = [], {}
kinds = ["dies", "works", "dies once", "breaks", "refuses", "works too"]
with ray_pool(Fragile, {"folder": sys.argv[1]}, Placement(workers=2), notice=notes.append) as pool:
    pool.submit(Job("m", "work", {"kind": kind, "number": n}, label=kind) for n, kind in enumerate(kinds))
    pool.submit(Job(model, "work", {"kind": "works", "number": 0}, label=model) for model in ("broken", "absent"))
    for end in pool.results():
        if end.job.call == "work":
            assert end.job.label not in ends
            ends[end.job.label] = end.value if isinstance(end, Done) else [end.reason, end.refused]
tries = {kind: len((pathlib.Path(sys.argv[1]) / kind).read_text()) for kind in kinds}
print(json.dumps({"ends": ends, "notes": notes, "tries": tries}))
'''


def test_jobs_that_fail_three_times_are_reported_and_no_others_are_lost(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FAILING, str(tmp_path)], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    ends = found["ends"]
    assert {kind: ends[kind] for kind in ("works", "dies once", "works too")} == {
        "works": 2,
        "dies once": 4,
        "works too": 10,
    }
    assert ends["breaks"] == ["RuntimeError: out of something", False]
    assert ends["refuses"] == ["Row 3 is empty.", True]
    assert ends["absent"] == ["There is no folder absent.", True]
    assert ends["dies"][1] is ends["broken"][1] is False
    assert found["tries"] == {"dies": 3, "works": 1, "dies once": 2, "breaks": 3, "refuses": 1, "works too": 1}
    given_up = [note for note in found["notes"] if "given up" in note]
    assert len(given_up) == 3
    assert any("the loading of broken" in note for note in given_up)


COUNTING = '''
"""Jobs on two models at a cluster that is there already; every load is written down."""
import os, pathlib, sys
from dsae_core.engines.cluster import Placement, ray_pool
from dsae_core.engines.pool import Done, Job
from dsae_core.engines.worker import Worker

class Counting(Worker):
    def load(self, name):
        with open(sys_argv[1], "a") as file:
            file.write(f"{os.getpid()} {pathlib.Path(name).name}\\n")
        return super().load(name)
    def heads(self, number):
        return number, self._held().name, os.getpid()

sys_argv = sys.argv
models, place = sys_argv[3:], Placement(address=sys_argv[2], workers=2)
with ray_pool(Counting, {"device": "cpu", "threads": 1}, place, notice=print) as pool:
    pool.submit(Job(m, "heads", {"number": n}, label=f"{m} {n}") for n in range(6) for m in models)
    for end in pool.results():
        assert isinstance(end, Done), end
        if end.job.call == "load":
            continue
        number, name, process = end.value
        assert end.job.label == f"{name} {number}"
        print("done", pathlib.Path(name).name, process)
'''


@contextlib.contextmanager
def head_of_a_cluster(folder: Path) -> Iterator[str]:
    """The address of a cluster of this machine alone, which other processes join."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    command += ["--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false"]
    with (folder / "head.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as head:
        try:
            deadline = time.monotonic() + 120
            while "Ray runtime started" not in (folder / "head.log").read_text():
                assert head.poll() is None, (folder / "head.log").read_text()
                assert time.monotonic() < deadline, (folder / "head.log").read_text()
                time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            everybody = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
            head.terminate()
            for process in psutil.wait_procs(everybody, timeout=10)[1]:
                process.kill()


def test_a_worker_of_a_running_cluster_loads_each_model_once(truth: Circuit, tmp_path: Path) -> None:
    second, log = save_model(tmp_path / "second", seed=1), tmp_path / "loads.log"
    models = [truth.model, str(second)]
    with head_of_a_cluster(tmp_path) as address:
        done = subprocess.run(
            [sys.executable, "-c", COUNTING, str(log), address, *models], text=True, capture_output=True, check=False
        )
    assert done.returncode == 0, done.stderr
    ended = [line.split() for line in done.stdout.splitlines() if line.startswith("done ")]
    assert len(ended) == 12
    loads = log.read_text().splitlines()
    assert len(loads) == len(set(loads)), "a worker loaded a model again"
    assert {load.split()[1] for load in loads} == {"model", "second"}
    assert {load.split()[0] for load in loads} >= {process for _, _, process in ended}


# --- what cannot be done -------------------------------------------------------------------------------------


def connect(**options: Any) -> None:
    with ray_pool(Worker, {"device": "cpu", "threads": 1}, Placement(**options), notice=print):
        pytest.fail("there is no such cluster")


def test_a_missing_ray_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'dsae-core\[ray\]'"):
        connect()


def test_an_address_without_a_cluster_is_refused_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=f"No Ray cluster answers at {address}"):
            connect(address=address)
        server.listen()
        threading.Thread(target=answer_as_a_web_server, args=(server,), daemon=True).start()
        with pytest.raises(UserError, match=f"What answers at {address} is not a Ray cluster"):
            connect(address=address)
    with pytest.raises(UserError, match="cannot be used: Invalid address format"):
        connect(address="nonsense")


def answer_as_a_web_server(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_devices_that_a_worker_cannot_see_are_refused() -> None:
    with pytest.raises(UserError, match="cpu, cuda or auto, not 'cuda:1'"):
        connect(device="cuda:1")


def test_rows_of_other_thread_counts_are_refused_before_a_cluster_starts(
    truth: Circuit, local: Benchmark, tmp_path: Path
) -> None:
    target, file = local.save(tmp_path / "table.json"), truth.save(tmp_path / "truth.json")
    command = [*DSAE, "benchmark", "--models", truth.model, "--tasks", "ioi", "--methods", "norm", "--truth", str(file)]
    command += ["--draws", "9", "--examples", "3", "--json", str(target), "--engine", "ray", "--threads", "2"]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("dsae: The benchmarks differ in threads: 1 and 2.")
