"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from dsae_core import behaviour, cli, ops
from dsae_core.behaviour import Behaviour
from dsae_core.circuits import Circuit, read_circuit
from dsae_core.models import LanguageModel
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery, read_discovery
from dsae_core.tasks import Task

CSV = "positive,negative,answer,distractor\n" + "".join(
    f"{a} and {a} gave it to,{a} and {b} gave it to, {a}, {b}\n"
    for a, b in (("Mary", "John"), ("John", "Anna"), ("Anna", "Mary"))
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tiny_model: LanguageModel, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run a command on the tiny model; gives exit code, standard output, standard error."""
    monkeypatch.setattr("dsae_core.models.load_model", lambda *_, **__: tiny_model)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dsae", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "pairs.csv"
    path.write_text(CSV)
    return str(path)


def test_discover_writes_a_result_that_reads_back(run, prompts: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    target = tmp_path / "out.json"
    code, out, err = run("discover", "--prompts", prompts, "--top-k", "3", "--json", str(target), "--set", "epochs=3")
    assert (code, err) == (0, "")
    assert "No truth is stored" in out
    document = json.loads(target.read_text())
    assert document["schema"] == 1
    assert document["settings"] == {
        "method": "positional",
        "seed": 0,
        "n_features": 64,
        "k": 1,
        "epochs": 3,
        "learning_rate": 0.01,
        "threshold": 0.5,
        "change_weight": 0.2,
    }
    assert len(document["circuit"]) == 3
    assert document["metrics"] is None
    assert list(document["timings"]) == ["load", "check", "tokenize", "collect", "follow", "train", "encode", "score"]
    found = read_discovery(target)
    assert [list(h) for h in found.circuit(top_k=3).heads] == document["circuit"]
    assert found.prompts is not None
    assert found.prompts.answer[0] == (" Mary",)


@pytest.mark.parametrize("shown", [True, False])
def test_discover_warns_of_ones_own_prompts_that_the_model_does_not_solve(  # type: ignore[no-untyped-def]
    run, prompts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: bool
) -> None:
    found = Behaviour(1.0, 0.0, 1.0, 0.0) if shown else Behaviour(0.0, 1.0, 0.0, 1.0)
    monkeypatch.setattr(behaviour, "measure_behaviour", lambda *_: found)
    target = tmp_path / "out.json"
    code, out, _ = run("discover", "--prompts", prompts, "--json", str(target), "--set", "epochs=3")
    assert code == 0
    warnings = read_discovery(target).warnings
    assert len(warnings) == (0 if shown else 1)
    assert [line for line in out.splitlines() if line.startswith("Note: ")] == [f"Note: {note}" for note in warnings]
    assert all("does not show this behaviour" in note for note in warnings)
    assert "With 3 of 5 to 10 prompt pairs chance ranks high." in out


def test_what_a_result_notes_is_said_once(  # type: ignore[no-untyped-def]
    run, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "uneven.csv"
    path.write_text(CSV.replace("John gave it to,", "John gave the cat to,", 1))
    code, out, err = run("discover", "--prompts", str(path), "--set", "epochs=3")
    assert code == 0
    assert (out + err).count("differ in length") == 1
    assert [str(warning.message) for warning in recwarn] == []


def test_the_version_says_what_computes(run) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run("--version")
    assert (code, err) == (0, "")
    kind = "compiled operators" if ops.compiled else "operators in plain torch"
    assert re.fullmatch(rf"dsae-core \d\S* \(Python 3\S+, torch \d\S+, transformers \d\S+; {kind}\)\n", out)


@pytest.mark.parametrize("n", [4, 5])
def test_discover_asks_for_more_pairs_where_there_are_few(run, prompts: str, n: int) -> None:  # type: ignore[no-untyped-def]
    path = Path(prompts)
    path.write_text("positive,negative\n" + "".join(f"a b {i},a c {i}\n" for i in range(n)))
    code, out, _ = run("discover", "--prompts", prompts, "--set", "epochs=3")
    assert code == 0
    assert ("chance ranks high" in out) == (n < 5)


def discovery_of(scores: torch.Tensor, method: str) -> Discovery:
    """A discovery with these scores and nothing else."""
    return Discovery(
        node_scores=scores,
        pair_scores=torch.zeros(0, 0),
        codes=torch.zeros(2, 1, scores.numel(), dtype=torch.int32),
        activations=torch.zeros(2, 1, scores.numel()),
        n_positive=1,
        tokens=(("a",), ("b",)),
        settings={"method": method, "seed": 0},
        timings={},
        provenance={"model": "tiny"},
        prompts=None,
    )


def test_a_list_of_heads_is_parted_where_the_pages_circuit_ends() -> None:
    from dsae_core.cli.discovering import _listed_heads
    from dsae_core.significance import RATE

    scores = torch.rand(10, 10, generator=torch.Generator().manual_seed(0)) * 0.1
    scores.flatten()[:7] = torch.linspace(4, 10, 7)
    found = discovery_of(scores, "positional")
    rates = found.false_discovery_rates()
    assert rates is not None
    cut = len(found.circuit(rate=RATE))
    assert 7 <= cut < 12
    lines = _listed_heads(found, 12)
    (mark,) = [i for i, line in enumerate(lines) if "up to here, an estimated 20 % false discoveries" in line]
    assert len(" ".join(lines[1:mark]).split()) == 2 * cut
    assert len(" ".join(lines[mark + 1 : -1]).split()) == 2 * (12 - cut)
    worst = sorted(rates.flatten().tolist())[11]
    assert lines[-1] == (
        f"At an estimated 20 % false discoveries: {cut} heads. "
        f"Of those listed, an estimated {100 * worst:.0f} % are false discoveries."
    )
    short = _listed_heads(found, 3)
    assert len(short) == 3
    assert short[-1].endswith("Of those listed, an estimated <1 % are false discoveries.")
    assert _listed_heads(found, 0)[1:] == [f"At an estimated 20 % false discoveries: {cut} heads."]


def test_the_papers_method_has_no_rates_to_tell() -> None:
    from dsae_core.cli.discovering import _listed_heads

    lines = _listed_heads(discovery_of(torch.rand(10, 10), "paper"), 20)
    assert len(lines) == 5
    assert not any("false discoveries" in line for line in lines)


def test_the_same_seed_gives_the_same_file(run, prompts: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("a.json", "b.json"):
        assert run("discover", "--prompts", prompts, "--seed", "5", "--json", str(tmp_path / name))[0] == 0
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    for document in (a, b):
        del document["timings"], document["provenance"]["date"]
    assert a == b


def test_ground_truth_feeds_discover(run, prompts: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    circuit = tmp_path / "circuit.json"
    code, out, err = run("ground-truth", "--prompts", prompts, "--json", str(circuit))
    if code == 2:  # a random model may prefer the distractors
        assert "does not do this task" in err
        swapped = CSV.replace("answer,distractor", "distractor,answer")
        Path(prompts).write_text(swapped)
        code, out, err = run("ground-truth", "--prompts", prompts, "--json", str(circuit))
    assert (code, err) == (0, "")
    truth = read_circuit(circuit)
    assert 0 < len(truth) < 8
    assert f"{len(truth)} heads of 8" in out
    target = tmp_path / "out.json"
    code, out, _ = run("discover", "--prompts", prompts, "--truth", str(circuit), "--top-k", "2", "--json", str(target))
    assert code == 0
    metrics = json.loads(target.read_text())["metrics"]
    hits = len(set(map(tuple, json.loads(target.read_text())["circuit"])) & set(truth.heads))
    assert metrics["precision"] == hits / 2
    assert metrics["recall"] == hits / len(truth)
    expected = read_discovery(target).evaluate(truth)
    assert metrics["auc"] == expected.auc
    assert f"AUC {expected.auc:.3f}" in out


def test_faithfulness_of_a_method_on_ones_own_prompts(run, prompts: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    target, figure = tmp_path / "curves.json", tmp_path / "curves.svg"
    command = ["faithfulness", "--prompts", prompts, "--method", "norm", "--random", "2", "--ablation", "mean"]
    code, out, err = run(*command, "--json", str(target), "--figure", str(figure))
    assert (code, err) == (0, "")
    assert "on the same prompts" in out
    document = json.loads(target.read_text())
    assert document["settings"] == {"method": "norm", "seed": 0, "ablation": "mean", "random": 2}
    assert document["sizes"] == [0, 1, 2, 3, 4, 5, 7, 8]
    assert (document["kept"][0], document["kept"][-1]) == (0.0, 1.0)
    assert [entry["seed"] for entry in document["random"]] == [0, 1]
    assert f"CPR {document['cpr']:.3f} by norm" in out
    assert figure.read_text().startswith("<svg")
    code, out, _ = run(*command, "--test-prompts", prompts)
    assert code == 0
    assert "on the same prompts" not in out


@pytest.fixture
def toy_benchmark(monkeypatch: pytest.MonkeyPatch, solved_pairs: PromptPairs, tmp_path: Path) -> list[str]:
    """The start of a benchmark command on a task of the tiny model's, with a made-up truth."""
    from dsae_core import benchmark

    monkeypatch.setattr(benchmark, "TASKS", {"toy": Task("toy", "Toy", "", lambda *_: solved_pairs)})
    monkeypatch.setattr(benchmark, "measure_behaviour", lambda *_: Behaviour(1.0, 0.0, 1.0, 0.0))
    truth = Circuit("mine", "tiny", "toy", ((0, 1), (1, 2))).save(tmp_path / "truth.json")
    return ["benchmark", "--models", "tiny", "--tasks", "toy", "--truth", str(truth)]


def test_a_benchmark_is_resumed_merged_and_drawn(run, toy_benchmark: list[str], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    table, more, both = (str(tmp_path / name) for name in ("table.json", "more.json", "both.json"))
    code, out, err = run(*toy_benchmark, "--methods", "random", "--draws", "2", "--json", table)
    assert (code, err) == (0, "")
    assert "Compared with the mine circuit of tiny for toy (2 heads)." in out
    first = json.loads(Path(table).read_text())
    code, out, _ = run(*toy_benchmark, "--methods", "norm", "--draws", "2", "--json", table)
    assert code == 0
    assert "| norm |" in out
    assert "| random |" not in out  # the table has what was asked for
    second = json.loads(Path(table).read_text())
    assert [row for row in second["rows"] if row["method"] == "random"] == first["rows"]  # times too: not run again
    assert second["settings"]["methods"] == ["random", "norm"]

    code, out, err = run(*toy_benchmark, "--methods", "norm", "--examples", "3", "--json", table)
    assert (code, out) == (2, "")
    assert "differ in examples" in err
    assert json.loads(Path(table).read_text()) == second
    code, _, _ = run(*toy_benchmark, "--methods", "paired", "--draws", "1", "--json", more, "--fresh")
    assert code == 0
    figure = tmp_path / "stability.svg"
    code, out, _ = run("benchmark", "--merge", table, "--merge", more, "--json", both, "--figure", str(figure))
    assert code == 0
    assert all(f"| {method} |" in out for method in ("random", "norm", "paired"))
    assert len(json.loads(Path(both).read_text())["rows"]) == 5
    assert figure.read_text().startswith("<svg")
    assert "paired" not in figure.read_text()  # one draw has no other to agree with
    code, _, _ = run(*toy_benchmark, "--methods", "paired", "--draws", "1", "--json", table, "--fresh")
    assert code == 0
    assert [row["method"] for row in json.loads(Path(table).read_text())["rows"]] == ["paired"]


def test_several_models_have_a_table_each(
    run,  # type: ignore[no-untyped-def]
    toy_benchmark: list[str],
    tiny_model: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("dsae_core.models.load_model", lambda name, **_: replace(tiny_model, name=name))
    other = Circuit("mine", "other", "toy", ((0, 3),)).save(tmp_path / "other.json")
    target = tmp_path / "table.json"
    command = [*toy_benchmark, "--truth", str(other), "--models", "tiny, other", "--methods", "norm", "--draws", "1"]
    code, out, err = run(*command, "--json", str(target))
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if line in ("tiny", "other")] == ["tiny", "other"]
    document = json.loads(target.read_text())
    assert [row["model"] for row in document["rows"]] == ["tiny", "other"]
    assert [(model["name"], model["truths"]["toy"]["heads"]) for model in document["settings"]["models"]] == [
        ("tiny", 2),
        ("other", 1),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("faithfulness",), "either --task or --prompts"),
        (("faithfulness", "--task", "ioi", "--method", "magic"), "no method 'magic'"),
        (("faithfulness", "--task", "ioi", "--ablation", "magic"), "no ablation 'magic'"),
        (("faithfulness", "--task", "ioi", "--test-prompts", "x.csv"), "goes with --prompts"),
        (("faithfulness", "--task", "ioi", "--figure", "x.png"), "ends in .svg"),
        (("benchmark", "--figure", "no/such/x.svg"), "its folder does not exist"),
        (("benchmark", "--figure", "x.svg", "--draws", "1"), "at least two draws"),
        (("benchmark", "--merge", "missing.json"), "Cannot read the benchmark file"),
        (("benchmark", "--models", ","), "names nothing"),
        (("benchmark", "--tasks", "juggling"), "no task 'juggling'"),
        (("discover",), "either --task or --prompts"),
        (("discover", "--task", "juggling"), "no task 'juggling'"),
        (("discover", "--prompts", "missing.csv"), "Cannot read the prompts file"),
        (("discover", "--task", "ioi", "--method", "magic"), "no method 'magic'"),
        (("discover", "--task", "ioi", "--set", "epochs"), "NAME=VALUE"),
        (("discover", "--task", "ioi", "--set", "epochs=many"), "must be a number"),
        (("discover", "--task", "ioi", "--json", "no/such/folder.json"), "its folder does not exist"),
        (("ground-truth", "--task", "ioi", "--json", "no/such/folder.json"), "its folder does not exist"),
        (("models", "fetch", "gpt-9"), "gpt-9"),
        (("app", "--port", "99999"), "99999 is no port; they are 1 to 65535. Take another: make app PORT=8501"),
        (("app", "--port", "0"), "0 is no port"),
        (("app", "--address", "192.0.2.1"), "no address '192.0.2.1'"),
        (("app", "--address", "no.such.invalid"), "no address 'no.such.invalid'"),
    ],
)
def test_errors_are_one_sentence_and_exit_code_two(run, arguments: tuple[str, ...], message: str) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("discover",),
        ("discover", "--task", "juggling"),
        ("discover", "--prompts", "missing.csv"),
        ("discover", "--prompts", "bad.csv"),
        ("discover", "--task", "ioi", "--truth", "missing.json"),
        ("ground-truth", "--tasks", "ioi,juggling", "--out", "here"),
        ("ground-truth", "--prompts", "bad.csv"),
        ("faithfulness", "--prompts", "good.csv", "--test-prompts", "bad.csv"),
        ("profile", "--task", "juggling"),
    ],
    ids=" ".join,
)
def test_wrong_arguments_wait_for_neither_torch_nor_a_model(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_text(CSV)
    (tmp_path / "bad.csv").write_text("question,answer\nWho?,Me\n")
    check = (
        "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); "
        "from dsae_core.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", check, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tasks", "juggling"), "no task 'juggling'"),
        (("--methods", "magic"), "no method 'magic'"),
        (("--truth", "missing.json"), "Cannot read"),
    ],
)
def test_a_benchmark_that_cannot_be_loads_no_model(
    run,  # type: ignore[no-untyped-def]
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dsae_core.models.load_model", lambda *_, **__: pytest.fail("a model is loaded"))
    code, _, err = run("benchmark", *arguments)
    assert code == 2
    assert message in err


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_taken_port_is_named_with_another(run, address: str) -> None:  # type: ignore[no-untyped-def]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        taken = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {address}")
    with taken:
        port = taken.getsockname()[1]
        code, out, err = run("app", "--address", address, "--port", str(port))
    other = port + 1 if port < 65535 else 8501
    assert (code, out) == (2, "")
    assert err == (
        f"dsae: Port {port} is taken, perhaps by another dsae app. "
        f"Take another: make app PORT={other} (or dsae app --port {other}).\n"
    )


def test_unknown_options_exit_with_two(run) -> None:  # type: ignore[no-untyped-def]
    code, _, err = run("discover", "--wings")
    assert code == 2
    assert "--wings" in err


def test_help_and_models_list_need_no_model(run) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = run("models", "list")
    assert code == 0
    assert "smollm2-135m" in out
    for command in ("discover", "ground-truth", "benchmark", "faithfulness", "models", "app"):
        assert run(command, "--help")[0] == 0


COMMANDS = ("discover", "ground-truth", "benchmark", "published", "faithfulness", "profile", "app")


@pytest.mark.parametrize("command", ["", *COMMANDS, "models"])
def test_help_fits_80_columns_and_cuts_nothing(run, command: str, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run(*command.split(), "--help")
    assert max(map(len, out.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in out
    assert "..." not in " ".join(out.split()).replace("[ARGS]...", "").replace("0, 1, ...", "")
    assert "bool" not in out


def test_help_names_what_options_take(run) -> None:  # type: ignore[no-untyped-def]
    from dsae_core.benchmark import ALL_METHODS
    from dsae_core.cli.options import METHOD_NAMES, TASK_NAMES
    from dsae_core.settings import METHODS
    from dsae_core.tasks import TASKS

    assert TASK_NAMES.split(", ") == list(TASKS)
    assert METHOD_NAMES.split(", ") == list(ALL_METHODS)
    told = {command: " ".join(run(command, "--help")[1].split()) for command in COMMANDS}
    for command in ("discover", "ground-truth", "benchmark", "faithfulness", "profile"):
        assert TASK_NAMES in told[command], command
    for command in ("discover", "ground-truth", "faithfulness", "profile"):
        assert "positive,negative[,answer,distractor]" in told[command], command
    for command in ("benchmark", "faithfulness"):
        assert METHOD_NAMES in told[command], command
    for name, settings in METHODS.items():
        assert f"{name} has {', '.join(field.name for field in fields(settings))}." in told["discover"]
    assert "0.8 GB" in told["published"]


def test_the_package_imports_without_torch_or_streamlit() -> None:
    """Help and the page's first paint should not wait for seconds of imports."""
    check = "import sys, dsae_core, dsae_core.cli; print([m for m in ('torch', 'streamlit') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.model
@pytest.mark.parametrize(("method", "least"), [("positional", 0.88), ("paper", 0.65)])
def test_the_default_models_ioi_heads_are_found(method: str, least: float, tmp_path: Path) -> None:
    """End to end in a process of its own; the bounds are below the measured figures of README.md by a margin."""
    target = tmp_path / "out.json"
    command = [sys.executable, "-c", "from dsae_core.cli import main; main()", "discover", "--task", "ioi"]
    command += ["--method", method, "--seed", "0", "--json", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(target.read_text())
    assert document["metrics"]["truth"] == "measured"
    assert document["metrics"]["auc"] >= least
    assert torch.tensor(document["node_scores"]).shape == (30, 9)
