"""Keyboard controller 8042 with a PS/2 keyboard and a PS/2 mouse, as one device.

References: IBM Personal System/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary
Device Controller"; IBM PC AT Technical Reference for commands C0..C2, E0 and the output port.

Modelled: all commands of the PS/2 controller, the AT's port commands, translation of scan code set
2 to 1, A20 and reset by the output port, the security commands (no password is ever installed), and
the time that a byte takes on the wire.

Not modelled: the diagnostic dump (AC); errors of the wires (time-out and parity bits stay 0); the
keyboard lock (status bit 4 says unlocked).

Traps
- There is one output buffer.  Nothing is written over what the guest has not read; what the
  controller itself answers goes before what the devices send.
- The interrupt lines are levels: the buffer is full, by whom, and the command byte allows it.
- A byte of a device follows the one that was read only after the time of a byte on the wire:
  software reads port 60 twice for one byte, and expects the same one.
- Writing to a device switches its interface on, whatever the command byte said.
- FE is one of F0..FF, which pulse those outputs of the port whose bits are 0; bit 0 resets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import frozen

from vbox_pdm import (
    Clock,
    Device,
    DeviceClass,
    DeviceType,
    Keyboard,
    Mouse,
    Ports,
    Reg8,
    RegisterMap,
    ResetSource,
    State,
    StateError,
    Width,
    hookimpl,
    key,
)
from vbox_plugin_pc.conformance import vbox_conformance_setup as vbox_conformance_setup
from vbox_plugin_pc.ps2_keyboard import TRANSLATION, KeyboardState, Ps2Keyboard
from vbox_plugin_pc.ps2_mouse import MouseState, Ps2Mouse

BYTE_TIME = 500_000  # nanoseconds: 11 bits at 22 kHz, the fast end of what devices do

STATUS_FULL, STATUS_SYSTEM, STATUS_COMMAND, STATUS_UNLOCKED, STATUS_AUX = 1, 4, 8, 0x10, 0x20
MODE_KEYBOARD_IRQ, MODE_AUX_IRQ, MODE_SYSTEM = 1, 2, 4
MODE_KEYBOARD_OFF, MODE_AUX_OFF, MODE_TRANSLATE = 0x10, 0x20, 0x40
MODE_BITS = 0x7F
OUTPUT_RESET, OUTPUT_A20, OUTPUT_KEYBOARD, OUTPUT_AUX = 1, 2, 0x10, 0x20
OUTPUT_IDLE = 0xCC  # clock and data of both wires
INPUT_PORT = 0xB0  # unlocked, colour display, no manufacturing jumper
TEST_INPUTS = 3  # both lines of the keyboard idle
SELF_TEST_OK, INTERFACE_OK, NO_PASSWORD, VERSION = 0x55, 0x00, 0xF1, 0x48
# What an answer in the buffer came from.
FROM_KEYBOARD, FROM_AUX = 0, STATUS_AUX

COMMANDS = {
    0x20: "READ_MODE", 0x60: "WRITE_MODE", 0xA1: "VERSION", 0xA4: "TEST_PASSWORD", 0xA5: "LOAD_PASSWORD",
    0xA7: "AUX_OFF", 0xA8: "AUX_ON", 0xA9: "TEST_AUX", 0xAA: "SELF_TEST", 0xAB: "TEST_KEYBOARD",
    0xAD: "KEYBOARD_OFF", 0xAE: "KEYBOARD_ON", 0xC0: "READ_INPUT_PORT", 0xC1: "POLL_LOW", 0xC2: "POLL_HIGH",
    0xD0: "READ_OUTPUT_PORT", 0xD1: "WRITE_OUTPUT_PORT", 0xD2: "AS_KEYBOARD", 0xD3: "AS_AUX", 0xD4: "TO_AUX",
    0xDD: "A20_OFF", 0xDF: "A20_ON", 0xE0: "READ_TEST_INPUTS", 0xFE: "RESET",
}  # fmt: skip
DEVICE_COMMANDS = {
    0xE6: "SCALING_1_TO_1", 0xE7: "SCALING_2_TO_1", 0xE8: "RESOLUTION", 0xE9: "STATUS", 0xEA: "STREAM",
    0xEB: "READ", 0xEC: "WRAP_OFF", 0xED: "LEDS", 0xEE: "ECHO or WRAP", 0xF0: "SCAN_SET or REMOTE",
    0xF2: "IDENTIFY", 0xF3: "RATE", 0xF4: "ENABLE", 0xF5: "DISABLE", 0xF6: "DEFAULTS", 0xFE: "RESEND",
    0xFF: "RESET",
}  # fmt: skip
"""What keyboard and mouse understand; where each has its own, that of the keyboard first."""


class Registers(RegisterMap):
    """Port 60.  What is written is an argument of the last command, or a command to a device."""

    OUTPUT = Reg8(0, "r", effect="empties the output buffer")
    INPUT = Reg8(0, "w", values=DEVICE_COMMANDS)


class CommandRegisters(RegisterMap):
    """Port 64."""

    STATUS = Reg8(
        0,
        "r",
        reset=STATUS_UNLOCKED | STATUS_COMMAND,
        bits=0xBD,  # IBF, TIMEOUT and PARITY never show; bit 7 while the input port is polled
        fields={"OBF": 0, "IBF": 1, "SYS": 2, "A2": 3, "UNLOCKED": 4, "AUX": 5, "TIMEOUT": 6, "PARITY": 7},
    )
    COMMAND = Reg8(0, "w", reset=None, values=COMMANDS)


@frozen
class Config:
    """Properties of the controller."""

    throttle: bool = key(True, help="bytes of keyboard and mouse take their time on the wire")


@frozen
class KbcState(State, version=1):
    """The controller and both devices."""

    status: int
    mode: int
    ram: bytes
    output: int
    argument_of: int
    answers: tuple[int, ...]
    break_prefix: bool
    polling: int
    next_at: int
    keyboard: KeyboardState
    mouse: MouseState


class Kbc(Device[Config]):
    """The controller; LUN 0 is the keyboard, LUN 1 the mouse."""

    status: int
    mode: int  # the command byte
    ram: bytearray
    output: int  # the output buffer; stays after it was read
    argument_of: int  # the command that waits for a byte at port 60; 0 for none
    answers: deque[int]  # the controller's own, with FROM_AUX in the high byte
    break_prefix: bool  # translation: F0 was swallowed
    polling: int  # C1 or C2 is in effect; else 0
    next_at: int  # when a device's next byte may follow the last one

    def pdm_construct(self) -> None:
        helpers = self.helpers
        self.keyboard_irq = helpers.isa_irq(1)
        self.aux_irq = helpers.isa_irq(12)
        self.wire_timer = helpers.timer("wire", Clock.VIRTUAL_SYNC, self.data_available)
        self.byte_time = BYTE_TIME if self.config.throttle else 0
        self._power_on_values()
        self.keyboard = Ps2Keyboard(helpers, self)
        self.mouse = Ps2Mouse(helpers, self)
        self.commands = self._commands()
        self.keyboard.stream = helpers.lun(0, Keyboard, "keyboard", above=self.keyboard)
        self.mouse.stream = helpers.lun(1, Mouse, "mouse", above=self.mouse)
        helpers.map_ports(
            0x60,
            Ports("data", 1, self.read_data, self.write_data, registers=Registers, width=Width.BYTE),
        )
        helpers.map_ports(
            0x64,
            Ports(
                "command", 1, self.read_status, self.write_command,
                registers=CommandRegisters, width=Width.BYTE,
            ),
        )  # fmt: skip

    def pdm_reset(self) -> None:
        self.wire_timer.stop()
        self._power_on_values()
        self.keyboard.reset()
        self.mouse.reset()
        self.helpers.set_a20(True)
        self._update_lines()
        # Whose keys or motion had no room may try again.
        self.keyboard.taken()
        self.mouse.taken()

    def pdm_resume(self) -> None:
        self.keyboard.greet()
        self.mouse.greet()

    def pdm_attach(self, lun: int) -> None:
        (self.mouse if lun else self.keyboard).greet()

    def pdm_detach(self, lun: int) -> None:
        (self.mouse if lun else self.keyboard).let_go()

    # --- ports

    def read_data(self, offset: int, size: int) -> int:
        """Port 60: the output buffer; reading an empty one repeats the last byte."""
        if self.status & STATUS_FULL:
            self.status &= ~(STATUS_FULL | STATUS_AUX)
            self.next_at = self.helpers.now(Clock.VIRTUAL_SYNC) + self.byte_time
            value = self.output
            self._update_lines()
            self.data_available()
            return value
        return self.output

    def write_data(self, offset: int, size: int, value: int) -> None:
        """Port 60: an argument of the last command, or a byte for the keyboard."""
        self.status &= ~STATUS_COMMAND
        command, self.argument_of = self.argument_of, 0
        if not command:
            self.mode &= ~MODE_KEYBOARD_OFF
            self.keyboard.receive(value)
        elif command == 0x60:
            self._set_mode(value & MODE_BITS)
        elif command < 0x80:
            self.ram[command & 0x1F] = value
        elif command == 0xA5:
            self.argument_of = 0xA5 if value else 0  # a password ends with a zero
        elif command == 0xD1:
            self._write_output_port(value)
        elif command == 0xD2:
            self._answer(value)
        elif command == 0xD3:
            self._answer(value, FROM_AUX)
        elif command == 0xD4:
            self.mode &= ~MODE_AUX_OFF
            self.mouse.receive(value)

    def read_status(self, offset: int, size: int) -> int:
        """Port 64."""
        if self.polling:
            nibble = INPUT_PORT << 4 if self.polling == 0xC1 else INPUT_PORT
            return self.status & 0x0F | nibble & 0xF0
        return self.status

    def write_command(self, offset: int, size: int, value: int) -> None:
        """Port 64: a command; it takes the place of one that waits for its argument."""
        self.status |= STATUS_COMMAND
        self.argument_of = 0
        self.polling = 0
        command = self.commands[value]
        if command is not None:
            command()

    # --- commands, in order

    def _commands(self) -> list[Callable[[], None] | None]:
        """What each byte written to port 64 does."""
        table: list[Callable[[], None] | None] = [None] * 256

        def wait_for(command: int) -> Callable[[], None]:
            def wait() -> None:
                self.argument_of = command

            return wait

        def answer(value: int) -> Callable[[], None]:
            return lambda: self._answer(value)

        def read_ram(index: int) -> Callable[[], None]:
            return lambda: self._answer(self.ram[index])

        def pulse(command: int) -> Callable[[], None]:
            return lambda: self._pulse(command)

        for index in range(32):
            table[0x20 + index] = read_ram(index)
            table[0x60 + index] = wait_for(0x60 + index)
        table[0x20] = lambda: self._answer(self.mode)
        table[0xA1] = answer(VERSION)
        table[0xA4] = answer(NO_PASSWORD)
        table[0xA5] = wait_for(0xA5)
        table[0xA7] = lambda: self._set_mode(self.mode | MODE_AUX_OFF)
        table[0xA8] = lambda: self._set_mode(self.mode & ~MODE_AUX_OFF)
        table[0xA9] = answer(INTERFACE_OK)
        table[0xAA] = self._self_test
        table[0xAB] = answer(INTERFACE_OK)
        table[0xAD] = lambda: self._set_mode(self.mode | MODE_KEYBOARD_OFF)
        table[0xAE] = lambda: self._set_mode(self.mode & ~MODE_KEYBOARD_OFF)
        table[0xC0] = answer(INPUT_PORT)
        table[0xC1] = lambda: self._poll(0xC1)
        table[0xC2] = lambda: self._poll(0xC2)
        table[0xD0] = lambda: self._answer(self._output_port())
        for command in range(0xD1, 0xD5):
            table[command] = wait_for(command)
        table[0xDD] = lambda: self.helpers.set_a20(False)
        table[0xDF] = lambda: self.helpers.set_a20(True)
        table[0xE0] = self._test_inputs
        for command in range(0xF0, 0x100):
            table[command] = pulse(command)
        return table

    def _self_test(self) -> None:
        self._set_mode(self.mode | MODE_SYSTEM)
        self._answer(SELF_TEST_OK)

    def _poll(self, command: int) -> None:
        """C1, C2: half of the input port shows in the status, until the next command."""
        self.polling = command

    def _test_inputs(self) -> None:
        clock_held = bool(self.mode & MODE_KEYBOARD_OFF)
        self._answer(TEST_INPUTS & ~clock_held)

    def _output_port(self) -> int:
        port = OUTPUT_IDLE | OUTPUT_RESET
        if self.helpers.a20():
            port |= OUTPUT_A20
        if self.status & STATUS_FULL:
            port |= OUTPUT_AUX if self.status & STATUS_AUX else OUTPUT_KEYBOARD
        return port

    def _write_output_port(self, value: int) -> None:
        self.helpers.set_a20(bool(value & OUTPUT_A20))
        if not value & OUTPUT_RESET:
            self.helpers.reset_vm(ResetSource.KEYBOARD)

    def _pulse(self, command: int) -> None:
        if not command & OUTPUT_RESET:
            self.helpers.reset_vm(ResetSource.KEYBOARD)

    def _set_mode(self, mode: int) -> None:
        self.mode = mode
        self.status = self.status & ~STATUS_SYSTEM | mode & MODE_SYSTEM
        self._update_lines()
        self.data_available()

    # --- the output buffer

    def _answer(self, value: int, source: int = FROM_KEYBOARD) -> None:
        """The controller itself says something."""
        self.answers.append(source << 8 | value)
        self.data_available()

    def data_available(self) -> None:
        """Somebody has a byte, or the wire is free again: fill the output buffer if it is empty."""
        if self.status & STATUS_FULL:
            return
        if self.answers:
            answer = self.answers.popleft()
            self._fill(answer & 0xFF, answer >> 8)
            return
        keyboard = self.keyboard if not self.mode & MODE_KEYBOARD_OFF and self.keyboard.has_data else None
        mouse = self.mouse if not self.mode & MODE_AUX_OFF and self.mouse.has_data else None
        if keyboard is None and mouse is None:
            return
        if self.helpers.now(Clock.VIRTUAL_SYNC) < self.next_at:
            if not self.wire_timer.active:
                self.wire_timer.set(self.next_at)
            return
        if keyboard is not None:
            self._take_key(keyboard)
            keyboard.taken()
        elif mouse is not None:
            self._fill(mouse.take(), FROM_AUX)
            mouse.taken()

    def _take_key(self, keyboard: Ps2Keyboard) -> None:
        """A byte of the keyboard; the prefix of a break code stays in the controller."""
        while keyboard.has_data:
            value = keyboard.take()
            if not self.mode & MODE_TRANSLATE:
                self.break_prefix = False
            elif value == 0xF0:
                self.break_prefix = True
                continue
            else:
                value = TRANSLATION[value] | (0x80 if self.break_prefix else 0)
                self.break_prefix = False
            self._fill(value, FROM_KEYBOARD)
            return

    def _fill(self, value: int, source: int) -> None:
        self.output = value
        self.status = self.status & ~STATUS_AUX | STATUS_FULL | source
        self._update_lines()

    def _update_lines(self) -> None:
        full = self.status & (STATUS_FULL | STATUS_AUX)
        self.keyboard_irq.set(full == STATUS_FULL and bool(self.mode & MODE_KEYBOARD_IRQ))
        self.aux_irq.set(full == STATUS_FULL | STATUS_AUX and bool(self.mode & MODE_AUX_IRQ))

    # --- state

    def _power_on_values(self) -> None:
        self.status = STATUS_UNLOCKED | STATUS_COMMAND
        self.mode = MODE_KEYBOARD_IRQ | MODE_AUX_IRQ
        self.ram = bytearray(32)
        self.output = 0
        self.argument_of = 0
        self.answers = deque(maxlen=16)
        self.break_prefix = False
        self.polling = 0
        self.next_at = 0

    def pdm_save(self) -> KbcState:
        return KbcState(
            status=self.status,
            mode=self.mode,
            ram=bytes(self.ram),
            output=self.output,
            argument_of=self.argument_of,
            answers=tuple(self.answers),
            break_prefix=self.break_prefix,
            polling=self.polling,
            next_at=self.next_at,
            keyboard=self.keyboard.save(),
            mouse=self.mouse.save(),
        )

    def pdm_load(self, state: KbcState) -> None:
        if len(state.ram) != 32:
            raise StateError(
                "VERR_SSM_UNEXPECTED_DATA", f"pckbd: the controller's RAM has {len(state.ram)} bytes, not 32"
            )
        self.status = state.status & 0xFF
        self.mode = state.mode & MODE_BITS
        self.ram = bytearray(state.ram)
        self.output = state.output & 0xFF
        self.argument_of = state.argument_of & 0xFF
        self.answers = deque(state.answers, maxlen=16)
        self.break_prefix = state.break_prefix
        self.polling = state.polling
        self.next_at = state.next_at
        self.keyboard.load(state.keyboard)
        self.mouse.load(state.mouse)

    def pdm_info(self, arguments: str) -> str:
        keyboard, mouse = self.keyboard, self.mouse
        return (
            f"status {CommandRegisters.STATUS.describe(self.status)}, command byte {self.mode:#04x}, "
            f"output buffer {self.output:#04x}\n"
            f"keyboard: set {keyboard.scan_set}, {'on' if keyboard.enabled else 'off'}, "
            f"{len(keyboard.codes)} codes wait, held {', '.join(f'{usage:#x}' for usage in keyboard.held)}\n"
            f"mouse: identity {mouse.identity}, {'on' if mouse.enabled else 'off'}, "
            f"{'remote' if mouse.remote else 'stream'}, {mouse.rate}/s, {len(mouse.events)} events wait"
        )


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(
        DeviceType(
            "pckbd", Kbc, Config,
            device_class=DeviceClass.INPUT, max_instances=1,
            summary="keyboard controller with keyboard and mouse",
        )
    )  # fmt: skip
