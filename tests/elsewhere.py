"""A device that is not there: its tensors say that they are elsewhere, and compute like any others.

Code that is ready for a GPU runs on it, and gives the same numbers. Code that is not raises: where it mixes tensors
here and there, or, while `watched`, makes a tensor here that it did not get from a generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")
"""What such tensors say: the one device that every torch knows and on which nothing is."""

_MOVES = {"_to_copy", "copy_"}
_DRAWS = {"rand", "randn", "randint", "randperm", "uniform_", "normal_", "random_"}


class MixedDevicesError(Exception):
    """An operation got tensors of both devices, or made one on the wrong one."""


class _There(Tensor):
    """A tensor that says it is elsewhere; `here` has its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> _There:
        made: _There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, here.shape, strides=here.stride(), dtype=here.dtype, device=ELSEWHERE
        )
        made.here = here
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"elsewhere: {self.here!r}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise MixedDevicesError(f"{func} outside of `watched`")


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.split("::")[1]
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, _There)]
        if there and len(there) < len(tensors) and name not in _MOVES:
            raise MixedDevicesError(f"{func} got tensors here and there")
        result_is_there = bool(there)
        if kwargs.get("device") is not None:
            result_is_there = torch.device(kwargs["device"]) == ELSEWHERE
            kwargs["device"] = torch.device("cpu")
        elif name == "copy_":
            result_is_there = isinstance(args[0], _There)
        if not tensors and not result_is_there and name not in _DRAWS:
            raise MixedDevicesError(f"{func} makes a tensor here")
        args, kwargs = tree_map(lambda leaf: leaf.here if isinstance(leaf, _There) else leaf, (args, kwargs))
        result = func(*args, **kwargs)
        return tree_map(_There, result) if result_is_there and _has_tensors(result) else result


def _has_tensors(result: Any) -> bool:
    return all(isinstance(leaf, Tensor) for leaf in tree_leaves(result))


@contextmanager
def watched() -> Iterator[None]:
    """While open, tensors may be moved there and worked with, and may not be made here."""
    with _Watch():
        yield
