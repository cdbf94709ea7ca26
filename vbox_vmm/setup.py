"""What is native: half of the REM engine, clocks, interrupt lines; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
NATIVE = Path("src/vbox_vmm/rem/native")
SOURCES = (
    *("library.c", "memory.c", "exits.c", "strings.c", "cpu.c", "count.c"),
    *("helpers.c", "sse.c", "sse_strings.c", "x87.c", "x87_memory.c", "debug.c", "state.c", "module.c"),
)


class BuildNative(build_ext):
    """Says what it means when the module could not be built."""

    def run(self) -> None:
        super().run()
        for extension in self.extensions:
            if not Path(self.get_ext_fullpath(extension.name)).exists():
                self.warn(
                    f"{extension.name} was not built: what takes its place does the same more slowly (for REM"
                    " the engine `rem-portable`). With a C compiler and the headers of Python, install again"
                )


setup(
    cmdclass={"build_ext": BuildNative},
    ext_modules=[
        Extension(
            "vbox_vmm.rem._native",
            sources=[str(NATIVE / name) for name in SOURCES],
            depends=[str(path.relative_to(HERE)) for path in (HERE / NATIVE).glob("*.h")],
            # The limited API: one build serves every CPython from 3.11 on.
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            extra_compile_args=[
                *("-O2", "-std=c11", "-fvisibility=hidden", "-Wall", "-Wextra"),
                # A helper's return address tells where in the guest's code a fault is: nothing may be cut
                # out of one into a function of its own.
                *("-fno-partial-inlining", "-fno-ipa-icf"),
            ],
            libraries=["dl", "pthread"],
            # No compiler: REM's portable engine takes over.  Not Linux on x86-64: everything but REM works.
            optional=True,
        ),
        *(
            Extension(
                f"vbox_vmm.{name}",
                sources=[f"src/vbox_vmm/{source}" for source in sources],
                depends=["src/vbox_vmm/tm_line.h"],
                define_macros=[("Py_LIMITED_API", "0x030B0000")],
                py_limited_api=True,
                extra_compile_args=["-O2", "-std=gnu11", "-fvisibility=hidden", "-Wall", "-Wextra"],
                optional=True,  # a module in Python does the same
            )
            for name, sources in (
                ("_tm_line", ("tm_line.c", "tm_readout.c")),
                ("pdm._wires", ("pdm/wires.c",)),
            )
        ),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
