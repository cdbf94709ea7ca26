"""A character stream into a file, and optionally out of another one.

What the guest sends is written to `path` as it comes.  A full disk suspends the VM with a runtime
error; on resume the same bytes are tried again, so that nothing is missing from the file.
`input`, when given, is what the guest receives, at the guest's pace, once, to its end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from vbox_pdm import CharStream, ConfigError, DriverType, RuntimeErrorFlags, Worker, hookimpl, key
from vbox_plugin_host.pump import CHUNK, CharDriver

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup


@frozen
class Config:
    """Configuration of a file stream."""

    path: str = key(help="file that receives what the guest sends")
    append: bool = key(False, help="keep what the file holds already")
    input: str | None = key(None, help="file that the guest reads from")


class FileStream(CharDriver[Config]):
    """One output file, perhaps one input file."""

    def pdm_construct(self) -> None:
        self.sink = self.source = -1
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if self.config.append else os.O_TRUNC)
        if self.config.input is not None:  # first: a wrong name must not cost the output file
            self.source = _open(self.config.input, os.O_RDONLY, "read from")
        self.sink = _open(self.config.path, flags, "write to")
        self.connected = True
        self.start()

    def pdm_destruct(self) -> None:
        super().pdm_destruct()
        self._write_all(lambda: True)
        for descriptor in (self.sink, self.source):
            if descriptor >= 0:
                os.close(descriptor)
        self.sink = self.source = -1

    def serve(self, worker: Worker) -> None:
        """Files are always ready, so there is nothing to poll but the wake-up."""
        while worker.running:
            if not self._write_all(lambda: worker.running):
                while worker.running:  # the VM will be suspended; resume calls this again
                    self.pause(None)
                return
            more = self.source >= 0 and self.may_read()
            if more:
                self._read_some()
            else:
                self.pause(None)

    def _read_some(self) -> None:
        try:
            data = os.read(self.source, CHUNK)
        except OSError as error:
            self.helpers.log.error("reading %s failed: %s", self.config.input, error.strerror)
            data = b""
        if data:
            self.received(data)
        else:
            os.close(self.source)
            self.source = -1

    def _write_all(self, go_on: Callable[[], bool]) -> bool:
        while self._outgoing and go_on():
            time.sleep(self.batch_left() or 0)
            with self._lock:
                chunk = bytes(self._outgoing)
            try:
                self.written(os.write(self.sink, chunk))
            except OSError as error:
                self.helpers.set_runtime_error(
                    RuntimeErrorFlags.SUSPEND,
                    "DrvFileFailed",
                    f"Writing to {self.config.path} failed: {error.strerror}. Mend it and resume the VM",
                )
                return False
        return True


def _open(path: str, flags: int, purpose: str) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o666)
    except OSError as error:
        status = "VERR_FILE_NOT_FOUND" if isinstance(error, FileNotFoundError) else "VERR_ACCESS_DENIED"
        raise ConfigError(
            status,
            f"Cannot {purpose} {path}: {error.strerror}",
            "Check the path and its permissions",
        ) from None


@hookimpl
def vbox_register_drivers(register: Callable[[DriverType], None]) -> None:
    register(
        DriverType("file", FileStream, Config, serves=CharStream, summary="a character stream into a file")
    )


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup:
    """For the conformance kit: a file to write to, and some to read from."""
    from vbox_pdm.testing.conformance import FarEnd, Setup

    def arrived(config: Mapping[str, Any]) -> bytes:
        path = Path(config["path"])
        return path.read_bytes() if path.is_file() else b""

    def sends(config: Mapping[str, Any], sent: bytes) -> bytes:
        path = config["input"]
        return Path(path).read_bytes() if path and Path(path).is_file() else b""

    source = folder / "input"
    source.write_bytes(bytes(range(256)) * 16)
    return Setup(
        {"path": str(folder / "output"), "input": str(source)},
        keys={"path": ("/dev/full",), "input": (str(source), str(folder))},
        refuses=(
            {"path": str(folder)},
            {"path": str(folder / "no" / "output")},
            {"input": str(folder / "missing")},
        ),
        far_end=FarEnd(arrived, sends),
    )
