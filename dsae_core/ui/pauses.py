"""Short pauses for the garbage collector: while it looks through memory no page of any visitor is drawn."""

from __future__ import annotations

import gc


def keep_for_good() -> None:
    """Have the garbage collector pass over all that is here now, which is here to stay.

    To look through the half million objects of the libraries and a model takes it 0.3 s, again and again. What is given
    up after this call, if it refers to itself, is found at the next call.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
