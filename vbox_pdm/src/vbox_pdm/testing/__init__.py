"""The bench: a machine without a CPU for the tests of devices and drivers.

It hosts a device with the same helpers as a real machine; the test plays the guest.  Nothing else of
vbox-vmm is needed, only `pip install "vbox-pdm[testing]"`:

    >>> from vbox_pdm import CharStream, Device, Ports
    >>> from vbox_pdm.testing import Bench, FakeStream

    >>> class Echo(Device[None]):
    ...     def pdm_construct(self):
    ...         self.irq = self.helpers.isa_irq(5)
    ...         self.last = 0
    ...         self.stream = self.helpers.lun(0, CharStream, "line")
    ...         self.helpers.map_ports(0x300, Ports("echo", 1, self.read, self.write))
    ...     def read(self, offset, size):
    ...         self.irq.set(False)
    ...         return self.last
    ...     def write(self, offset, size, value):
    ...         self.stream.char_send(bytes([value]))
    ...     def char_received(self, data):
    ...         self.last = data[-1]
    ...         self.irq.set(True)

    >>> with Bench() as bench:
    ...     device = bench.add(Echo, lun0=(line := FakeStream()))
    ...     bench.port_write(0x300, 1, 0x41)
    ...     line.feed(b"x")
    ...     line.take(), bench.irq(5), chr(bench.port_read(0x300)), bench.irq(5)
    (b'A', True, 'x', False)

Building.  `bench.add` takes the name of an installed plugin's type, a DeviceType or a Device class,
configuration as keywords, and below each LUN a fake, a driver, or a chain of drivers;
`bench.add_driver` puts a driver between two fakes.  `bench.register` and `bench.plugin` make types
and plugins known that are not installed; hooks on regions and links are asked when something is
mapped or linked, so register those first.

Life.  The first access powers on; `reset`, `soft_reset`, `suspend`, `resume`, `attach`, `detach`,
`save`, `load`, `power_off` and `destruct` (or the end of the `with`) are the calls of the same hooks.
`save` answers a dict of units, which can be loaded any number of times, also into another bench with
the same devices.

Time stands still but for `advance(ns)` and `run_until_idle()`; it is `bench.now` in ns.  A timer
fires with its clock exactly at its expiry.  VIRTUAL, VIRTUAL_SYNC and TSC (1 GHz) are one clock and
stop while suspended, REAL does not.  When a call of the bench returns, all that is due at that time
was done: timers, queues, DMA.  Only drivers' workers run in host time; `bench.wait(condition)` waits
for what they queue.

Accesses are those of a guest: `port_read(port, size)`, `port_write(port, size, value)`, `mmio_*`
alike, `port_read_string` and `port_write_string` (REP INS and OUTS),
`pci_read(slot, function, offset, size)`, `pci_write`.  `memory_read` and `memory_write` reach
guest RAM without side effects.  `pci_enable(device)` does the firmware's part for a PCI function.

Taps show what leaves the devices: `irq(line)`, `irq_edges`, `pci_irq(device)`, `messages`, `intr`,
`acknowledge()`, `nmis`, `ignored_fpu_errors`, `resets`, `exit_code`, `a20`, `runtime_errors`, `log_lines`,
`dma_written`.  A device that plays a role (interrupt controller, PCI router, RTC, DMA controller, FPU
errors) is used as in a real machine; where none does, `cmos` and `dma_program` stand in.  `fpu_error()` is
the CPU's FERR#.  Resets and power offs that a device asks for are recorded; the test carries them out.

Failures.  What raises in a handler, a timer, a queue or a notification costs the guest an all-ones
read or a dropped write, is recorded in `bench.failures`, and (unless `Bench(strict=False)`) raised in
the test.

With pytest, the fixture `bench` is there without an import; `--vbox-bench NAME`, or the environment
variable VBOX_BENCH, chooses another backend: `kernel` (of vbox-vmm) runs the same tests on the real
kernel.
"""

from vbox_pdm.testing.backend import BenchBackend, BenchTaps, Failure
from vbox_pdm.testing.bench import Bench
from vbox_pdm.testing.fake_display import FakeDisplay
from vbox_pdm.testing.fake_drive import FakeDrive
from vbox_pdm.testing.fake_media import FakeMedia
from vbox_pdm.testing.fakes import (
    Fake,
    FakeKeyboard,
    FakeMouse,
    FakeStream,
    Leds,
    Lines,
    Modes,
    Parameters,
    Recorder,
    fake,
    fake_above,
)
from vbox_pdm.testing.taps import Edge, Message, ResetRequest, RuntimeErrorReport

__all__ = [
    "Bench",
    "BenchBackend",
    "BenchTaps",
    "Edge",
    "Failure",
    "Fake",
    "FakeDisplay",
    "FakeDrive",
    "FakeKeyboard",
    "FakeMedia",
    "FakeMouse",
    "FakeStream",
    "Leds",
    "Lines",
    "Message",
    "Modes",
    "Parameters",
    "Recorder",
    "ResetRequest",
    "RuntimeErrorReport",
    "fake",
    "fake_above",
]
