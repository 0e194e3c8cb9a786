"""The sidebar: every setting of a run, and the button that starts it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

import streamlit as st

from dsae_core.errors import UserError
from dsae_core.limits import demo_limits
from dsae_core.models import available_models
from dsae_core.prompts import PromptPairs
from dsae_core.settings import METHODS, method_settings
from dsae_core.tasks import TASKS, read_pairs_csv
from dsae_core.ui import drafts, state
from dsae_core.ui.request import CUSTOM, MAX_EXAMPLES, MAX_SEED, Options, RunRequest, changed_options
from dsae_core.ui.sections.seeds import seeded
from dsae_core.ui.sections.sight import bring_into_sight
from dsae_core.ui.text import escape_markdown, plural

MAX_CSV = 5
"""MB of an uploaded table."""

METHOD_HELP = {
    "positional": "A small dictionary for every head; codes are compared position by position.",
    "paper": "O'Neill & Bui 2024: one dictionary for all heads; a prompt's positions are pooled.",
}


_DRAWN = "examples_drawn"
"""How many prompt pairs of a task were asked for last."""

LABELS = {"threshold": "Code threshold"}
"""Of settings whose names alone would be mistaken for something else on the page."""


def settings() -> RunRequest | None:
    """Draw the settings; the request they stand for, None where they are not complete."""
    kept = state.request() or _from_link()
    model = _model(kept)
    task = _task(kept)
    pairs, examples = (_own_prompts(kept), 0) if task == CUSTOM else (None, _examples(kept))
    method = _method(kept)
    seed = int(
        st.number_input(
            "Seed",
            0,
            MAX_SEED,
            key=seeded("set_seed", kept.seed),
            help="Fixes the prompts drawn and the dictionary's start: the same seed gives the same scores.",
        )
    )
    options, problem = _advanced(method, kept)
    asked = RunRequest(
        model=model,
        task=task,
        examples=len(pairs) if pairs else examples or kept.examples,
        method=method,
        seed=seed,
        options=options,
        pairs=pairs,
    )
    state.remember_request(asked)
    _to_link(asked)
    if problem:
        st.error(escape_markdown(problem))
    return None if problem or not model or (task == CUSTOM and pairs is None) else asked


def _from_link() -> RunRequest:
    asked, bad = RunRequest.from_query(st.query_params.to_dict(), TASKS)
    if bad:
        state.say("note", misunderstood(bad))
    return asked


def misunderstood(bad: Sequence[str]) -> str:
    """What to say of a link's parameters that make no sense."""
    words = []
    if "prompts" in bad:
        words.append("The prompts in this link are damaged; ask for it again, or write your own below.")
    if others := [name for name in bad if name != "prompts"]:
        default = "the default is used in its place" if len(others) == 1 else "defaults are used in their place"
        words.append(f"The link's {', '.join(others)} could not be understood; {default}.")
    return " ".join(words)


def _to_link(asked: RunRequest) -> None:
    query = asked.to_query()
    if st.query_params.to_dict() != query:
        st.query_params.from_dict(query)


def _model(kept: RunRequest) -> str:
    known, limits = {info.name: info for info in available_models()}, demo_limits()
    if limits is None:
        names = list(known) if kept.model in known else [*known, kept.model]
        text = "A model of the list, or type a name of the Hugging Face hub or a local folder."
    else:
        names, text = list(limits.models), "The models that this public demo runs."
        if kept.model not in names:
            state.say("note", f"This public demo does not run {kept.model}; {names[0]} takes its place.")
            kept = replace(kept, model=names[0])
        if st.session_state.get("set_model", names[0]) not in names:
            st.session_state["set_model"] = names[0]
    chosen = st.selectbox(
        "Model", names, key=seeded("set_model", kept.model), accept_new_options=limits is None, help=text
    )
    model = (chosen or "").strip()
    if model in known:
        note = "" if known[model].fetched else " It is fetched once, at the first run."
        st.caption(escape_markdown(known[model].description) + note)
    return model


def _task(kept: RunRequest) -> str:
    titles = {**{name: task.title for name, task in TASKS.items()}, CUSTOM: "Your own prompts"}
    task = str(
        st.selectbox(
            "Task",
            list(titles),
            format_func=titles.__getitem__,
            key=seeded("set_task", kept.task),
            help="The behaviour whose heads are looked for.",
        )
    )
    if task != CUSTOM:
        st.caption(escape_markdown(TASKS[task].description))
    return task


def _examples(kept: RunRequest) -> int:
    most = max_examples()
    # Somebody's own prompts are as many as they are; a task has as many as it had before them.
    first = st.session_state.get(_DRAWN, RunRequest().examples) if kept.task == CUSTOM else kept.examples
    examples = st.slider(
        "Examples",
        1,
        most,
        key=seeded("set_examples", min(max(first, 1), most)),
        help="Prompt pairs drawn: so many positives, and as many matched negatives. 5 to 10 are enough to start.",
    )
    st.session_state[_DRAWN] = int(examples)
    _edit_button()
    return int(examples)


def max_examples() -> int:
    """The most prompt pairs that this server draws."""
    limits = demo_limits()
    return MAX_EXAMPLES if limits is None else min(limits.pairs, MAX_EXAMPLES)


def _edit_button() -> None:
    """Open the prompts of the result on show in the editor."""
    st.button(
        "Edit these prompts",
        key="edit_prompts",
        type="tertiary",
        icon=":material/edit:",
        on_click=_edit,
        help="Open the prompts of the result on show in a table, as your own.",
    )


def _edit() -> None:
    shown = state.shown()
    pairs = None if shown is None else shown.view.discovery.prompts
    if pairs is None:
        state.say("note", "There is no result with prompts on show; run a discovery first, or write your own prompts.")
        return
    drafts.open_pairs(replace(pairs, task=CUSTOM))
    st.session_state["set_task"] = CUSTOM
    bring_into_sight(f"table {drafts.editor_key()}")


def _own_prompts(kept: RunRequest) -> PromptPairs | None:
    """The pairs in the editor, which the page draws; a file can be read into it. None where they are not complete."""
    brought = st.session_state.pop("upload_pairs", None)  # by another page, or left by a link
    if brought is None and not drafts.begun():
        brought = kept.pairs
    if brought is not None:
        drafts.open_pairs(brought)
    st.file_uploader(
        "Prompt pairs (CSV)",
        type="csv",
        key="upload",
        max_upload_size=_max_csv(),
        on_change=_read_upload,
        help="Columns positive, negative and, if known, answer and distractor; one pair a row. It replaces the table.",
    )
    if problem := st.session_state.get("upload_error"):
        st.error(f"The file was not read, and the table is as it was. {escape_markdown(problem)}")
    draft = drafts.current()
    if draft.pairs is not None:
        st.caption(f"{plural(len(draft.pairs), 'prompt pair')}, in the table on the page.")
    elif draft.problem:
        told = draft.problem if draft.too_large else "The table on the page is not complete; it says what is missing."
        st.caption(escape_markdown(told))
    else:
        st.caption("Write prompt pairs into the table on the page, or read a file.")
    return draft.pairs


def _read_upload() -> None:
    st.session_state["upload_error"] = None
    file = st.session_state["upload"]
    if file is None:
        return
    try:
        if file.size > _max_csv() * 1024 * 1024:  # the browser was told, but anything may send a file
            raise UserError(f"The file has more than {_max_csv()} MB; give fewer or shorter prompts.")
        drafts.open_pairs(read_pairs_csv(file.getvalue().decode("utf-8-sig")))
    except UnicodeDecodeError:
        st.session_state["upload_error"] = "The file is not UTF-8 text; save it as a UTF-8 CSV file."
    except UserError as error:
        st.session_state["upload_error"] = str(error)


def _max_csv() -> int:
    limits = demo_limits()
    return MAX_CSV if limits is None else min(limits.upload_mb, MAX_CSV)


def _method(kept: RunRequest) -> str:
    return str(
        st.radio(
            "Method",
            list(METHODS),
            format_func=str.capitalize,
            captions=[METHOD_HELP[name] for name in METHODS],
            key=seeded("set_method", kept.method),
            help="How head outputs become codes. Positional finds more of the circuit from few prompts.",
        )
    )


def _advanced(method: str, kept: RunRequest) -> tuple[Options, str]:
    """The changed settings of the method, and what is wrong with them, "" where nothing is."""
    asked = dict(kept.options) if kept.method == method else {}
    limits = demo_limits()
    largest = {} if limits is None else limits.largest
    helps, kinds = attribute_helps(METHODS[method]), get_type_hints(METHODS[method])
    with st.expander("Advanced"):
        values = {
            field.name: _setting(
                f"{method}_{field.name}",
                field.name,
                kinds[field.name],
                asked.get(field.name, field.default),
                field.default,
                helps[field.name],
                largest.get(field.name),
            )
            for field in fields(METHODS[method])
        }
    try:
        method_settings(method, values)
    except UserError as error:
        return (), str(error)
    return changed_options(method, values), ""


def _setting(key: str, name: str, kind: Any, value: Any, default: Any, text: str, most: int | None) -> Any:
    """One setting's widget, by its type."""
    label = LABELS.get(name) or (name.removeprefix("n_").replace("_", " ").capitalize() if len(name) > 2 else name)
    if most is not None and value > most:
        value = most
    key = seeded(f"set_{key}", value)
    if get_args(kind):
        return st.selectbox(label, get_args(kind), key=key, help=text)
    if kind is bool:
        return st.toggle(label, key=key, help=text)
    if kind is int:
        return int(st.number_input(label, min_value=1, max_value=most, key=key, help=text))
    return float(st.number_input(label, min_value=0.0, step=default / 10, format="%g", key=key, help=text))


def attribute_helps(cls: type) -> dict[str, str]:
    """The sentences of a docstring's Attributes section, by name."""
    section = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
    entries = re.split(r"^    (?=\w+: )", section, flags=re.MULTILINE)[1:]
    pairs = (entry.split(": ", 1) for entry in entries)
    return {name: _sentence(" ".join(text.split())) for name, text in pairs}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
