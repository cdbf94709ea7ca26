"""A device that raises interrupts from outside, and writes down when the guest's handler began.

For benchmarks/host.py (`vbox run --plugin probe.py --device bench-probe,out=FILE`).  A thread puts a request
into a queue, as the workers of drives do; on the EMT the consumer raises the line; the guest's handler begins
with RDTSC, and tells what it read.  With `hog=on` another thread computes in Python all the time, as an
application that uses the project as a library might.

Ports: +0 and +4 dwords, the two halves of the TSC; +4 read: the handler is through, the line falls.
+8 written: begin; read: 1 when all samples are taken.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from vbox_pdm import Clock, Device, DeviceType, Ports, hookimpl, key

contract = "1.0"
SAMPLES = 1000
LEAST, MOST = 0.0005, 0.002
"""Seconds between two samples."""


@frozen
class Config:
    base: int = key(0x2C0, span=(0, 0xFFF4), help="first of the twelve ports")
    irq: int = key(5, span=(0, 15), help="ISA interrupt line")
    out: str = key("", help="the file that samples are written to, as JSON")
    hog: bool = key(False, help="a thread of Python computes all the time")


class Probe(Device[Config]):
    """See above."""

    def pdm_construct(self) -> None:
        self.line = self.helpers.isa_irq(self.config.irq)
        self.requests = self.helpers.queue("requests", self.asked)
        self.helpers.map_ports(self.config.base, Ports("bench-probe", 12, self.read, self.write))
        self.through = threading.Event()
        self.samples: list[tuple[int, int]] = []  # nanoseconds: asked to raised, raised to handler
        self.waited = self.raised = self.low = 0
        self.over = False

    def pdm_power_on(self) -> None:
        if self.config.hog:
            threading.Thread(target=self.compute, daemon=True).start()

    def pdm_power_off(self) -> None:
        self.over = True

    def compute(self) -> None:
        number = 0
        while not self.over:
            number = (number * 1664525 + 1) % 1_000_003

    def ask(self) -> None:
        """The thread that asks; it waits for each sample before the next."""
        source = random.Random(1)
        while len(self.samples) < SAMPLES and not self.over:
            time.sleep(source.uniform(LEAST, MOST))
            self.through.clear()
            self.requests.put(time.monotonic_ns())
            if not self.through.wait(10):
                return

    def asked(self, when: int) -> None:
        self.raised = time.monotonic_ns()
        self.waited = self.raised - when
        self.line.set(True)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 0:
            self.low = value
        elif offset == 4:
            # The TSC of a machine counts nanoseconds unless its configuration says otherwise.
            before, now, after = time.monotonic_ns(), self.helpers.now(Clock.TSC), time.monotonic_ns()
            began = (before + after) // 2 - (now - (value << 32 | self.low))
            self.samples.append((self.waited, began - self.raised))
        else:
            self.samples = []
            threading.Thread(target=self.ask, daemon=True).start()

    def read(self, offset: int, size: int) -> int:
        if offset == 4:
            self.line.set(False)
            if len(self.samples) == SAMPLES:
                Path(self.config.out).write_text(json.dumps(self.samples))
            self.through.set()
            return 0
        return int(len(self.samples) >= SAMPLES)


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(DeviceType("bench-probe", Probe, Config, summary="raises interrupts and times their handlers"))
