"""Two 8237A DMA controllers of a PC/AT with their page registers.

8237A High Performance Programmable DMA Controller (Intel, 231466, 1993); page registers, cascade and the
readable mask as in the 82371SB (PIIX3, Intel 290550) and the IBM PC/AT.

Controller 1 (ports 0x00..0x0F) has the byte channels 0 to 3 and hangs on channel 4 of controller 2 (0xC0..
0xDF, even), whose channels 5 to 7 move words.  Page registers 0x80..0x8F, with `high_page_enable` also
0x480..0x48F for address bits 24 to 31.

Modelled: all registers; demand, single, block and cascade mode; verify, read, write; autoinitialisation;
increment and decrement; fixed and rotating priority; masks; software requests; terminal count;
memory-to-memory on channels 0 and 1; wrapping within 64 KiB (128 KiB for words).
Not modelled: compressed timing, extended write and the sense bits of DREQ and DACK (stored; a PC needs
both as the reset leaves them); the order of single bytes among channels: a device moves as much as it has
at once, before the next instruction.  What is moved so may be `AHEAD_NS` ahead of what a bus could have
moved; then all wait, so that a guest cannot have the controllers do more than that in no time.

Traps of the chip:
* One flip-flop serves the low and high bytes of all address and count registers of a controller.
* Base and current are written together; reading gives the current.  A count is one less than the units.
* The current address wraps; the page does not count on.
* Terminal count masks the channel unless it autoinitialises; software requests cannot be masked and
  end with terminal count.
* Words: the address is in words, bit 0 of the page is ignored.
* Channel 4, once it is in cascade mode, passes requests of channels 0 to 3 only while it is unmasked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from attrs import frozen

from vbox_pdm import (
    Clock,
    Device,
    DeviceClass,
    DeviceType,
    Latch,
    PdmError,
    Ports,
    RegisterMap,
    State,
    StateError,
    Width,
    hookimpl,
    key,
)
from vbox_pdm.helpers import DmaTransfer
from vbox_plugin_pc.conformance import vbox_conformance_setup as vbox_conformance_setup
from vbox_plugin_pc.dma_registers import PageRegisters, Registers, WordRegisters

VERIFY, WRITE_MEMORY, READ_MEMORY = 0, 1, 2
MODE_AUTO, MODE_DOWN, MODE_CASCADE = 0x10, 0x20, 0xC0
COMMAND_MEMORY, COMMAND_HOLD, COMMAND_OFF, COMMAND_ROTATE = 0x01, 0x02, 0x04, 0x10
PAGE_OF = (7, 3, 1, 2, 15, 11, 9, 10)
"""Which of the sixteen page registers belongs to a channel."""
UNIT_NS, CALL_NS = 1_000, 8_000
"""What a unit takes on the bus, and at least a call of the device."""
MAX_CALLS = 64
"""Calls of a device in one go."""
AHEAD_NS = 16_000_000
"""How far transfers may be ahead of their time when more begin: a track of a diskette and then some."""


@frozen
class Config:
    high_page_enable: bool = key(False, help="page registers for address bits 24 to 31 at 0x480")


@frozen
class ChannelState(State, version=1):
    """One channel."""

    base_address: int
    base_count: int
    address: int
    count: int
    mode: int


@frozen
class ControllerState(State, version=1):
    """One 8237A.  `lines` are DREQ, which devices drive."""

    across_reset: ClassVar[frozenset[str]] = frozenset({"lines"})

    channels: tuple[ChannelState, ...]
    command: int
    mask: int
    done: int
    software: int
    lines: int
    temporary: int
    flip_flop: bool
    lowest: int


@frozen
class DmaState(State, version=2):
    """Both controllers, the pages, and when a bus would have moved what was moved (VIRTUAL_SYNC, ns)."""

    controllers: tuple[ControllerState, ...]
    pages: bytes
    high_pages: bytes
    busy_until: int

    @classmethod
    def upgrade(cls, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Version 1 let a transfer begin at any time."""
        return {**fields, "busy_until": 0}


class Channel:
    """A channel, also as its device sees it (`DmaChannel`)."""

    def __init__(self, device: DmaControllers, controller: Controller, number: int) -> None:
        self.device = device
        self.controller = controller
        self.number = number
        self.bit = 1 << (number & 3)
        self.shift = number >> 2  # bytes or words
        self.transfer: DmaTransfer | None = None
        self.reset()

    def reset(self) -> None:
        self.base_address = self.base_count = self.address = self.count = 0
        self.mode_bits = 0

    # --- the device's side

    def request(self, level: bool) -> None:
        """Drive DREQ.  The transfer happens soon, not within this call."""
        if level:
            self.controller.lines |= self.bit
            self.device.schedule()
        else:
            self.controller.lines &= ~self.bit

    def mode(self) -> int:
        return self.mode_bits

    def read_memory(self, position: int, length: int) -> bytes:
        """Memory to device; what lies behind the block is left out, and all ones come unless the channel
        is programmed to read memory."""
        length = max(0, min(length, self.total - position))
        if self.mode_bits >> 2 & 3 != READ_MEMORY:
            return b"\xff" * length
        return self.load(position, length)

    def write_memory(self, position: int, data: bytes) -> None:
        """Device to memory; what lies behind the block is dropped, and everything unless the channel is
        programmed to write memory."""
        if self.mode_bits >> 2 & 3 == WRITE_MEMORY:
            self.store(position, bytes(data[: max(0, self.total - position)]))

    # --- the block

    @property
    def total(self) -> int:
        """Bytes of the block.  A count that was written in part may exceed its base."""
        return max(self.base_count, self.count) + 1 << self.shift

    @property
    def position(self) -> int:
        """Bytes of the block that were moved."""
        return self.total - (self.count + 1 << self.shift)

    def pieces(self, position: int, units: int) -> list[tuple[int, int]]:
        """(lowest guest-physical address, units) of what is contiguous, in the order of the transfer."""
        shift, down = self.shift, self.mode_bits & MODE_DOWN
        page = self.device.page(self.number)
        moved = (position - self.position) >> shift
        at = (self.address - moved if down else self.address + moved) & 0xFFFF
        found = []
        while units:
            run = min(units, at + 1 if down else 0x10000 - at)
            found.append((page | (at - run + 1 if down else at) << shift, run))
            at = (at - run if down else at + run) & 0xFFFF
            units -= run
        return found

    def load(self, position: int, length: int) -> bytes:
        """Bytes of the block in the order of the transfer."""
        skip = position & self.shift
        units = skip + length + self.shift >> self.shift
        out = bytearray()
        for address, run in self.pieces(position - skip, units):
            out += self.turn(self.device.helpers.memory_read(address, run << self.shift))
        return bytes(out[skip : skip + length])

    def store(self, position: int, data: bytes) -> None:
        skip = position & self.shift
        if skip or len(data) & self.shift:
            # Half a word: the other half stays.
            whole = bytearray(self.load(position - skip, skip + len(data) + self.shift & ~self.shift))
            whole[skip : skip + len(data)] = data
            position, data = position - skip, bytes(whole)
        done = 0
        for address, run in self.pieces(position, len(data) >> self.shift):
            size = run << self.shift
            self.device.helpers.memory_write(address, self.turn(data[done : done + size]))
            done += size

    def turn(self, data: bytes) -> bytes:
        """Memory order to transfer order, or back."""
        if not self.mode_bits & MODE_DOWN:
            return data
        if not self.shift:
            return data[::-1]
        turned = bytearray(len(data))
        turned[0::2], turned[1::2] = data[-2::-2], data[::-2]
        return bytes(turned)

    def move_on(self, units: int) -> bool:
        """Count `units` moved; whether that was terminal count."""
        self.address = (self.address - units if self.mode_bits & MODE_DOWN else self.address + units) & 0xFFFF
        self.count -= units
        if self.count >= 0:
            return False
        self.count = 0xFFFF
        self.finish()
        return True

    def finish(self) -> None:
        """Terminal count."""
        self.controller.done |= self.bit
        self.controller.software &= ~self.bit
        if self.mode_bits & MODE_AUTO:
            self.address, self.count = self.base_address, self.base_count
        else:
            self.controller.mask |= self.bit

    def service(self) -> tuple[int, bool]:
        """Let the device move what it has; returns the ns that this takes and whether there may be more."""
        if self.transfer is None:
            # A software request for a channel with nothing on it: the cycles run empty.
            self.move_on(self.count + 1)
            return 0, False
        moved = calls = units = 0
        while calls < MAX_CALLS:
            calls += 1
            total, position = self.total, self.position
            reached = min(max(self.transfer(position, total), position), total)
            units = reached - position >> self.shift
            moved += units
            if not units or self.move_on(units) or not self.controller.wants(self.bit):
                break
        more = bool(units and self.controller.wants(self.bit))
        return max(moved * UNIT_NS, calls * CALL_NS), more

    # --- state

    def save(self) -> ChannelState:
        return ChannelState(self.base_address, self.base_count, self.address, self.count, self.mode_bits)

    def load_state(self, state: ChannelState) -> None:
        self.base_address, self.base_count = state.base_address & 0xFFFF, state.base_count & 0xFFFF
        self.address, self.count = state.address & 0xFFFF, state.count & 0xFFFF
        self.mode_bits = state.mode & 0xFF


class Controller:
    """One 8237A; `stride` ports lie between its registers."""

    def __init__(self, device: DmaControllers, number: int) -> None:
        self.device = device
        self.stride = number + 1
        self.channels = [Channel(device, self, 4 * number + index) for index in range(4)]
        self.lines = 0  # DREQ
        self.reset()

    def reset(self) -> None:
        """Power on; DREQ is the devices'."""
        self.master_clear()
        for channel in self.channels:
            channel.reset()

    def master_clear(self) -> None:
        self.command = self.done = self.software = self.temporary = 0
        self.flip_flop = False
        self.mask = 0x0F
        self.lowest = 3

    # --- registers

    def read(self, offset: int, size: int) -> int:
        offset //= self.stride
        if offset < 8:
            channel = self.channels[offset >> 1]
            value = channel.count if offset & 1 else channel.address
            self.flip_flop = not self.flip_flop
            return value & 0xFF if self.flip_flop else value >> 8
        if offset == 8:
            value = self.done | (self.lines | self.software) << 4
            self.done = 0
            return value
        if offset == 13:
            return self.temporary
        return self.mask if offset == 15 else 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        if offset & (self.stride - 1):
            return  # the odd ports of controller 2 do not reach it
        offset //= self.stride
        if offset < 8:
            self.write_word(self.channels[offset >> 1], bool(offset & 1), value)
            return
        channel = self.channels[value & 3]
        if offset == 8:
            self.command = value
        elif offset == 9:
            self.software = self.software | channel.bit if value & 4 else self.software & ~channel.bit
        elif offset == 10:
            self.mask = self.mask | channel.bit if value & 4 else self.mask & ~channel.bit
        elif offset == 11:
            channel.mode_bits = value
        elif offset == 12:
            self.flip_flop = False
        elif offset == 13:
            self.master_clear()
        elif offset == 14:
            self.mask = 0
        else:
            self.mask = value & 0x0F
        self.device.schedule()

    def write_word(self, channel: Channel, count: bool, value: int) -> None:
        keep, bits = (0x00FF, value << 8) if self.flip_flop else (0xFF00, value)
        self.flip_flop = not self.flip_flop
        if count:
            channel.base_count = channel.base_count & keep | bits
            channel.count = channel.count & keep | bits
        else:
            channel.base_address = channel.base_address & keep | bits
            channel.address = channel.address & keep | bits

    # --- requests

    def wants(self, bits: int) -> int:
        """Which of these channels are to be serviced now."""
        if self.command & COMMAND_OFF:
            return 0
        return (self.lines & ~self.mask | self.software) & bits

    def by_priority(self) -> list[Channel]:
        first = (self.lowest + 1 if self.command & COMMAND_ROTATE else 0) & 3
        return [self.channels[(first + index) & 3] for index in range(4)]

    def cascades(self) -> bool:
        """Controller 2: whether channel 4 lets controller 1 through."""
        cascade = self.channels[0].mode_bits & MODE_CASCADE == MODE_CASCADE
        return not self.command & COMMAND_OFF and not (cascade and self.mask & 1)

    def copies_memory(self, channel: Channel) -> bool:
        return bool(self.command & COMMAND_MEMORY) and self.stride == 1 and channel.number == 0

    def copy_memory(self) -> int:
        """Memory to memory: channel 0 reads, channel 1 writes and counts; returns the ns that this takes."""
        source, target = self.channels[0], self.channels[1]
        units = target.count + 1
        hold = self.command & COMMAND_HOLD
        reads = source.pieces(source.position, 1 if hold else units)
        writes = target.pieces(target.position, units)
        overlap = any(a < b + m and b < a + n for a, n in reads for b, m in writes)
        if hold or not overlap:
            data = source.load(source.position, 1) * units if hold else source.load(source.position, units)
            target.store(target.position, data)
            self.temporary = data[-1]
        else:
            self.copy_overlapping(units, writes)
        if not hold:
            step = -units if source.mode_bits & MODE_DOWN else units
            source.address = (source.address + step) & 0xFFFF
        target.move_on(units)
        self.software &= ~1
        if source.mode_bits & MODE_AUTO:
            source.address, source.count = source.base_address, source.base_count
        return 2 * units * UNIT_NS

    def copy_overlapping(self, units: int, writes: list[tuple[int, int]]) -> None:
        """What was written is read again, byte after byte; both ends lie in the same 64 KiB."""
        source, target = self.channels[0], self.channels[1]
        page = self.device.page(1)
        memory = bytearray(self.device.helpers.memory_read(page, 0x10000))
        at, to = source.address, target.address
        source_step = -1 if source.mode_bits & MODE_DOWN else 1
        target_step = -1 if target.mode_bits & MODE_DOWN else 1
        for _ in range(units):
            memory[to] = self.temporary = memory[at]
            at, to = (at + source_step) & 0xFFFF, (to + target_step) & 0xFFFF
        for address, run in writes:
            self.device.helpers.memory_write(address, bytes(memory[address - page : address - page + run]))

    # --- state

    def save(self) -> ControllerState:
        return ControllerState(
            channels=tuple(channel.save() for channel in self.channels),
            command=self.command,
            mask=self.mask,
            done=self.done,
            software=self.software,
            lines=self.lines,
            temporary=self.temporary,
            flip_flop=self.flip_flop,
            lowest=self.lowest,
        )

    def load_state(self, state: ControllerState) -> None:
        for channel, saved in zip(self.channels, state.channels, strict=True):
            channel.load_state(saved)
        self.command, self.mask, self.done = state.command & 0xFF, state.mask & 15, state.done & 15
        self.software, self.lines = state.software & 15, state.lines & 15
        self.temporary, self.flip_flop, self.lowest = (
            state.temporary & 0xFF,
            state.flip_flop,
            state.lowest & 3,
        )


class DmaControllers(Device[Config]):
    """Both controllers and the page registers."""

    def pdm_construct(self) -> None:
        self.controllers = (Controller(self, 0), Controller(self, 1))
        self.channels = [*self.controllers[0].channels, *self.controllers[1].channels]
        self.pages, self.high_pages = bytearray(16), bytearray(16)
        self.scheduled = False
        self.busy_until = 0
        # Transfers run after the access that caused them: no device is entered from its own handler.
        self.queue = self.helpers.queue("transfers", self.run)
        self.more = self.helpers.timer("more", Clock.VIRTUAL_SYNC, self.run_more)
        self.helpers.provide_dmac(self)
        maps: tuple[type[RegisterMap], ...] = (Registers, WordRegisters)
        for number, (controller, port) in enumerate(zip(self.controllers, (0x00, 0xC0), strict=True)):
            region = Ports(
                f"8237A {number + 1}", 16 * controller.stride, controller.read, controller.write,
                registers=maps[number], width=Width.BYTE,
            )  # fmt: skip
            self.helpers.map_ports(port, region)
        # Firmware and kernels write to port 80h all the time: to pass time, and to say where they are.
        pages = Latch(self.pages)
        self.helpers.map_ports(0x80, Ports("pages", 16, pages.read, pages.write, registers=PageRegisters))
        if self.config.high_page_enable:
            high = Latch(self.high_pages)
            region = Ports("high pages", 16, high.read, high.write, registers=PageRegisters)
            self.helpers.map_ports(0x480, region)

    def pdm_reset(self) -> None:
        for controller in self.controllers:
            controller.reset()
        self.pages[:] = self.high_pages[:] = bytes(16)
        self.busy_until = 0
        self.more.stop()

    def attach(self, channel: int, transfer: DmaTransfer) -> Channel:
        found = self.channels[channel]
        if found.transfer is not None:
            raise PdmError(
                "VERR_ALREADY_EXISTS",
                f"DMA channel {channel} is taken",
                "Configure another channel for one of them",
            )
        found.transfer = transfer
        return found

    # --- page registers

    def page(self, channel: int) -> int:
        """The address bits above the controller's."""
        index = PAGE_OF[channel]
        low = self.pages[index] & 0xFE if channel >= 4 else self.pages[index]
        return self.high_pages[index] << 24 | low << 16

    # --- transfers

    def pending(self) -> bool:
        first, second = self.controllers
        return bool(second.wants(0x0E) or (first.wants(0x0F) and second.cascades()))

    def schedule(self) -> None:
        """Something changed that may start a transfer."""
        if not self.scheduled and self.pending():
            self.scheduled = self.queue.put(None)

    def run(self, item: None) -> None:
        """Service all that ask, by priority; controller 1 asks in place of channel 4, the first."""
        self.scheduled = False
        now = self.helpers.now(Clock.VIRTUAL_SYNC)
        if self.busy_until > now + AHEAD_NS:
            self.more.set(self.busy_until - AHEAD_NS)
            return
        taken, more = 0, False
        for controller in self.controllers:
            for channel in controller.by_priority():
                if channel.number == 4 or not self.allowed(channel):
                    continue
                controller.lowest = channel.number & 3
                if controller.copies_memory(channel):
                    taken += controller.copy_memory()
                else:
                    ns, unfinished = channel.service()
                    taken += ns
                    more |= unfinished
        self.busy_until = max(self.busy_until, now) + taken
        if more:
            self.more.set(self.busy_until)

    def run_more(self) -> None:
        self.schedule()

    def allowed(self, channel: Channel) -> bool:
        if channel.number < 4 and not self.controllers[1].cascades():
            return False
        return bool(channel.controller.wants(channel.bit))

    # --- state

    def pdm_save(self) -> DmaState:
        return DmaState(
            tuple(controller.save() for controller in self.controllers),
            bytes(self.pages),
            bytes(self.high_pages),
            self.busy_until,
        )

    def pdm_load(self, state: DmaState) -> None:
        if len(state.controllers) != 2 or len(state.pages) != 16 or len(state.high_pages) != 16:
            raise StateError("VERR_SSM_UNEXPECTED_DATA", "i8237: a controller or page register is missing")
        if any(len(saved.channels) != 4 for saved in state.controllers):
            raise StateError("VERR_SSM_UNEXPECTED_DATA", "i8237: a channel is missing")
        for controller, saved in zip(self.controllers, state.controllers, strict=True):
            controller.load_state(saved)
        self.pages[:], self.high_pages[:] = state.pages, state.high_pages
        self.busy_until = state.busy_until
        self.scheduled = False

    def pdm_resume(self) -> None:
        self.schedule()

    def pdm_info(self, arguments: str) -> str:
        lines = []
        for controller in self.controllers:
            lines.append(
                f"command={controller.command:02x} mask={controller.mask:x} TC={controller.done:x} "
                f"DREQ={controller.lines:x} software={controller.software:x}"
            )
            lines += [
                f"  channel {channel.number}: page {self.page(channel.number):#x} "
                f"address {channel.address:#06x} count {channel.count:#06x} mode {channel.mode_bits:02x}"
                + ("" if channel.transfer is None else " in use")
                for channel in controller.channels
            ]
        return "\n".join(lines) + "\n"


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(
        DeviceType(
            "i8237",
            DmaControllers,
            Config,
            device_class=DeviceClass.DMA,
            max_instances=1,
            summary="two 8237A DMA controllers with page registers",
        )
    )
