"""dsae ground-truth killed at many moments, over several tasks, and beside what other runs have left."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from saved_model import save_model

from dsae_core import cli
from dsae_core.errors import UserError
from dsae_core.interventions import HeadPatching
from dsae_core.measurement import folder_targets
from dsae_core.models import load_model
from dsae_core.patching_record import PatchingRecord, partial_path, run_identity
from dsae_core.tasks import ioi

Run = Callable[..., tuple[int, str, str]]

KILLED = '''
"""Run the command in forked children, each killed after its second step at one of three moments, until one ends."""
import json, os, pathlib, signal, sys
import torch
import accelerate, transformers.models.auto.modeling_auto, transformers.models.llama.modeling_llama
from dsae_core import cli, interventions, measurement, models, paths

torch.set_num_threads(1)
target, log = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
command = ["dsae", *sys.argv[3:], "--json"]

def child(path, moment):
    """moment: None lets it end; else it is killed in a pass, before a rename or after one, from the second on."""
    steps = {"in a pass": 0, "before a rename": 0, "after a rename": 0}
    def reach(name):
        steps[name] += 1
        if name == moment and steps[name] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    def counted(cls):
        real = cls.losses
        def losses(self, group):
            found = real(self, group)
            with log.open("a") as file:
                file.write(f"{path.name} {group.name}\\n")
            reach("in a pass")
            return found
        cls.losses = losses
    counted(interventions.HeadPatching)
    counted(paths.PathPatching)
    real = pathlib.Path.replace
    def replace(self, other):
        reach("before a rename")
        done = real(self, other)
        reach("after a rename")
        return done
    pathlib.Path.replace = replace
    sys.argv = [*command, str(path)]
    cli.main()

def run(path, moment):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            child(path, moment)
        except SystemExit as stop:
            os._exit(stop.code or 0)
        os._exit(1)
    status = os.waitpid(pid, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)

moments = ["in a pass", "before a rename", "after a rename"]
whole = target.with_name("whole.json")
ends = {"whole": run(whole, None), "killed": []}
while True:
    ends["killed"].append(run(target, moments[len(ends["killed"]) % 3]))
    if ends["killed"][-1] != signal.SIGKILL or len(ends["killed"]) > 60:
        break
print(json.dumps(ends))
'''


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model(tmp_path_factory.mktemp("small"), layers=4))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run dsae ground-truth on few prompts; gives exit code, standard output, standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dsae", "ground-truth", "--examples", "4", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def without_date(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    del document["provenance"]["date"]
    return document


@pytest.mark.promise("A measurement of a circuit that is killed again and again ends as one that was let run.")
def test_kills_at_every_moment_change_nothing(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    deep, work = str(save_model(tmp_path / "deep", layers=10)), tmp_path / "work"
    work.mkdir()
    target, log = work / "circuit.json", work / "passes.log"
    command = ["ground-truth", "--model", deep, "--task", "ioi", "--examples", "8", "--edges", "--threshold", "0"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(target), str(log), *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout.splitlines()[-1])
    kills = ends["killed"].count(9)
    assert (ends["whole"], ends["killed"][-1]) == (0, 0), done.stderr
    assert kills >= 9
    assert without_date(target) == without_date(work / "whole.json")
    assert json.loads(target.read_text())["edges"]
    passes = [line.partition(" ")[::2] for line in log.read_text().splitlines()]
    whole = [name for file, name in passes if file == "whole.json"]
    again = [name for file, name in passes if file == target.name]
    assert sorted(set(again)) == sorted(whole)
    assert len(again) - len(whole) <= kills * 2 / 3 + 1  # lost: one each time, but where the kill came after the rename
    assert sorted(path.name for path in work.iterdir()) == ["circuit.json", "passes.log", "whole.json"]
    record_property("figure", f"{kills} kills in {len(whole)} passes")


def interrupted(run: Run, monkeypatch: pytest.MonkeyPatch, *arguments: str, after: int = 2) -> list[str]:
    """A run that stops in its third pass; gives the passes it began."""
    real, began = HeadPatching.losses, []

    def losses(self: HeadPatching, group: Any) -> torch.Tensor:
        began.append(group.name)
        if len(began) > after:
            raise RuntimeError("stop")
        return real(self, group)

    with monkeypatch.context() as patch:
        patch.setattr(HeadPatching, "losses", losses)
        with pytest.raises(RuntimeError, match="stop"):
            run(*arguments)
    return began


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    real, done = HeadPatching.losses, []

    def losses(self: HeadPatching, group: Any) -> torch.Tensor:
        done.append(group.name)
        return real(self, group)

    monkeypatch.setattr(HeadPatching, "losses", losses)
    return done


def test_what_another_run_left_is_named_and_not_used(
    run: Run, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "c.json"
    command = ["--model", small, "--task", "ioi", "--json", str(target)]
    assert len(interrupted(run, monkeypatch, *command)) == 3
    left = partial_path(target)
    assert left.name == "c.json.partial"
    assert len(json.loads(left.read_text())["losses"]) == 2

    for changed, named in (
        (["--seed", "7"], "differs in prompts, seed;"),
        (["--ablation", "zero"], "differs in ablation;"),
        (["--examples", "5"], "differs in prompts;"),
    ):
        before = left.read_text()
        with monkeypatch.context() as patch:
            done = count_passes(patch)
            code, _, err = run(*command, *changed)
        assert (code, len(done)) == (0, 4)
        assert named in err
        assert not left.exists()
        left.write_text(before)

    document = json.loads(left.read_text())
    for damaged in ("{", "[]", json.dumps({**document, "losses": {"layer 0, heads 0 1 2 3": [[1, 2]]}})):
        left.write_text(damaged)
        with monkeypatch.context() as patch:
            done = count_passes(patch)
            code, _, err = run(*command)
        assert (code, len(done)) == (0, 4)
        assert "damaged" in err

    for extra, passes in (([], 2), (["--fresh"], 4)):
        left.write_text(json.dumps(document))
        with monkeypatch.context() as patch:
            done = count_passes(patch)
            code, _, err = run(*command, *extra)
        assert (code, err, len(done)) == (0, "", passes)
        assert not left.exists()


def test_other_weights_make_another_run(small: str, tmp_path: Path) -> None:
    model = load_model(small)
    pairs, notices = ioi(model.tokenizer, 3, 0), []
    given: dict[str, Any] = {"model": "m", "digest": "a", "device": "cpu", "pairs": pairs, "seed": 0}
    record = PatchingRecord(tmp_path / "p", run_identity(**given, ablation="zero"))
    record.metrics = (torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    losses = torch.rand(3, 2, dtype=torch.float64) / 3
    record.put("layer 0, heads 0 1", losses)
    same = PatchingRecord.open(tmp_path / "p", run_identity(**given, ablation="zero"), notice=notices.append)
    found = same.get("layer 0, heads 0 1", 2)
    assert found is not None
    assert torch.equal(found, losses)  # to the last bit
    assert same.get("layer 0, heads 0 1", 3) is None
    assert notices == []
    other = run_identity(**{**given, "digest": "b"}, ablation="zero")
    assert PatchingRecord.open(tmp_path / "p", other, notice=notices.append).metrics is None
    assert "model_digest" in notices[0]


def test_several_go_into_a_folder_and_finished_ones_are_kept(
    run: Run, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, out = str(save_model(tmp_path / "second", seed=1)), tmp_path / "out"
    command = ["--models", f"{small},{second}", "--tasks", "ioi,successor", "--out", str(out)]
    code, printed, err = run(*command)
    assert code == 2
    assert err.endswith("dsae: 2 of 4 circuits were not measured.\n")
    assert printed.count("Not measured:") == printed.count("does not do this task") == 2
    files = sorted(out.iterdir())
    assert [file.name.endswith(".ioi.json") for file in files] == [True, True]
    first = [file.read_text() for file in files]

    files[1].write_text(first[1].replace('"threshold": 0.02', '"threshold": 0.5'))
    done = count_passes(monkeypatch)
    _, printed, err = run(*command)
    assert "measured otherwise (it differs in threshold)" in err
    assert files[0].read_text() == first[0]  # its date too: not measured again
    assert len(done) in (2, 4)  # the passes of one model
    assert json.loads(files[1].read_text())["provenance"]["threshold"] == 0.02
    done.clear()
    run(*command, "--fresh")
    assert len(done) == 6


KILLED_AMONG_SEVERAL = '''
"""Run the command and kill it, as kill -9 does, at the end of its n-th pass; each pass is written down."""
import os, pathlib, signal, sys
import torch
from dsae_core import cli, patching_record

torch.set_num_threads(1)
log, last = pathlib.Path(sys.argv[1]), int(sys.argv[2])
real = patching_record.PatchingRecord.put

def put(self, name, losses):
    real(self, name, losses)
    with log.open("a") as file:
        file.write(f"{name}\\n")
    if len(log.read_text().splitlines()) == last:
        os.kill(os.getpid(), signal.SIGKILL)

patching_record.PatchingRecord.put = put
sys.argv = ["dsae", "ground-truth", *sys.argv[3:]]
cli.main()
'''


@pytest.mark.promise("A measurement of a circuit that is killed again and again ends as one that was let run.")
def test_a_kill_among_several_models_and_tasks(run: Run, small: str, tmp_path: Path) -> None:
    """Killed in the second model's pass: the first one's file stays, and only what is missing is measured."""
    second, whole, out = str(save_model(tmp_path / "second", seed=1)), tmp_path / "whole", tmp_path / "out"
    command = ["--models", f"{small},{second}", "--tasks", "ioi,successor", "--examples", "4", "--out"]
    log = tmp_path / "passes.log"
    log.touch()

    def killed_after(last: int, folder: Path) -> int:
        log.write_text("")
        done = subprocess.run(
            [sys.executable, "-c", KILLED_AMONG_SEVERAL, str(log), str(last), *command, str(folder)],
            capture_output=True,
            check=False,
        )
        return done.returncode

    assert killed_after(0, whole) == 2  # let run; neither model does the other task
    passes = log.read_text().splitlines()
    files = sorted(whole.iterdir())
    assert len(files) == 2
    first = next(path.name for path in files if "second" not in path.name)

    assert killed_after(5, out) == -9  # after the first model's four passes and one of the second's
    left = {path.name: path.read_text() for path in out.iterdir()}
    assert sorted(left) == sorted([first, *(f"{path.name}.partial" for path in files if path.name != first)])
    assert log.read_text().splitlines() == passes[:5]

    assert killed_after(0, out) == 2
    assert log.read_text().splitlines() == passes[5:]
    assert [path.name for path in sorted(out.iterdir())] == [path.name for path in files]
    assert (out / first).read_text() == left[first]  # its date too: not measured again
    for path in files:
        assert without_date(out / path.name) == without_date(path)


def test_what_cannot_be_written_is_refused_at_once(run: Run, small: str, tmp_path: Path) -> None:
    for arguments, message in (
        (["--task", "ioi", "--models", f"{small},other"], "name one with --out"),
        (["--task", "ioi", "--json", "a.json", "--out", str(tmp_path)], "either --json, for one circuit, or --out"),
        (["--task", "ioi", "--out", str(tmp_path / "no" / "such")], "Cannot write into"),
        (["--tasks", "ioi,juggling", "--out", str(tmp_path)], "no task 'juggling'"),
        ([], "either --task or --prompts"),
        (["--task", "ioi", "--threads", "2"], "go with --engine ray"),
        (["--task", "ioi", "--engine", "moon"], "no engine 'moon'"),
    ):
        code, printed, err = run(*arguments)
        assert (code, printed) == (2, "")
        assert message in err
        assert err.count("\n") == 1
    with pytest.raises(UserError, match="the same file"):
        folder_targets(tmp_path, ["org/m", "org-m"], ["ioi"])
