"""Keep transformers off the terminal while it loads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from tqdm import tqdm


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no notices of transformers; callers have their own in `progress`."""
    from transformers import modeling_gguf_pytorch_utils as _gguf
    from transformers.utils import logging as _logging

    logging: Any = _logging
    gguf: Any = _gguf  # its bar over a file's tensors is not among those that transformers can hide
    bars, gguf_bar = logging.is_progress_bar_enabled(), gguf.tqdm
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    gguf.tqdm = partial(tqdm, disable=True)
    try:
        yield
    finally:
        gguf.tqdm = gguf_bar
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
