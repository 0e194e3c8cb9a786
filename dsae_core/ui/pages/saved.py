"""Runs: the finished runs that are kept, to search, open, name, take out and bring in."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from dsae_core.errors import UserError
from dsae_core.limits import demo_limits
from dsae_core.ui import routes, state, theme
from dsae_core.ui.library import DamagedError, Entry, Library, library, task_title
from dsae_core.ui.request import CUSTOM, RunRequest
from dsae_core.ui.run_files import MAX_NAME, parse_named
from dsae_core.ui.sharing import file_stem
from dsae_core.ui.text import escape_html, escape_markdown, local_time, plural, share
from dsae_core.ui.view import View

FIRST_SHOWN, MORE_SHOWN = 12, 24
MAX_UPLOAD = 50
"""MB; a run of a hundred pairs on a model of 270 heads has about 8. The server takes no more of any file."""

_SHOWN, _SEARCH, _UPLOADS = "runs_shown", "runs_search", "runs_uploads"
_SAID, _PROBLEM = "runs_said", "runs_problem"
_IMPORT, _DELETES = "runs_import", "runs_deletes"


def page() -> None:
    """Draw the page."""
    theme.hide_sidebar()
    runs = library()
    try:
        total, search = runs.count(), (st.session_state.get(_SEARCH) or "").strip()
        found = runs.count(search) if total and search else total
        _top(runs, total, found if search else None)
        if total:
            _list(runs, found)
        else:
            _nothing_yet()
    except UserError as error:
        _unusable(runs, error)


def _top(runs: Library, total: int, found: int | None) -> None:
    """The headline, with how many runs a search found where there is one, and the way in for files."""
    with st.container(horizontal=True, vertical_alignment="center", wrap=False):
        st.html(f'<div class="d-eyebrow"><span>Kept in {escape_html(runs.place)}</span></div>')
        with st.popover("Import", key=_IMPORT, on_change="rerun", help="Take in a run that was saved as a file."):
            _import_form()
    limits = demo_limits()
    where, whose = (
        ("on this computer", "for all who use this dashboard")
        if limits is None
        else ("for this visit", f"until you leave, {limits.kept_runs} at most; nobody else sees them")
    )
    kept = f"{plural(total, 'run')} {'is' if total == 1 else 'are'} kept {where}."
    st.html(
        f'<h1 class="d-headline">{kept if found is None else matching(found, total)}</h1>'
        f'<p class="d-note">Every finished run is kept, with its scores, codes, settings and prompts, {whose}.</p>'
        if total
        else '<h1 class="d-headline">No run is kept yet.</h1>'
    )
    _messages()


def matching(found: int, total: int) -> str:
    """How many runs a search found: "1 of 2 runs matches", "No run matches"."""
    if not found:
        return "No run matches."
    return f"{found:,} of {plural(total, 'run')} {'matches' if found == 1 else 'match'}."


def _messages() -> None:
    if said := st.session_state.pop(_SAID, ""):
        st.html(f'<p class="d-panel" role="status">{escape_html(said)}</p>')
    if problem := st.session_state.pop(_PROBLEM, ""):
        st.error(escape_markdown(problem))


def _nothing_yet() -> None:
    st.html(
        '<p class="d-note">Runs come here by themselves as they finish. Start one on Discover, or import the file of '
        "a run that somebody else saved.</p>"
    )
    if st.button("Go to Discover", type="primary", help="Open the page that starts runs."):
        routes.go("discover")


def _unusable(runs: Library, error: UserError) -> None:
    """The library cannot be read: say so, and offer the way out where there is one."""
    st.html(
        '<h1 class="d-headline">The kept runs cannot be read.</h1>'
        '<p class="d-note">Everything else works without them; runs that finish now are not kept.</p>'
    )
    st.error(escape_markdown(error))
    if isinstance(error, DamagedError):
        st.button(
            "Set the file aside",
            on_click=_set_aside,
            args=(runs,),
            help="Renames the damaged file, which stays beside the new library that is begun.",
        )


def _set_aside(runs: Library) -> None:
    try:
        st.session_state[_SAID] = f"The damaged library is now {runs.set_aside()}."
    except UserError as error:
        st.session_state[_PROBLEM] = str(error)


# --- the list ----------------------------------------------------------------------------------------------


def _list(runs: Library, found: int) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        search = st.text_input(
            "Search",
            key=_SEARCH,
            type="search",
            placeholder="name, model, task, setting or prompt",
            max_chars=200,
            help="Shows the runs that have every one of these words.",
        )
        st.download_button(
            "CSV",
            lambda: frame(runs.entries(search or "")).to_csv(index=False),
            "runs.csv",
            "text/csv",
            type="tertiary",
            icon=":material/download:",
            on_click="ignore",
            help="Download data: the list of runs, without their scores.",
        )
    shown = st.session_state.get(_SHOWN, FIRST_SHOWN)
    if not found:
        st.html(f'<p class="d-panel">No run has all the words of “{escape_html(search)}”.</p>')
        return
    with st.container(key="run_rows"):
        for entry in runs.entries(search or "", limit=shown):
            _row(runs, entry)
    if found > shown:
        st.button(
            f"Show more ({found - shown:,} left)",
            on_click=lambda: st.session_state.update({_SHOWN: shown + MORE_SHOWN}),
            help="List older runs as well.",
        )


def _row(runs: Library, entry: Entry) -> None:
    with st.container(key=f"run_row_{entry.id}", horizontal=True, vertical_alignment="center", wrap=False):
        st.html(row_html(entry, st.context.timezone))
        opens = st.button(
            "Open", key=f"run_open_{entry.id}", help="Show this run on Discover, with its settings in the sidebar."
        )
        menu = st.popover(
            "More", key=f"run_more_{entry.id}", on_change="rerun", help="Rename, compare, export or delete this run."
        )
    if opens:
        _open(entry.id)
    if menu.open:
        with menu, st.container(gap="xxsmall"):
            _menu(runs, entry)
    if st.session_state.get(_DELETES) == entry.id:
        del st.session_state[_DELETES]
        _confirm_delete(entry)


def row_html(entry: Entry, zone: str | None) -> str:
    """One run's lines; everything that people or files wrote is escaped."""
    facts = [
        entry.model or "unknown model",
        *([task_title(entry.task), entry.method, f"seed {entry.seed}"] if entry.name else []),
        f"{entry.positives} + {entry.negatives} prompts",
        *(f"{name} {value}" for name, value in entry.options),
        _times(entry, zone),
        f"{entry.size / 1e6:.1f} MB" if entry.size >= 50_000 else "<0.1 MB",
    ]
    tag = '<span class="d-tag">Imported</span>' if entry.imported else ""
    auc = "" if entry.auc is None else f'<div class="d-figure"><b>{share(entry.auc)}</b><span>ROC AUC</span></div>'
    return (
        f'<div class="d-run"><div><b>{escape_html(entry.title)}</b>{tag}'
        f"<p>{escape_html(' · '.join(facts))}</p></div>{auc}</div>"
    )


def _times(entry: Entry, zone: str | None) -> str:
    """When a run was kept; of an imported one, when it was computed and when it came."""
    kept = local_time(entry.kept, zone)
    if not entry.imported:
        return kept
    return f"imported {kept}" if entry.made is None else f"{local_time(entry.made, zone)}, imported {kept}"


def frame(entries: Sequence[Entry]) -> pd.DataFrame:
    """The list as data."""
    columns = ["title", "model", "task", "method", "seed", "positives", "negatives", "auc", "imported"]
    rows = [[getattr(entry, column) for column in columns] for entry in entries]
    found = pd.DataFrame(rows, columns=columns)
    found["options"] = [json.dumps(dict(entry.options)) for entry in entries]
    found["kept"] = [entry.kept.isoformat(timespec="seconds") for entry in entries]
    found["made"] = [entry.made.isoformat(timespec="seconds") if entry.made else "" for entry in entries]
    return found


# --- what can be done with a run ---------------------------------------------------------------------------


def _menu(runs: Library, entry: Entry) -> None:
    key = f"run_name_{entry.id}"
    st.text_input(
        "Name",
        entry.name,
        key=key,
        max_chars=MAX_NAME,
        placeholder=entry.title,
        on_change=_rename,
        args=(entry.id, key),
        help="Press Enter to keep it; an empty name brings the automatic one back.",
    )
    if st.button(
        "Compare with another",
        key=f"run_compare_{entry.id}",
        icon=":material/compare:",
        type="tertiary",
        help="Open this run on Compare, beside one that you choose there.",
    ):
        st.session_state["compare_first"] = entry.id
        routes.go("compare")
    st.download_button(
        "Export (JSON)",
        lambda: runs.export(entry.id),  # called when no session is at hand to ask for its library
        f"{_stem(entry)}.json",
        "application/json",
        key=f"run_export_{entry.id}",
        icon=":material/download:",
        type="tertiary",
        on_click="ignore",
        help="The whole run, with its name; Import and read_discovery() read it back.",
    )
    st.button(
        "Delete",
        key=f"run_delete_{entry.id}",
        icon=":material/delete:",
        type="tertiary",
        on_click=_ask_to_delete,
        args=(entry.id,),
        help="Take this run out of the library; asks first.",
    )


def _close(menu: str) -> None:
    """Close a menu, which would lie over what comes of it."""
    st.session_state[menu] = False


def _ask_to_delete(number: int) -> None:
    _close(f"run_more_{number}")
    st.session_state[_DELETES] = number


def _stem(entry: Entry) -> str:
    return file_stem(RunRequest(task=entry.task, method=entry.method, seed=entry.seed), entry.name)


@st.dialog("Delete this run?")
def _confirm_delete(entry: Entry) -> None:
    st.html(
        f'<p class="d-note">This deletes “{escape_html(entry.title)}” with its scores, codes and prompts; it cannot be '
        "undone.</p>"
    )
    with st.container(horizontal=True):
        if st.button("Delete", type="primary", key="run_delete_yes", help="Delete it for good."):
            _delete(entry)
            st.rerun()
        if st.button("Keep it", key="run_delete_no", help="Close this and change nothing."):
            st.rerun()


def _delete(entry: Entry) -> None:
    try:
        library().delete(entry.id)
        st.session_state[_SAID] = f"“{entry.title}” was deleted."
    except UserError as error:
        st.session_state[_PROBLEM] = str(error)


def _rename(number: int, key: str) -> None:
    try:
        library().rename(number, st.session_state[key])
    except UserError as error:
        st.session_state[_PROBLEM] = str(error)


def _open(number: int) -> None:
    """Put a run on Discover and its settings into the sidebar, where they can be set there."""
    try:
        found = library().load(number)
        state.show(View.of(found), asked_for=True)
    except UserError as error:
        st.session_state[_PROBLEM] = str(error)
        st.rerun()
    request = RunRequest.of(found)
    state.remember_request(request if request.settable() else RunRequest())
    if request.task == CUSTOM and request.settable():
        st.session_state["upload_pairs"] = request.pairs
    routes.go("discover")


# --- import ------------------------------------------------------------------------------------------------


def _import_form() -> None:
    """The place for a file; a new one each time, so that the next file can be the same one."""
    key, limits = f"runs_upload_{st.session_state.get(_UPLOADS, 0)}", demo_limits()
    st.file_uploader(
        "A saved run (JSON)",
        type="json",
        key=key,
        max_upload_size=MAX_UPLOAD if limits is None else limits.upload_mb,
        on_change=_take_in,
        args=(key,),
        help="What Export, Discovery.save or dsae discover --json wrote. It is checked before it is kept.",
    )


def _take_in(key: str) -> None:
    file = st.session_state[key]
    if file is None:
        return
    st.session_state[_UPLOADS] = st.session_state.get(_UPLOADS, 0) + 1
    _close(_IMPORT)
    try:
        if (limits := demo_limits()) is not None:
            limits.check_upload(file.size)
        runs = library()
        found, name = parse_named(file.getvalue())
        number, new = runs.keep(found, name=name, imported=True)
        entry = runs.entry(number)
        title = entry.title if entry else file.name
        st.session_state[_SAID] = (
            f"“{title}” {'was imported' if new else 'was in the library already and is its latest now'}."
        )
    except UserError as error:
        st.session_state[_PROBLEM] = f"{file.name} was not imported. {error}"
