"""The library of kept runs, the checks of imported files, and the Runs page."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import sqlite3
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from test_ui_view import small_discovery

from dsae_core.errors import UserError
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery, read_discovery
from dsae_core.settings import METHODS, PositionalSettings
from dsae_core.ui import library as module
from dsae_core.ui.library import DamagedError, Library, keep, library, recall
from dsae_core.ui.pages import saved
from dsae_core.ui.request import CUSTOM, RunRequest
from dsae_core.ui.run_files import MAX_NAME, clean_name, parse_named
from dsae_core.ui.text import local_time

HOSTILE = "<img src=x onerror=alert(1)> *a* $x$ :red[b]"


def run_of(seed: int = 0, task: str = CUSTOM, **settings: Any) -> Discovery:
    found = small_discovery(task)
    return dataclasses.replace(found, settings={**found.settings, "seed": seed, **settings})


@pytest.fixture
def runs(tmp_path: Path) -> Library:
    return Library(tmp_path / "folder" / "runs.sqlite3")


# --- keeping -----------------------------------------------------------------------------------------------


def test_a_kept_run_comes_back_whole(runs: Library) -> None:
    found = run_of(3, k=5)
    number, new = runs.keep(found, name="  my\nrun ")
    assert new
    assert Library(runs.path).load(number).to_dict() == found.to_dict()  # as after a restart
    entry = runs.entry(number)
    assert entry is not None
    assert (entry.name, entry.title, entry.task, entry.seed) == ("my run", "my run", CUSTOM, 3)
    assert dict(entry.options)["k"] == 5
    assert (entry.positives, entry.negatives, entry.layers, entry.heads, entry.auc) == (2, 2, 2, 2, None)
    assert 0 < entry.size < 5000
    assert abs((datetime.now(timezone.utc) - entry.kept).total_seconds()) < 60


def test_the_same_result_is_kept_once(runs: Library) -> None:
    found = run_of()
    first, _ = runs.keep(found, imported=True)
    runs.rename(first, "mine")
    again = dataclasses.replace(found, timings={"train": 9.0}, provenance={**found.provenance, "date": "later"})
    assert runs.keep(again) == (first, False)
    entry = runs.entry(first)
    assert entry is not None
    assert (entry.name, entry.imported) == ("mine", False)
    assert runs.keep(dataclasses.replace(found, node_scores=found.node_scores + 1))[1]
    assert runs.count() == 2


def test_the_latest_come_first_and_a_limit_holds(runs: Library) -> None:
    numbers = [runs.keep(run_of(seed))[0] for seed in range(5)]
    assert [entry.id for entry in runs.entries()] == numbers[::-1]
    assert [entry.id for entry in runs.entries(limit=2)] == numbers[:2:-1]


@pytest.mark.parametrize(
    ("search", "seeds"),
    [
        ("", [2, 1, 0]),
        ("SEED 1", [1]),  # and not the 135m of the model
        ("Ägypten", [2]),
        ("ägypten own", [2]),
        ("a<b>", [2, 1, 0]),  # of a prompt
        ("smollm2 positional", [2, 1, 0]),
        ("k 9", [0]),
        ("nothing", []),
        ("%", []),
        ("' OR 1 --", []),
    ],
)
def test_a_search_looks_for_every_word(runs: Library, search: str, seeds: list[int]) -> None:
    runs.keep(run_of(0, k=9))
    runs.keep(run_of(1))
    runs.keep(run_of(2), name="ÄGYPTEN")
    assert [entry.seed for entry in runs.entries(search)] == seeds
    assert runs.count(search) == len(seeds)


def test_a_deleted_run_is_gone_and_its_number_is_not_given_again(runs: Library) -> None:
    number, _ = runs.keep(run_of())
    runs.delete(number)
    runs.delete(number)
    assert runs.entry(number) is None
    with pytest.raises(UserError, match="no longer in the library"):
        runs.load(number)
    assert runs.keep(run_of())[0] > number


def test_names_are_cleaned() -> None:
    assert clean_name(" a\n\tb\x00\x1b[31mc ") == "a b[31mc"
    assert len(clean_name("x" * 500)) == MAX_NAME
    assert clean_name("  ") == ""


def test_a_link_finds_a_run_made_here_and_not_an_imported_one(runs: Library) -> None:
    found = run_of(4)
    request = RunRequest.of(found)
    runs.keep(found, imported=True)
    assert runs.recall(request) is None
    runs.keep(found)
    kept = runs.recall(request)
    assert kept is not None
    assert kept.to_dict() == found.to_dict()
    assert runs.recall(dataclasses.replace(request, seed=5)) is None
    other = PromptPairs(("another one", "and two"), ("x", "y"))
    assert runs.recall(dataclasses.replace(request, pairs=other)) is None


def test_a_run_kept_under_other_defaults_is_not_taken_for_a_default_one(
    runs: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(PositionalSettings)}
    found = run_of(**defaults)
    runs.keep(found)
    request = RunRequest.of(found)
    assert request.options == ()
    assert runs.recall(request) is not None
    changed = [("k", int, dataclasses.field(default=99))]
    later = dataclasses.make_dataclass("Later", changed, bases=(PositionalSettings,), frozen=True)
    monkeypatch.setitem(METHODS, "positional", later)  # type: ignore[arg-type]
    assert runs.recall(request) is None


def write(path: str, start: int) -> None:
    for seed in range(start, start + 5):
        Library(Path(path)).keep(run_of(seed))


def test_threads_and_processes_may_share_a_new_library(tmp_path: Path) -> None:
    path = tmp_path / "shared.sqlite3"
    context = multiprocessing.get_context("fork")
    workers: list[Any] = [context.Process(target=write, args=(str(path), 100 * i)) for i in range(1, 3)]
    workers += [threading.Thread(target=write, args=(str(path), 10_000 * i)) for i in range(1, 4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers[:2]] == [0, 0]
    assert Library(path).count() == 25
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


# --- what can go wrong with the file -----------------------------------------------------------------------


def test_a_damaged_library_is_named_and_can_be_set_aside(runs: Library) -> None:
    runs.path.parent.mkdir()
    runs.path.write_bytes(b"this is no database" * 100)
    with pytest.raises(DamagedError, match="is damaged"):
        runs.entries()
    aside = runs.set_aside()
    assert aside.read_bytes().startswith(b"this is no database")
    assert runs.count() == 0
    assert runs.keep(run_of())[1]


def test_a_damaged_row_spoils_no_other(runs: Library) -> None:
    broken, _ = runs.keep(run_of(1))
    fine, _ = runs.keep(run_of(2))
    with sqlite3.connect(runs.path) as connection:
        connection.execute("UPDATE runs SET document = x'00' WHERE id = ?", (broken,))
    with pytest.raises(UserError, match="This run is damaged"):
        runs.load(broken)
    assert runs.load(fine).node_scores.shape == (2, 2)
    assert len(runs.entries()) == 2


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="DSAE_DATA"):
        Library(tmp_path / "file" / "runs.sqlite3").entries()


def test_a_library_that_can_only_be_read_says_so(runs: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.keep(run_of())
    connect = sqlite3.connect
    only_read = lambda path, **options: connect(f"file:{path}?mode=ro", uri=True, **options)  # noqa: E731
    monkeypatch.setattr(module.sqlite3, "connect", only_read)
    assert len(runs.entries()) == 1
    for write in (lambda: runs.keep(run_of(1)), lambda: runs.rename(1, "x"), lambda: runs.delete(1)):
        with pytest.raises(UserError, match=r"readonly.*make its folder writable"):
            write()


def test_a_library_in_use_says_so(runs: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.keep(run_of())
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(runs.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(UserError, match="in use by another program"):
            runs.keep(run_of(1))
    finally:
        holder.close()
    assert runs.keep(run_of(1))[1]


def test_a_library_of_another_version_is_left_alone(runs: Library) -> None:
    runs.keep(run_of())
    with sqlite3.connect(runs.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="another version"):
        runs.entries()


def test_a_finished_run_is_kept_or_the_page_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert keep(run_of()) == ""
    assert recall(RunRequest.of(run_of())) is not None
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DSAE_DATA", str(tmp_path / "file"))
    assert keep(run_of()).startswith("This run was not kept. The run library")
    assert recall(RunRequest.of(run_of())) is None


# --- imported files ----------------------------------------------------------------------------------------


def test_what_was_saved_can_be_imported(tmp_path: Path) -> None:
    found = run_of(7)
    path = found.save(tmp_path / "run.json")
    assert parse_named(path.read_bytes())[0].to_dict() == read_discovery(path).to_dict()
    assert parse_named(b"\xef\xbb\xbf" + path.read_bytes())[0].to_dict() == found.to_dict()


def test_a_name_goes_with_the_file(runs: Library, tmp_path: Path) -> None:
    found = run_of(7)
    named, _ = runs.keep(found, name="my antonyms")
    path = tmp_path / "run.json"
    path.write_bytes(runs.export(named))
    assert parse_named(path.read_bytes())[1] == "my antonyms"
    assert read_discovery(path).to_dict() == found.to_dict()  # who knows no names reads it as ever
    runs.rename(named, "")
    assert runs.export(named) == found.to_json()
    assert parse_named(found.to_json())[1] == ""


@pytest.mark.parametrize(
    ("date", "made"),
    [
        ("2026-11-02T23:05:00+00:00", "2026-11-02T23:05:00+00:00"),
        ("2026-11-03T01:05:00+02:00", "2026-11-02T23:05:00+00:00"),
        *(
            (date, None)
            for date in ("", "soon", "2026-11-02", "0001-01-01T00:00:00+05:00", "9999-12-31T23:00:00-05:00")
        ),
    ],
)
def test_a_run_has_the_time_that_its_file_says(runs: Library, date: str, made: str | None) -> None:
    found = dataclasses.replace(run_of(), provenance={"date": date})
    entry = runs.entry(runs.keep(found, imported=True)[0])
    assert entry is not None
    assert (entry.made and entry.made.isoformat()) == made


def test_a_library_of_the_first_schema_is_brought_up_to_date(runs: Library) -> None:
    number, _ = runs.keep(run_of(), name="old")
    with sqlite3.connect(runs.path) as connection:
        connection.execute("ALTER TABLE runs DROP COLUMN made")
        connection.execute("PRAGMA user_version = 1")
    entry = Library(runs.path).entry(number)
    assert entry is not None
    assert (entry.name, entry.made) == ("old", None)
    assert runs.keep(run_of(1))[1]


def document(**changes: Any) -> bytes:
    return json.dumps({**run_of().to_dict(), **changes}).encode()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b'{"schema": 1, "x": NaN}', "not JSON"),
        (b'{"schema": ' + b"1" * 5000 + b"}", "not JSON"),
        (b"[]", "not a saved discovery"),
        (b'{"schema": 1, "heads": [[0, 1]]}', "This is a circuit alone"),
        (document(schema=2), "not a saved discovery"),
        (document(node_scores=[[1.0]]), "shapes do not fit"),
        (document(codes="x"), "malformed"),
        (document(n_positive=4), "positive and negative prompts"),
        (document(n_positive=0), "positive and negative prompts"),
        (document(codes=[[[-2] * 4] * 3] * 4), "codes below -1"),
        (document(tokens=[["a"]] * 4), "tokens do not fit"),
        (document(timings={"train": -1.0}), "times are not durations"),
        (document(timings={"train": 1e999}).replace(b"Infinity", b"1e999"), "no finite number"),
        (document(settings={"method": "positional", "seed": "x"}), "its seed"),
        (document(settings={"method": "positional", "seed": -1}), "its seed"),
        (document(settings={"method": "positional", "seed": 2**64 - 1}), "its seed"),
        (document(settings={"method": "positional", "seed": 10**30}), "no whole number"),
        (document(settings={"method": "positional", "k": [1]}), "not plain values"),
        (document(settings={"method": "x" * 200}), "not plain values"),
        (document(provenance={"model": "x" * 400}), "too long"),
        (document(name=7), "its name is no text"),
        (document(name="\ud800"), "its name is no Unicode text"),
        (document(prompts={**run_of().to_dict()["prompts"], "positive": ["a"], "negative": ["b"]}), "as many"),
    ],
)
def test_a_file_that_is_no_run_is_refused_in_a_sentence(content: bytes, told: str) -> None:
    with pytest.raises(UserError, match=told) as refused:
        parse_named(content)
    assert str(refused.value).count(".") <= 3
    assert "Traceback" not in str(refused.value)


def test_a_run_that_names_a_model_of_another_shape_is_refused() -> None:
    prompts = {**run_of().to_dict()["prompts"], "task": "ioi"}  # the stored circuit has heads up to layer 29
    with pytest.raises(UserError, match="belongs to another model"):
        parse_named(document(prompts=prompts))


# --- the page ----------------------------------------------------------------------------------------------


def draw() -> None:
    """The page's script."""
    from dsae_core.ui.pages import saved

    saved.page()


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """The Runs page, not yet opened; where it would go is noted in the session."""
    monkeypatch.setattr(saved.routes, "go", lambda name: saved.st.session_state.update(went=name))
    return AppTest.from_function(draw, default_timeout=60)


def html(page: AppTest) -> str:
    """All of the page's own HTML."""
    return "\n".join(element.proto.body for element in page.main.get("html"))


def upload(page: AppTest, content: bytes, name: str = "run.json") -> AppTest:
    page.run()
    uploaders = page.get("file_uploader")
    page.file_uploader(key=uploaders[0].key).set_value((name, content, "application/json")).run()
    assert not page.exception
    return page


def test_an_empty_library_says_how_runs_come_here(app: AppTest) -> None:
    app.run()
    assert "No run is kept yet." in html(app)
    app.button[0].click().run()
    assert app.session_state["went"] == "discover"


def test_runs_are_listed_and_searched(app: AppTest) -> None:
    for seed in range(14):
        library().keep(run_of(seed))
    library().keep(run_of(99), name=HOSTILE)
    app.run()
    assert "15 runs are kept on this computer." in html(app)
    assert html(app).count('class="d-run"') == saved.FIRST_SHOWN
    assert "&lt;img src=x" in html(app)
    assert "<img" not in html(app)
    next(button for button in app.button if button.label.startswith("Show more (3 left)")).click().run()
    assert html(app).count('class="d-run"') == 15
    app.text_input(key="runs_search").set_value("seed 13").run()
    assert html(app).count('class="d-run"') == 1
    assert "1 of 15 runs matches." in html(app)
    app.text_input(key="runs_search").set_value("positional").run()
    assert "15 of 15 runs match." in html(app)
    app.text_input(key="runs_search").set_value("<b>none").run()
    assert "No run matches." in html(app)
    assert "No run has all the words of “&lt;b&gt;none”" in html(app)


def test_every_control_has_a_help(app: AppTest) -> None:
    library().keep(run_of())
    app.run()
    widgets = [*app.button, *app.text_input, *app.get("file_uploader")]
    assert len(widgets) > 2
    assert [widget.label for widget in widgets if not widget.proto.help] == []


def test_opening_a_run_brings_its_settings(app: AppTest) -> None:
    number, _ = library().keep(run_of(8, k=3))
    app.run()
    app.button(key=f"run_open_{number}").click().run()
    assert app.session_state["went"] == "discover"
    assert app.session_state["shown"].request.seed == 8
    assert app.session_state["request"] == RunRequest.of(run_of(8, k=3))
    assert app.session_state["upload_pairs"] == run_of().prompts


def test_settings_that_no_control_has_stay_out_of_the_sidebar(app: AppTest) -> None:
    number, _ = library().keep(run_of(task="<task>", nonsense=4))
    app.run()
    app.button(key=f"run_open_{number}").click().run()
    assert not app.exception
    assert app.session_state["request"] == RunRequest()
    assert app.session_state["shown"].request.task == "<task>"


def test_a_run_that_another_session_deleted_says_so(app: AppTest) -> None:
    number, _ = library().keep(run_of())
    library().keep(run_of(1))
    app.run()
    library().delete(number)
    app.button(key=f"run_open_{number}").click().run()
    assert not app.exception
    assert "shown" not in app.session_state


def test_a_good_file_is_imported_once(app: AppTest) -> None:
    upload(app, document())
    assert "was imported" in html(app)
    assert "Imported</span>" in html(app)
    upload(app, document())
    assert "was in the library already and is its latest now" in html(app)
    assert library().count() == 1


def test_an_imported_file_has_its_name_and_both_times(app: AppTest) -> None:
    upload(app, document(name=f"{HOSTILE}\n" + "x" * 500, provenance={"date": "2026-11-02T23:05:00+00:00"}))
    (entry,) = library().entries()
    assert len(entry.name) == MAX_NAME
    assert entry.name.startswith(f"{HOSTILE} xxx")
    assert "<img" not in html(app)
    assert "&lt;img" in html(app)
    assert "Imported</span>" in html(app)
    assert "· 2 Nov 2026, 23:05 UTC, imported " in html(app)


def test_a_bad_file_is_refused_and_the_page_stays(app: AppTest) -> None:
    upload(app, b"{", f"{HOSTILE}.json")
    assert r"was not imported\. The file is not JSON" in app.error[0].value
    assert r"\<img" in app.error[0].value
    assert library().count() == 0


def test_a_damaged_library_leaves_the_page_standing(app: AppTest) -> None:
    path = library().path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database at all " * 90)
    app.run()
    assert not app.exception
    assert "The kept runs cannot be read." in html(app)
    app.button[0].click().run()
    assert "The damaged library is now" in html(app)
    assert "No run is kept yet." in html(app)


@pytest.mark.parametrize(
    ("size", "said"), [(1, "&lt;0.1 MB"), (49_999, "&lt;0.1 MB"), (50_000, "0.1 MB"), (8e6, "8.0 MB")]
)
def test_a_small_run_has_a_size(size: int, said: str) -> None:
    library().keep(run_of())
    (entry,) = library().entries()
    assert f"· {said}</p>" in saved.row_html(dataclasses.replace(entry, size=size), None)


def test_times_are_the_visitor_s() -> None:
    when = datetime(2026, 11, 2, 23, 5, tzinfo=timezone.utc)
    assert local_time(when, None) == "2 Nov 2026, 23:05 UTC"
    assert local_time(when, "Europe/Berlin") == "3 Nov 2026, 00:05"
    assert local_time(when, "No/Where") == "2 Nov 2026, 23:05 UTC"
    assert local_time(when, "../etc/passwd") == "2 Nov 2026, 23:05 UTC"


def test_deleting_asks_first_and_says_what_goes(app: AppTest) -> None:
    number, _ = library().keep(run_of(), name=HOSTILE)
    app.run()
    app.session_state["runs_deletes"] = number
    app.run()
    said = "\n".join(element.proto.body for element in app.get("html"))
    assert "This deletes “&lt;img src=x" in said
    assert "it cannot be undone." in said
    assert library().count() == 1


def test_the_list_as_data() -> None:
    library().keep(run_of(2, k=7), name="x")
    frame = saved.frame(library().entries())
    assert frame.loc[0, ["title", "seed"]].tolist() == ["x", 2]
    assert json.loads(frame.loc[0, "options"])["k"] == 7


def finished() -> None:
    """A script that takes over a finished run."""
    import types

    from test_ui_library import run_of

    from dsae_core.ui import state

    state.st.session_state["job"] = types.SimpleNamespace(over=True, status="done", result=run_of(5))
    state.take_finished()


def test_finishing_a_run_keeps_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = AppTest.from_function(finished).run()
    assert not page.exception
    assert [entry.seed for entry in library().entries()] == [5]
    assert page.session_state["shown"].request.seed == 5
    assert "message" not in page.session_state
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DSAE_DATA", str(tmp_path / "file"))
    page = AppTest.from_function(finished).run()
    assert page.session_state["shown"].request.seed == 5
    assert page.session_state["message"].text.startswith("This run was not kept.")
