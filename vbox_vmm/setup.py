"""The native half of the REM engine; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

HERE = Path(__file__).parent
NATIVE = Path("src/vbox_vmm/rem/native")
SOURCES = (
    *("library.c", "memory.c", "exits.c", "strings.c", "cpu.c"),
    *("helpers.c", "sse.c", "debug.c", "state.c", "module.c"),
)

setup(
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
            # Not Linux on x86-64, no compiler: everything but REM works, and `vbox` says what is missing.
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
