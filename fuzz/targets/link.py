"""Links: whatever a query string says, there is a request, and that request's own link opens it again."""

from __future__ import annotations

import ast
import base64
import zlib
from random import Random
from urllib.parse import parse_qsl, urlencode

import torch

from dsae_core.errors import UserError
from dsae_core.prompts import PromptPairs
from dsae_core.result import Discovery
from dsae_core.tasks import TASKS
from dsae_core.ui import sharing
from dsae_core.ui.request import CUSTOM, RunRequest, pack_pairs, unpack_pairs
from fuzz.documents import mutate_json, mutate_text
from fuzz.target import Target, require

_PAIRS = PromptPairs(("a b", 'say "hi"\n'), ("a c", "{x}"), ((" x",), (" y", " z")), ((" u",), (" v",)))
_SEEDS = tuple(
    urlencode(request.to_query()).encode()
    for request in (
        RunRequest(),
        RunRequest("./my model&x=1", "ioi", 25, "paper", 3, (("l1", 0.05), ("per_union", True), ("pool", "last"))),
        RunRequest(task=CUSTOM, examples=2, seed=4, options=(("k", 2), ("threshold", 0.25)), pairs=_PAIRS),
    )
)
_WORDS = tuple(b"&task= &task=custom &method=paper &seed= &examples= &prompts= &k= &l1= &pool=".split()) + tuple(
    b"=nan =inf =1e400 =-1 =0 =1_0 =True =%00 =%ED%A0%80 =2147483648 =99999999999999999999".split()
)


def _run(data: bytes) -> None:
    query = dict(parse_qsl(data.decode(errors="replace"), keep_blank_values=True))
    request, _ = RunRequest.from_query(query, TASKS)
    url = sharing.link("http://127.0.0.1:8501/?old=1", request)
    again = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))
    if sharing.carries_prompts(request):
        require(RunRequest.from_query(again, TASKS) == (request, []), "the link opens another run")
    request.settable()
    require(len(sharing.file_stem(request)) <= 60, "a long file name")
    if request.pairs is not None:
        require(unpack_pairs(pack_pairs(request.pairs)) == request.pairs, "prompts do not unpack")
    _check_snippet(request)


def _check_snippet(request: RunRequest) -> None:
    """The Python that repeats a run with these settings is Python."""
    settings = {"method": request.method, "seed": request.seed, **dict(request.options)}
    pairs = request.pairs or PromptPairs(("a",), ("b",), task=request.task)
    found = Discovery(
        torch.zeros(1, 1),
        torch.zeros(1, 1),
        torch.zeros(2, 1, 1, dtype=torch.int32),
        torch.zeros(2, 1, 1),
        1,
        settings=settings,
        provenance={"model": request.model},
        prompts=pairs,
    )
    try:
        ast.parse(sharing.python(found, 0.5))
    except UserError:
        return


def _mutate(data: bytes, random: Random) -> bytes:
    """Half of the time the prompts that a link carries, packed, and otherwise its text."""
    query = dict(parse_qsl(data.decode(errors="replace"), keep_blank_values=True))
    if "prompts" not in query or random.random() < 0.5:
        return mutate_text(data, random, _WORDS)
    try:
        packed = query["prompts"]
        text = zlib.decompress(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
    except (ValueError, zlib.error):
        return mutate_text(data, random, _WORDS)
    changed = base64.urlsafe_b64encode(zlib.compress(mutate_json(text, random))).decode()
    return urlencode({**query, "prompts": changed.rstrip("=")}).encode()


TARGETS = {"link": Target(_run, _SEEDS, _mutate)}
