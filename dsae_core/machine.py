"""Facts about this machine that a measurement is kept with."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from dsae_core import _native


def machine_facts() -> dict[str, Any]:
    """Processor, threads, memory, GPU, versions and how the operators were built."""
    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "build": dict(_native.build_info()),
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cuda_launches() -> tuple[Mapping[str, Any], ...]:
    """What each CUDA kernel takes of the current device; empty without CUDA operators or a device.

    The keys are those of `_native.KernelAttributes`, and "occupancy": the share of the threads a processor can hold.
    """
    if _native.build_info()["cuda_version"] is None or not torch.cuda.is_available():
        return ()
    most = torch.cuda.get_device_properties(torch.cuda.current_device()).max_threads_per_multi_processor
    return tuple(
        {**kernel, "occupancy": round(kernel["blocks_per_processor"] * kernel["threads"] / most, 3)}
        for kernel in _native.kernel_attributes()
    )
