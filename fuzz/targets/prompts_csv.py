"""A user's prompts: what read_pairs_csv takes must be written and read back the same."""

from __future__ import annotations

import functools

from dsae_core.errors import UserError
from dsae_core.prompts import PromptPairs
from dsae_core.tasks import read_pairs_csv, write_pairs_csv
from fuzz.documents import mutate_text
from fuzz.target import Target, require

_SEEDS = (
    b"positive,negative\nMary and John,Anna and John\na b,c d\n",
    b'negative,positive,answer,distractor,note\n"A, b",B c, x| y, z,hello\nd,e, f, g,\n',
    b'positive;negative\r\n"a; b";c, d\r\ne;"f\ng"\r\n',
    b'\xef\xbb\xbfPositive , NEGATIVE\r\n"say ""hi""\nthere",plain\r\n\r\nlast,row\r\n',
)
_WORDS = (*b'positive,negative,answer,distractor,nan,|,;,"",\''.split(b","), b'",', b',"', b"\xc2\x85", b"\t")


def _run(data: bytes) -> None:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return  # read_text and the page's upload refuse it
    try:
        pairs = read_pairs_csv(text)
    except UserError:
        return
    require(read_pairs_csv(write_pairs_csv(pairs)) == pairs, "CSV does not read back")
    require(PromptPairs.from_dict(pairs.to_dict()) == pairs, "JSON does not read back")
    write_pairs_csv(pairs).encode()


TARGETS = {"prompts_csv": Target(_run, _SEEDS, functools.partial(mutate_text, words=_WORDS))}
