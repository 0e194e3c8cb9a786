"""Refuse before the machine runs out of memory, with the two numbers that say why; and say so where it does."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
import torch

from dsae_core.circuits import Head
from dsae_core.errors import UserError
from dsae_core.models.language_model import LanguageModel

GIB = 2**30
WORKSPACE = 48 * 2**20
"""Bytes that libraries take for themselves in a first run: scratch of matrix products, threads' stacks."""

_CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
"""Of versions 2 and 1, under /sys/fs/cgroup: a container's limit, what it uses, and the files among that."""


class TooLittleMemoryError(UserError):
    """More memory is needed than there is."""


def available_memory(device: torch.device) -> int:
    """Bytes that can be allocated on the device now; in a container, as many as are left of its limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(int(psutil.virtual_memory().available), *_left_in_container())


def _left_in_container(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Bytes left of the limits of the container that this process is in, as far as there are any.

    Files that the system keeps in memory count as used, and are given up where memory is needed.
    """
    left = []
    for limit, used, files in _CGROUPS:
        try:
            most = (root / limit).read_text().strip()
            lines = (root / limit).with_name("memory.stat").read_text().splitlines()
            kept = next((int(line.split()[1]) for line in lines if line.startswith(f"{files} ")), 0)
            left.append(int(most) - int((root / used).read_text()) + kept)
        except (OSError, ValueError, IndexError):  # there is no such limit, or it is "max"
            continue
    return [max(0, n_bytes) for n_bytes in left]


def require_memory(n_bytes: int, device: torch.device, what: str, advice: str) -> None:
    """Raise a UserError unless `n_bytes` are free on the device; `what` needs them, `advice` is a sentence."""
    available = available_memory(device)
    if n_bytes > available:
        raise TooLittleMemoryError(
            f"{what} need {n_bytes / GIB:.1f} GiB of memory, and {available / GIB:.1f} GiB are free on "
            f"{device}. {advice}"
        )


# --- what a discovery needs --------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunSize:
    """What the memory of forward passes depends on."""

    n_prompts: int
    length: int  # T
    n_layers: int  # L
    n_heads: int  # h, of a layer
    d_head: int  # d
    d_model: int  # D
    d_mlp: int
    vocabulary: int  # V
    width: int = 4  # bytes of a number in the model's dtype

    @classmethod
    def of(cls, model: LanguageModel, n_prompts: int, length: int) -> Self:
        """That of so many prompts of so many tokens through a model."""
        config = model.module.config.get_text_config()
        d_mlp = next((n for n in (getattr(config, k, None) for k in _MLP_NAMES) if isinstance(n, int)), None)
        return cls(
            n_prompts,
            length,
            model.n_layers,
            model.n_heads,
            model.d_head,
            model.d_model,
            d_mlp if d_mlp is not None else 4 * model.d_model,
            int(config.vocab_size),
            model.module.dtype.itemsize,
        )

    @property
    def _layer(self) -> int:
        """Numbers in one layer's forward pass over one prompt."""
        return self.n_heads * self.length**2 * 3 + self.length * (3 * self.d_mlp + 8 * self.d_model)

    @property
    def _all_heads(self) -> int:
        return self.n_layers * self.n_heads

    @property
    def _z(self) -> int:
        return self.n_prompts * self.length * self._all_heads * self.d_head


@dataclass(frozen=True)
class DiscoverySize(RunSize):
    """What the memory of a discovery depends on; its prompts are those of both sides, E."""

    def collecting(self, *, routes: bool) -> int:
        """Bytes of the head outputs, the routes with them or not, and of one layer of the forward pass over them."""
        layer = min(self.n_prompts, FORWARD_PROMPTS) * self._layer
        logits = 2 * self.n_prompts * self.vocabulary
        return 4 * (self._z + (self._routes if routes else 0) + layer + logits)

    def following(self, *, routes: bool) -> int:
        """Bytes while the change is followed to the prediction, by routes or, without them, by depth."""
        kept = self._z + self._w_o
        if not routes:
            return 4 * kept
        changes = self.n_prompts * self.length * self.n_layers * self.d_model // 2 + self._z // 2
        written = 2 * self.length * self._all_heads * self.d_model  # by all heads in one prompt
        return 4 * (kept + self._routes + changes + written + 3 * self._all_heads**2)

    def scoring(self, *, positional: bool) -> int:
        """Bytes on the CPU from the head outputs to the scores."""
        kept = self._z + self._w_o
        pairs = 4 * self._all_heads**2
        if positional:  # the rows in other coordinates, and copies of them while they are centred and trained on
            return 4 * (kept + 4 * self._z + pairs)
        written = min(self.n_prompts, PAPER_PROMPTS) * self._all_heads * self.d_model
        return 4 * (kept + max(2 * self._z, 2 * written) + pairs)  # it is pooled in another order of its axes

    @property
    def _routes(self) -> int:
        attention = self.n_prompts * self._all_heads * self.length**2
        return attention + self._z + self.n_prompts * self.length * self.n_layers * self.d_model

    @property
    def _w_o(self) -> int:
        return self._all_heads * self.d_head * self.d_model


_MLP_NAMES = ("intermediate_size", "ffn_dim", "n_inner")
FORWARD_PROMPTS = 64
"""Prompts in one forward pass, at most."""
PAPER_PROMPTS = 10
"""Prompts that the paper's dictionary is trained on by default."""


def discovery_bytes(model: LanguageModel, n_prompts: int, length: int, *, positional: bool, routes: bool) -> int:
    """About how many bytes a discovery takes at its peak, beside the model, on the CPU; the tests compare it."""
    size = DiscoverySize.of(model, n_prompts, length)
    stages = size.collecting(routes=routes), size.following(routes=routes), size.scoring(positional=positional)
    return WORKSPACE + max(stages)


# --- what patching and rivals need -------------------------------------------------------------------------

FLOAT, DOUBLE = 4, 8
"""Bytes of a number."""
ROWS_PER_PASS = 320
"""Prompts times heads that are patched in one forward pass, at most."""


@dataclass(frozen=True)
class PatchingSize(RunSize):
    """What the memory of patching, ablation and rival methods depends on; its prompts are the N pairs.

    What is asked for is the bytes at the peak, beside the model, WORKSPACE included.
    """

    def patching(self, rows_per_pass: int = ROWS_PER_PASS) -> int:
        """Each head patched alone, so many prompts times heads in one forward pass; with 1, one head in a pass."""
        return self._patching(self.n_heads, rows_per_pass)

    def paths(self, heads: Sequence[Head], rows_per_pass: int = ROWS_PER_PASS) -> int:
        """Each direct path between two of these heads patched alone; what receivers get is kept for every path."""
        senders = [sum(sender[0] < receiver[0] for sender in heads) for receiver in heads]
        received = sum(senders) * self.n_prompts * self.length * self.d_head
        return self._patching(max(senders, default=0), rows_per_pass) + self.width * (self._z + received)

    def _patching(self, most: int, rows_per_pass: int) -> int:
        """Bytes of both sides and of passes that patch so many heads of a layer at most, each in a run of its own."""
        rows = self.n_prompts * min(most, max(1, rows_per_pass // self.n_prompts))
        repeated = self.length * (self.d_model + self.n_heads * self.d_head)  # a block's output, the patched z
        layer = self.width * rows * (self._layer + repeated)
        logits = (FLOAT + 2 * DOUBLE) * rows * self.vocabulary
        return WORKSPACE + self.width * (self._blocks + self._z) + max(self.width * self._z, layer, logits)

    def ablating(self) -> int:
        """Any set of heads ablated, one forward pass each."""
        layer = self.width * max(self._z, self.n_prompts * self._layer)
        return WORKSPACE + self.width * self._z + max(layer, self._compared)

    def pruning(self) -> int:
        """The same in passes that resume at a layer."""
        return self.ablating() + self.width * self._blocks

    def reading(self) -> int:
        """The head outputs of both sides in float32 and differences of them, without routes."""
        layer = self.width * min(2 * self.n_prompts, FORWARD_PROMPTS) * self._layer
        return WORKSPACE + FLOAT * 2 * self._z + max(FLOAT * 2 * self._z, layer)

    def gradients(self) -> int:
        """A forward and a backward pass."""
        saved = self.n_layers * self.n_prompts * self._saved
        return WORKSPACE + self.width * (6 * self._z + saved) + self._compared

    def edges(self) -> int:
        """The same, and the gradient at what each head alone reads."""
        return self.gradients() + self.width * self.n_prompts * self.length * self._all_heads * self.d_model

    @property
    def _blocks(self) -> int:
        return self.n_prompts * self.length * self.n_layers * self.d_model

    @property
    def _saved(self) -> int:
        """Numbers that one layer over one prompt keeps for its backward pass."""
        return self.n_heads * self.length**2 * 2 + self.length * (5 * self.d_mlp + 14 * self.d_model)

    @property
    def _compared(self) -> int:
        """Bytes of two predictions and their divergence."""
        return (2 * FLOAT + 5 * DOUBLE) * self.n_prompts * self.vocabulary


# --- where it runs out all the same ------------------------------------------------------------------------


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's or torch's exception for that, or their text or C++'s in a RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc", "out of memory", "bad allocation")


def give_back_memory() -> None:
    """Give freed memory that this process still holds back to the system, where that can be asked for."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl has none
        if trim is not None:
            trim(0)


def is_device_failure(error: BaseException) -> bool:
    """Whether an exception is of a GPU that is lost, broken or full, and not of what it was asked to do."""
    if isinstance(error, TooLittleMemoryError | torch.OutOfMemoryError | torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _DEVICE_FAILED)


_DEVICE_FAILED = ("CUDA error", "CUDA out of memory", "CUBLAS_STATUS", "CUDNN_STATUS", "cuBLAS", "cuDNN error", "NVML")


@contextmanager
def memory_sentence(n_bytes: int, device: torch.device, what: str, advice: str) -> Iterator[None]:
    """Turn memory that runs out in the midst of work into the sentence of require_memory.

    Raises:
        TooLittleMemoryError: memory ran out; names what was needed, by the estimate, and what is free now.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        free = available_memory(device)
        raise TooLittleMemoryError(
            f"{what} need {n_bytes / GIB:.1f} GiB of memory, which ran out on {device}, where {free / GIB:.1f} GiB are "
            f"free now. {advice}"
        ) from error
