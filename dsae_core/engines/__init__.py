"""Run benchmarks and exact patching on more than one process or machine, with Ray.

`cluster.py` reaches a cluster, `pool.py` hands jobs to its workers, `worker.py` is what a worker does, and
`benchmarking.py` and `measuring.py` are the two commands. Only `cluster.py` and `pool.py` know Ray.
"""

from __future__ import annotations

from typing import Literal, get_args

Engine = Literal["local", "ray"]
"""Where work is done: in this process, or by the workers of a Ray cluster."""

ENGINES: tuple[Engine, ...] = get_args(Engine)

__all__ = ["ENGINES", "Engine"]
