"""Compiles the CUDA kernels with NVRTC to PTX for compute_80, and that to sm_80 and sm_90 for a report of each kernel.

Needs no GPU: pip install nvidia-cuda-nvrtc-cu12==12.4.127 nvidia-cuda-nvcc-cu12==12.4.131 (the second for ptxas).

    ptx.py [--ptx] [--check] [NAME ...]

--ptx writes src/device/kernels/NAME.ptx; --check only compares the hashes in those files with the sources. Without
names: all kernels. Exits 1 at an error, a warning, a spill or a stale file.
"""

import argparse
import ctypes
import hashlib
import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile

KERNELS = pathlib.Path(__file__).resolve().parents[2] / "src" / "device" / "kernels"
OPTIONS = ["--gpu-architecture=compute_80", "--std=c++17"]
HASH = "// source sha256: "
SHARED_LIMIT = 48 * 1024


def package(name):
    """Folder of an installed package such as nvidia.cuda_nvrtc."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        sys.exit(f"ptx.py: no Python package {name}: " + __doc__.split("\n\n")[1])
    return pathlib.Path(list(spec.submodule_search_locations)[0])


class Nvrtc:
    """The compiler library."""

    def __init__(self):
        folder = package("nvidia.cuda_nvrtc") / "lib"
        self.lib = ctypes.CDLL(str(next(folder.glob("libnvrtc.so.*"))))
        self.lib.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(self, name, *args):
        status = getattr(self.lib, name)(*args)
        if status not in (0, 6):  # 6: the program does not compile; its log says why
            sys.exit(f"ptx.py: {name}: {self.lib.nvrtcGetErrorString(status).decode()}")
        return status

    def text(self, program, what):
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, buffer)
        return buffer.value.decode()

    def compile(self, source, define):
        """PTX of a .cu file (None if it does not compile) and the compiler's messages."""
        headers = sorted(KERNELS.glob("*.cuh"))
        texts = (ctypes.c_char_p * len(headers))(*[header.read_bytes() for header in headers])
        names = (ctypes.c_char_p * len(headers))(*[header.name.encode() for header in headers])
        wanted = OPTIONS + define
        options = (ctypes.c_char_p * len(wanted))(*[option.encode() for option in wanted])
        program = ctypes.c_void_p()
        self.call("nvrtcCreateProgram", ctypes.byref(program), source.read_bytes(), source.name.encode(),
                  len(headers), texts, names)
        failed = self.call("nvrtcCompileProgram", program, len(wanted), options)
        log = self.text(program, "ProgramLog").strip()
        return (None if failed else self.text(program, "PTX")), log


def modules(source):
    """The modules of a source: stem of the PTX file, and what is defined for it."""
    if source.stem != "attention":
        return [(source.stem, [])]
    heads = [0, 64, 96, 128, 256]
    return [(f"attention_{head}" if head else "attention", [f"--define-macro=HEAD={head}"]) for head in heads]


def digest(source):
    """SHA-256 of all .cuh files in the order of their names, then the source."""
    texts = [path.read_bytes() for path in sorted(KERNELS.glob("*.cuh")) + [source]]
    return hashlib.sha256(b"".join(texts)).hexdigest()


def report(ptx, arch):
    """Of each kernel: registers, spilled bytes, static shared bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [package("nvidia.cuda_nvcc") / "bin" / "ptxas", "-v", f"-arch={arch}", path, "-o", f"{folder}/kernel.cubin"]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"ptx.py: ptxas: {run.stderr}")
    kernels = {}
    for part in run.stderr.split("Compiling entry function '")[1:]:
        number = lambda pattern: sum(int(x) for x in re.findall(pattern, part))
        spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads") + number(r"(\d+) bytes stack frame")
        kernels[part.split("'")[0]] = (number(r"Used (\d+) registers"), spilled, number(r"(\d+) bytes smem"))
    return kernels


def compile_one(nvrtc, source, module, write):
    """Compiles and reports one module; false if something is wrong."""
    stem, define = module
    ptx, log = nvrtc.compile(source, define)
    if log:
        print(log)
    if ptx is None:
        return False
    version = re.search(r"^\.version (\d+)\.(\d+)", ptx, re.M)
    good = not log and (int(version[1]), int(version[2])) <= (8, 4)
    older, newer = report(ptx, "sm_80"), report(ptx, "sm_90")
    for name, (registers, spilled, shared) in older.items():
        registers_90, spilled_90, _ = newer[name]
        print(f"{stem:14} {name:36} registers {registers:3} / {registers_90:3}  stack and spills "
              f"{spilled:4} / {spilled_90:4}  shared {shared:6}")
        good = good and spilled == 0 and spilled_90 == 0 and shared <= SHARED_LIMIT
    if write:
        source.with_name(f"{stem}.ptx").write_text(f"{HASH}{digest(source)}\n{ptx}")
    return good


def is_fresh(source, stem):
    path = source.with_name(f"{stem}.ptx")
    fresh = path.exists() and path.read_text().split("\n")[0] == HASH + digest(source)
    if not fresh:
        print(f"{path.name}: not of its source; run tests/device/ptx.py --ptx")
    return fresh


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ptx", action="store_true", help="write the PTX files")
    parser.add_argument("--check", action="store_true", help="compare hashes only")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    names = {pathlib.Path(name).stem for name in args.names}
    sources = [source for source in sorted(KERNELS.glob("*.cu")) if not names or source.stem in names]
    if names - {source.stem for source in sources}:
        sys.exit(f"ptx.py: no kernels {names - {source.stem for source in sources}}")
    if args.check:
        results = [is_fresh(source, stem) for source in sources for stem, _ in modules(source)]
    else:
        nvrtc = Nvrtc()
        results = [compile_one(nvrtc, source, module, args.ptx) for source in sources for module in modules(source)]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
