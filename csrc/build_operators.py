"""How the extension is compiled; setup.py decides whether.

No .cu file sees a torch header, so nvcc compiles them beside any torch, the CPU-only one included.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension

SOURCES = Path(__file__).parent.resolve()
ROOT = SOURCES.parent
DEFAULT_ARCHS = "80 90a 90+PTX"
TORCH_2_11 = "0x020b000000000000"
PYTHON_3_11 = "0x030b0000"

CXX_FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra"]
CXX_FLAGS += ["-fno-math-errno", "-fno-trapping-math"]  # let square roots and comparisons be vectorised
CXX_FLAGS += ["-Wno-unused-parameter", "-Wno-psabi"]  # torch's headers; vectors passed between inlined functions
NVCC_FLAGS = ["-std=c++17", "-O3", "-Xptxas", "-warn-spills", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
# With the nvcc that the kernels are tuned for, a register that spills to memory ends the build. Another one may spill a
# few, which costs speed and no more.
TUNED_NVCC = "13.0"

for module in ("torch", "ninja", "pybind11"):
    if importlib.util.find_spec(module) is None:
        raise SystemExit(
            f"Building dsae-core without build isolation needs {module}: "
            "run `make setup`, or drop --no-build-isolation."
        )

import ninja  # noqa: E402
import pybind11  # noqa: E402
import torch  # noqa: E402
from torch.utils.cpp_extension import BuildExtension, CppExtension  # noqa: E402

# BuildExtension looks for ninja on PATH, where a virtual environment that isn't activated doesn't have it.
os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, os.environ["PATH"]])


@dataclass(frozen=True)
class CudaToolkit:
    nvcc: str
    version: str
    library_dir: str
    archs: list[str]

    @property
    def flags(self) -> list[str]:
        tuned = self.version == TUNED_NVCC and set(self.archs) <= set(DEFAULT_ARCHS.split())
        return [*NVCC_FLAGS, *(["-Xptxas", "-Werror"] if tuned else [])]

    @property
    def gencode_flags(self) -> list[str]:
        return [f"-gencode={gencode(arch)}" for arch in self.archs]

    @property
    def link_flags(self) -> list[str]:
        return [f"-L{self.library_dir}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]


def gencode(arch: str) -> str:
    """90a -> machine code for sm_90a; 90+PTX -> portable code that the driver compiles for newer devices."""
    match = re.fullmatch(r"(\d+)\.?(\d)([af]?)(\+PTX)?", arch)
    if not match:
        raise SystemExit(f"DSAE_CUDA_ARCHS: {arch!r} is no architecture; write for example {DEFAULT_ARCHS!r}.")
    major, minor, suffix, ptx = match.groups()
    number = f"{major}{minor}{suffix}"
    return f"arch=compute_{number},code={'compute' if ptx else 'sm'}_{number}"


def find_cuda() -> CudaToolkit | None:
    mode = os.environ.get("DSAE_CUDA", "auto")
    if mode not in ("auto", "1", "0"):
        raise SystemExit(f"DSAE_CUDA is {mode!r}; it must be auto, 1 or 0.")
    if mode == "0":
        return None
    home = os.environ.get("CUDA_HOME")
    places = [f"{home}/bin/nvcc"] if home else ["nvcc", "/usr/local/cuda/bin/nvcc"]
    nvcc = next(filter(None, map(shutil.which, places)), None)
    if nvcc is None:
        if mode == "1":
            raise SystemExit("DSAE_CUDA=1, but there is no nvcc: install the CUDA toolkit or set CUDA_HOME.")
        return None
    archs = re.split(r"[\s;,]+", os.environ.get("DSAE_CUDA_ARCHS", DEFAULT_ARCHS).strip())
    for arch in archs:
        gencode(arch)
    return CudaToolkit(nvcc, nvcc_version(nvcc), cudart_dir(nvcc), archs)


def nvcc_version(nvcc: str) -> str:
    report = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"release (\d+\.\d+)", report)
    if not match:
        raise SystemExit(f"{nvcc} does not run; repair the CUDA toolkit, or set DSAE_CUDA=0 to build without it.")
    return match.group(1)


def cudart_dir(nvcc: str) -> str:
    """nvcc may be a link or a script, so it is asked where its toolkit is."""
    plan = subprocess.run(
        [nvcc, "--dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True, check=False
    ).stderr
    match = re.search(r"TOP=(.+)", plan)
    top = Path(match.group(1)) if match else Path(nvcc).resolve().parents[1]
    for folder in [top / "lib64", top / "lib", *top.glob("targets/*/lib")]:
        if (folder / "libcudart_static.a").exists():
            return str(folder.resolve())
    raise SystemExit(
        f"The CUDA toolkit at {top.resolve()} has no libcudart_static.a: install its development files, "
        "or set DSAE_CUDA=0 to build without CUDA."
    )


class BuildOperators(BuildExtension):
    """Compiles the .cu files, then lets torch's BuildExtension compile and link the rest, all through ninja."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # An editable install would put the objects in a folder it deletes: keep them, so that only what
        # changed is compiled again.
        self.objects_dir = ROOT / "build" / f"objects-{sys.implementation.cache_tag}"

    def build_extensions(self) -> None:
        if CUDA:
            self.extensions[0].extra_objects += compile_cuda(CUDA, self.objects_dir / "cuda")
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        self.build_temp = str(self.objects_dir / ext.name.rpartition(".")[2])
        super().build_extension(ext)


def compile_cuda(cuda: CudaToolkit, folder: Path) -> list[str]:
    """Compiles csrc/cuda/*.cu into folder and returns the object files."""
    command = [cuda.nvcc, "-c", "-ccbin", shlex.split(os.environ["CXX"])[0]]
    command += [*cuda.flags, *cuda.gencode_flags, "-I", str(SOURCES)]
    sources = sorted(SOURCES.glob("cuda/*.cu"))
    objects = [folder / f"{source.stem}.o" for source in sources]
    rule = f"rule nvcc\n  command = {shlex.join(command)} -MD -MF $out.d -o $out $in\n"
    rule += "  depfile = $out.d\n  deps = gcc\n"
    builds = "".join(f"build {obj}: nvcc {src}\n" for obj, src in zip(objects, sources, strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text(rule + builds)
    jobs = [f"-j{os.environ['MAX_JOBS']}"] if os.environ.get("MAX_JOBS", "").isdigit() else []
    if subprocess.run([Path(ninja.BIN_DIR, "ninja"), "-C", folder, *jobs], check=False).returncode:
        raise SystemExit(
            "nvcc could not compile csrc/cuda (its messages are above); set DSAE_CUDA=0 to build without CUDA."
        )
    return [str(obj) for obj in objects]


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def sources(*patterns: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


CUDA = find_cuda()
COMPILE_ARGS = [*CXX_FLAGS, f"-ffile-prefix-map={ROOT}/="]


def build_facts() -> list[tuple[str, str | None]]:
    """What csrc/build_facts.h is told."""
    facts = {
        "CXX_FLAGS": shlex.join(CXX_FLAGS),
        "NVCC_FLAGS": shlex.join(CUDA.flags) if CUDA else "",
        "TORCH_VERSION": str(torch.__version__),
        "CUDA_VERSION": CUDA.version if CUDA else "",
        "CUDA_ARCHS": " ".join(CUDA.archs) if CUDA else "",
    }
    return [(f"DSAE_{name}", quoted(value)) for name, value in facts.items()]


def extensions(*, every_python: bool) -> list[Extension]:
    """dsae_core._C and, where it isn't to serve every Python, dsae_core._native: pybind11 has no limited API."""
    operators = CppExtension(
        "dsae_core._C",
        sources("csrc/build_facts.cpp", "csrc/ops.cpp", "csrc/cpu/*.cpp", *(["csrc/cuda/*.cpp"] if CUDA else [])),
        py_limited_api=True,
        include_dirs=[str(SOURCES)],
        define_macros=[("TORCH_TARGET_VERSION", TORCH_2_11), ("Py_LIMITED_API", PYTHON_3_11), *build_facts()],
        extra_compile_args=COMPILE_ARGS,
        extra_link_args=CUDA.link_flags if CUDA else [],
    )
    native = Extension(
        "dsae_core._native",
        ["csrc/native.cpp"],
        include_dirs=[str(SOURCES), pybind11.get_include()],
        define_macros=build_facts(),
        extra_compile_args=COMPILE_ARGS,
        language="c++",
    )
    return [operators] if every_python else [operators, native]
