"""Whether REM can run here: platform, unicorn, native module, and a check of what it does.

There are two engines, with a native module and without one; each is asked for by its name.

The check runs a few instructions that change code through a second address of the same page.  If the
result is wrong, stores to pages with code have slipped past the translator; every store then takes
Unicorn's slow way (`fast_stores` is False), which is right on any build, only slower.
"""

from __future__ import annotations

import functools
import importlib.util
import mmap
import platform
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine import Rem

NATIVE, PORTABLE = "rem", "rem-portable"
UNICORN_VERSION = "2.1.4"

_INSTALL = f"pip install --force-reinstall unicorn=={UNICORN_VERSION}"
_BUILD = "with a C compiler at hand, pip install --force-reinstall --no-deps --no-binary vbox-vmm vbox-vmm"


def _missing(name: str) -> str | None:
    """Why nothing can be loaded, found without loading anything."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ("x86_64", "AMD64") or sys.maxsize < 1 << 32:
        return f"REM runs in a 64-bit Python on Linux x86-64 only; this is {sys.platform} {machine}"
    try:
        version = metadata.version("unicorn")
    except metadata.PackageNotFoundError:
        return f"unicorn is not installed: {_INSTALL}"
    if version != UNICORN_VERSION:
        return f"REM knows the insides of unicorn {UNICORN_VERSION} only and found {version}: {_INSTALL}"
    if name == NATIVE and importlib.util.find_spec("vbox_vmm.rem._native") is None:
        return f"REM's native module is not built, and {PORTABLE} takes its place, more slowly: {_BUILD}"
    return _forbids_code()


def _forbids_code() -> str | None:
    """Unicorn ends the process where it may not have memory to write code into and to run it from."""
    try:
        mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except OSError as error:
        return (
            f"REM runs machine code that it writes, which this host forbids ({error.strerror}); allow it,"
            " by execmem in SELinux or an exception in PaX"
        )
    return None


def library_path() -> Path:
    """libunicorn inside the installed package; finding it does not import unicorn."""
    spec = importlib.util.find_spec("unicorn")
    if spec is None or spec.origin is None:
        raise ImportError(f"unicorn is not installed: {_INSTALL}")
    return Path(spec.origin).parent / "lib" / "libunicorn.so.2"


@functools.cache
def usable(name: str = NATIVE) -> str | None:
    """None when an engine can be created here, else the reason and the remedy."""
    if reason := _missing(name):
        return reason
    try:
        fast_stores(name)
    except (ImportError, OSError, RuntimeError) as error:
        return f"REM does not start: {error}. Remedy: {_INSTALL}"
    return None


@functools.cache
def engine_class(name: str = NATIVE) -> type[Rem]:
    """The engine's class, with libunicorn loaded for it."""
    if name == NATIVE:
        from . import native_engine

        native_engine.load(str(library_path()))
        return native_engine.NativeRem
    from .portable import engine

    engine.load(str(library_path()))
    return engine.PortableRem


@functools.cache
def fast_stores(name: str = NATIVE) -> bool:
    """Load libunicorn and check it; False when stores must take the slow way."""
    from .selfcheck import aliased_code_is_noticed

    if aliased_code_is_noticed(engine_class(name)):
        return True
    warnings.warn("REM: changes of code through an alias are missed; fast stores stay off", stacklevel=2)
    return False
