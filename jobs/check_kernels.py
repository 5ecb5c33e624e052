"""The CPU kernels compiled for other processors, and run where that can be: natively or by an
emulator. `apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user` for those of arm64.

    python jobs/check_kernels.py [--only NAME]

AMX in C: its instructions as plain C on a processor that has the rest, AVX-512.
Every target's sources are compiled with the flags of `engine/kernels/build.py`; `check_kernels.c`
compares products and attention with plain loops. Exit code 1 where one does not compile or differs.
"""

from __future__ import annotations

import argparse
import fnmatch
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from batchgen.engine.kernels.build import KERNEL_FLAGS, KERNEL_SOURCES, SOURCE_FOLDER

ARM, QEMU = "aarch64-linux-gnu-gcc", "qemu-aarch64"
DRIVER = Path(__file__).with_suffix(".c")


@dataclass(frozen=True)
class Target:
    """`needs`: what /proc/cpuinfo has to name to run it; `emulator`: what runs it otherwise."""

    name: str
    compiler: str
    flags: tuple[str, ...]
    needs: str = ""
    emulator: str = ""

    def missing(self) -> str | None:
        """What it takes to compile and is not here."""
        return None if shutil.which(self.compiler) else self.compiler

    def runner(self) -> list[str] | None:
        """The command in front of a program, or None where it cannot run."""
        if self.emulator:
            return [self.emulator, "-cpu", "max"] if shutil.which(self.emulator) else None
        found = Path("/proc/cpuinfo").read_text().split()
        return [] if all(flag in found for flag in self.needs.split()) else None


TARGETS = [
    Target("x86-64", "gcc", ("-march=x86-64",), "sse2"),
    Target("AVX2", "gcc", ("-march=haswell",), "avx2 fma f16c"),
    Target("AVX2 VNNI", "gcc", ("-march=alderlake",), "avx_vnni"),
    Target("AVX-512", "gcc", ("-march=skylake-avx512",), "avx512bw avx512vl"),
    Target("AVX-512 VNNI", "gcc", ("-march=icelake-server",), "avx512_vnni"),
    Target("AVX-512 BF16", "gcc", ("-march=cooperlake",), "avx512_bf16"),
    Target("AMX in C", "gcc", ("-march=cooperlake", "-DTILES_IN_C"), "avx512_bf16"),
    Target("AMX", "gcc", ("-march=sapphirerapids",), "amx_int8 amx_bf16"),
    Target("NEON", ARM, ("-march=armv8-a",), emulator=QEMU),
    Target("NEON i8mm", ARM, ("-march=armv8.6-a+i8mm+bf16",), emulator=QEMU),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="targets, as file names are matched")
    chosen = fnmatch.filter([one.name for one in TARGETS], parser.parse_args().only)
    failures = [one.name for one in TARGETS if one.name in chosen and not check(one)]
    print(f"failed: {', '.join(failures) or 'none'}")
    return 1 if failures else 0


def check(target: Target) -> bool:
    """Compile it and run it; what cannot be done here is no failure, and said."""
    if missing := target.missing():
        print(f"{target.name}: not compiled, {missing} is missing")
        return True
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "check"
        done = subprocess.run(command(target, program), capture_output=True, text=True)
        if done.returncode:
            print(f"{target.name}: does not compile\n{done.stderr[-2000:]}")
            return False
        runner = target.runner()
        if runner is None:
            print(f"{target.name}: compiled; this processor cannot run it, and no emulator does")
            return True
        ran = subprocess.run([*runner, program], capture_output=True, text=True, timeout=600)
    print(f"{target.name}: {'right' if ran.returncode == 0 else 'WRONG'}\n{ran.stdout}{ran.stderr}")
    return ran.returncode == 0


def command(target: Target, program: Path) -> list[str]:
    """Kernels and driver as one program."""
    wide = ["-mprefer-vector-width=512"] if target.compiler == "gcc" else []
    sources = [str(SOURCE_FOLDER / name) for name in KERNEL_SOURCES]
    flags = [*KERNEL_FLAGS, *target.flags, *wide, "-static", f"-I{SOURCE_FOLDER}"]
    return [target.compiler, *flags, *sources, str(DRIVER), "-lm", "-o", str(program)]


if __name__ == "__main__":
    sys.exit(main())
