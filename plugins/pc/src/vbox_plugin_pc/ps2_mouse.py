"""PS/2 mouse, IntelliMouse and IntelliMouse Explorer: a part of the device `pckbd`.

References: IBM Personal System/2 Hardware Interface Technical Reference, "Mouse"; Microsoft's
IntelliMouse protocols (identities 3 and 4, and the tilt wheel of Explorer 4.0).

Modelled: all commands, stream, remote and wrap mode, the sample rate, scaling, the knocks of sample
rates 200-100-80 (wheel), 200-200-80 (five buttons) and 200-80-40 (tilt wheel).

Not modelled: the resolution (a source of motion counts already); the completion code that a mouse
sends by itself after power on.

Traps
- A packet goes out whole; motion that comes meanwhile is in the next one.
- Motion beyond the 9 bits of a packet is not lost: the rest follows.  Overflow (bits 6 and 7) shows
  only past what the counters of this mouse hold.
- A click must not vanish between two samples: each change of buttons gets a packet of its own.
- PS/2 counts up as positive, the layer counts down; the wheel's sign is the same in both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import define, frozen

from vbox_pdm import Clock, DeviceHelpers, MouseBelow, State, StateError
from vbox_plugin_pc.ps2_keyboard import Wire

ACK, RESEND, BAT_OK = 0xFA, 0xFE, 0xAA
IDENTITY_PLAIN, IDENTITY_WHEEL, IDENTITY_FIVE_BUTTONS = 0, 3, 4
RATES = frozenset((10, 20, 40, 60, 80, 100, 200))
COUNTER_LIMIT = 0x7FFF  # what each counter holds before it overflows
EVENTS = 64
LEFT, RIGHT, MIDDLE, BACK, FORWARD = 1, 2, 4, 8, 16
ALWAYS_ONE, X_SIGN, Y_SIGN, X_OVERFLOW, Y_OVERFLOW = 0x08, 0x10, 0x20, 0x40, 0x80
VERTICAL_WHEEL, TILT_WHEEL = 0x80, 0x40


def scale_2_to_1(count: int) -> int:
    """What E7 makes of a count in stream mode."""
    size = abs(count)
    scaled = (0, 1, 1, 3, 6, 9)[size] if size < 6 else 2 * size
    return scaled if count >= 0 else -scaled


def _clamp(value: int, low: int, high: int) -> int:
    return low if value < low else high if value > high else value


@define
class Motion:
    """Motion that was not reported yet, and the buttons during it (as the layer has them)."""

    dx: int
    dy: int
    dz: int
    dw: int
    buttons: int
    overflow: int = 0

    @property
    def moved(self) -> bool:
        """Whether there is any."""
        return bool(self.dx or self.dy or self.dz or self.dw)

    def add(self, dx: int, dy: int, dz: int, dw: int) -> None:
        """More motion; counters that overflow stay at their limit and say so."""
        limit = COUNTER_LIMIT
        x, y = self.dx + dx, self.dy + dy
        self.overflow |= (X_OVERFLOW if abs(x) > limit else 0) | (Y_OVERFLOW if abs(y) > limit else 0)
        self.dx, self.dy = _clamp(x, -limit, limit), _clamp(y, -limit, limit)
        self.dz = _clamp(self.dz + dz, -limit, limit)
        self.dw = _clamp(self.dw + dw, -limit, limit)


@frozen
class MouseState(State, version=1):
    """Everything in the mouse; `events` holds six numbers for each."""

    enabled: bool
    remote: bool
    wrapped: bool
    scaled: bool
    resolution: int
    rate: int
    identity: int
    tilt: bool
    knock: tuple[int, ...]
    command: int
    answers: bytes
    packet: bytes
    sent: bytes
    events: tuple[int, ...]
    buttons: int
    reported: int
    refused: bool


class Ps2Mouse:
    """A mouse on a PS/2 wire; also the upper end of LUN 1."""

    transient = frozenset({"told"})  # the source is told again whenever it may be another one

    enabled: bool
    remote: bool
    wrapped: bool
    scaled: bool
    resolution: int
    rate: int  # samples a second
    identity: int
    tilt: bool  # the tilt wheel's form of packets
    knock: tuple[int, ...]  # the last three rates that were set
    command: int  # waits for its argument; 0 for none
    answers: deque[int]
    packet: deque[int]
    sent: bytes  # the last answer or packet, for RESEND
    events: deque[Motion]  # not reported yet; each has other buttons than the one before
    buttons: int
    reported: int  # the buttons in the last packet
    refused: bool

    def __init__(self, helpers: DeviceHelpers, wire: Wire) -> None:
        self.wire = wire
        self.stream: MouseBelow | None = None
        self.timer = helpers.timer("mouse sample", Clock.VIRTUAL_SYNC, self._sample)
        self.buttons = 0
        self.refused = False
        self.told = False
        self._power_on_values()
        self.commands: dict[int, Callable[[], None]] = {
            0xE6: lambda: self._scaling(False),
            0xE7: lambda: self._scaling(True),
            0xE8: lambda: self._wait_for(0xE8),
            0xE9: self._status_request,
            0xEA: lambda: self._mode(False),
            0xEB: self._read_data,
            0xEC: lambda: self._wrap(False),
            0xEE: lambda: self._wrap(True),
            0xF0: lambda: self._mode(True),
            0xF2: lambda: self._answer(ACK, self.identity),
            0xF3: lambda: self._wait_for(0xF3),
            0xF4: lambda: self._enable(True),
            0xF5: lambda: self._enable(False),
            0xF6: self._set_defaults,
            0xFE: lambda: self._answer(*self.sent),
            0xFF: self._reset,
        }

    def reset(self) -> None:
        """Power on."""
        self.buttons = 0
        self._power_on_values()
        self._tell_modes()

    # --- what the source of motion calls

    def mouse_event(self, dx: int, dy: int, dz: int, dw: int, buttons: int) -> bool:
        """Motion and buttons.  False when too many changes of buttons wait already."""
        buttons &= 0x1F
        if not self._listening:
            self.buttons = buttons
            return True
        events = self.events
        if events and (events[-1].buttons == buttons or self.remote):
            events[-1].buttons = buttons
            events[-1].add(dx, dy, dz, dw)
        elif len(events) >= EVENTS:
            self.refused = True
            return False
        else:
            event = Motion(0, 0, 0, 0, buttons)
            event.add(dx, dy, dz, dw)
            events.append(event)
        self.buttons = buttons
        if not self.timer.active:
            self._sample()
        return True

    # --- what the controller calls

    @property
    def has_data(self) -> bool:
        """Whether `take` has a byte."""
        return bool(self.answers or self.packet)

    def take(self) -> int:
        """The next byte on the wire.  Call `taken` once it is delivered."""
        source = self.answers or self.packet
        return source.popleft()

    def taken(self) -> None:
        """The next packet may be made, and there may be room for events."""
        if not self.packet and not self.timer.active:
            self._sample()
        if self.refused and len(self.events) < EVENTS:
            self.refused = False
            if self.stream is not None:
                self.stream.mouse_ready()

    def receive(self, value: int) -> None:
        """A byte from the host: an argument, a command, or in wrap mode anything to echo."""
        self.packet.clear()
        if self.wrapped and value not in (0xEC, 0xFF):
            self._answer(value)
        else:
            command, self.command = self.command, 0
            if command:
                self._argument(command, value)
            elif value in self.commands:
                self.commands[value]()
            else:
                self._answer(RESEND)
        self.wire.data_available()
        self._tell_modes()
        self.taken()

    # --- commands

    def _argument(self, command: int, value: int) -> None:
        if command == 0xE8 and value <= 3:
            self.resolution = value
        elif command == 0xF3 and value in RATES:
            self._set_rate(value)
        elif value in self.commands:
            self.commands[value]()
            return
        else:
            self._answer(RESEND)
            self.command = command
            return
        self._drop_motion()
        self._answer(ACK)

    def _set_rate(self, value: int) -> None:
        self.rate = value
        self.knock = (*self.knock[-2:], value)
        if self.knock == (200, 100, 80) and self.identity == IDENTITY_PLAIN:
            self.identity = IDENTITY_WHEEL
        elif self.knock == (200, 200, 80) and self.identity != IDENTITY_FIVE_BUTTONS:
            self.identity = IDENTITY_FIVE_BUTTONS
        elif self.knock == (200, 80, 40) and self.identity == IDENTITY_FIVE_BUTTONS:
            self.tilt = True

    def _scaling(self, scaled: bool) -> None:
        self.scaled = scaled
        self._answer(ACK)

    def _wait_for(self, command: int) -> None:
        self._answer(ACK)
        self.command = command

    def _status_request(self) -> None:
        buttons = self.buttons
        status = (
            self.remote << 6 | self.enabled << 5 | self.scaled << 4
            | (buttons & LEFT) << 2 | (buttons & MIDDLE) >> 1 | (buttons & RIGHT) >> 1
        )  # fmt: skip
        self._answer(ACK, status, self.resolution, self.rate)

    def _mode(self, remote: bool) -> None:
        self.remote = remote
        self._drop_motion()
        self._answer(ACK)

    def _read_data(self) -> None:
        event = self.events[0] if self.events else Motion(0, 0, 0, 0, self.buttons)
        self._answer(ACK, *self._packet(event, scaled=False))
        if self.events and not event.moved:
            self.events.popleft()

    def _wrap(self, wrapped: bool) -> None:
        self.wrapped = wrapped
        self._drop_motion()
        self._answer(ACK)

    def _enable(self, enabled: bool) -> None:
        self.enabled = enabled
        self._drop_motion()
        self._answer(ACK)

    def _set_defaults(self) -> None:
        self._default_values()
        self._drop_motion()
        self._answer(ACK)

    def _reset(self) -> None:
        self._power_on_values()
        self._answer(ACK, BAT_OK, IDENTITY_PLAIN)

    def _answer(self, *values: int) -> None:
        self.answers.clear()
        self.answers.extend(values)
        self.sent = bytes(values)

    # --- motion

    @property
    def _listening(self) -> bool:
        return self.remote or self.enabled

    def _tell_modes(self) -> None:
        if self._listening != self.told:
            self.told = self._listening
            if self.stream is not None:
                self.stream.mouse_modes(self.told, False)

    def _sample(self) -> None:
        """Stream mode: a packet if there is something to say, at most `rate` a second."""
        if self.remote or self.wrapped or not self.enabled or self.packet or self.answers or self.command:
            return
        events = self.events
        while events and not events[0].moved and events[0].buttons == self.reported:
            events.popleft()
        if not events:
            return
        event = events[0]
        packet = self._packet(event, scaled=self.scaled)
        if not event.moved:
            events.popleft()
        self.packet.extend(packet)
        self.sent = packet
        self.timer.set_relative(1_000_000_000 // self.rate)
        self.wire.data_available()

    def _packet(self, event: Motion, *, scaled: bool) -> bytes:
        """Take as much out of `event` as a packet carries."""
        # With scaling, what is reported is about twice what is taken.
        limit = 127 if scaled else 255
        x, y = _clamp(event.dx, -limit, limit), _clamp(event.dy, -limit, limit)
        event.dx -= x
        event.dy -= y
        if scaled:
            x, y = scale_2_to_1(x), scale_2_to_1(y)
        y = -y
        buttons = event.buttons
        head = ALWAYS_ONE | buttons & 7 | event.overflow
        event.overflow = 0
        head |= (X_SIGN if x < 0 else 0) | (Y_SIGN if y < 0 else 0)
        before, self.reported = self.reported, buttons
        if self.identity == IDENTITY_PLAIN:
            event.dz = event.dw = 0
            return bytes((head, x & 0xFF, y & 0xFF))
        return bytes((head, x & 0xFF, y & 0xFF, self._fourth(event, before)))

    def _fourth(self, event: Motion, before: int) -> int:
        """The fourth byte: wheels, and buttons 4 and 5, which were `before` when last reported."""
        if self.identity == IDENTITY_WHEEL:
            event.dw = 0
            return self._wheel(event, 8) & 0xFF
        extra = (event.buttons & (BACK | FORWARD)) << 1
        if not self.tilt:
            event.dw = 0
            return extra | self._wheel(event, 8) & 0x0F
        if (event.buttons ^ before) & (BACK | FORWARD):
            return extra  # a byte for a wheel does not carry them
        if event.dz:
            return VERTICAL_WHEEL | self._wheel(event, 32) & 0x3F
        if event.dw:
            steps = _clamp(event.dw, -31, 32)
            event.dw -= steps
            return TILT_WHEEL | -steps & 0x3F
        return extra

    def _wheel(self, event: Motion, limit: int) -> int:
        steps = _clamp(event.dz, -limit, limit - 1)
        event.dz -= steps
        return steps

    def _drop_motion(self) -> None:
        """Commands clear the counters."""
        self.events.clear()
        self.packet.clear()

    # --- state

    def _default_values(self) -> None:
        self.enabled = False
        self.remote = False
        self.wrapped = False
        self.scaled = False
        self.resolution = 2
        self.rate = 100

    def _power_on_values(self) -> None:
        self.timer.stop()
        self._default_values()
        self.identity = IDENTITY_PLAIN
        self.tilt = False
        self.knock = ()
        self.command = 0
        self.answers = deque()
        self.packet = deque()
        self.sent = b""
        self.events = deque()
        self.reported = self.buttons

    def save(self) -> MouseState:
        """Everything but the timer, which the host saves."""
        return MouseState(
            enabled=self.enabled,
            remote=self.remote,
            wrapped=self.wrapped,
            scaled=self.scaled,
            resolution=self.resolution,
            rate=self.rate,
            identity=self.identity,
            tilt=self.tilt,
            knock=self.knock,
            command=self.command,
            answers=bytes(self.answers),
            packet=bytes(self.packet),
            sent=self.sent,
            events=tuple(
                number
                for event in self.events
                for number in (event.dx, event.dy, event.dz, event.dw, event.buttons, event.overflow)
            ),
            buttons=self.buttons,
            reported=self.reported,
            refused=self.refused,
        )

    def load(self, state: MouseState) -> None:
        """The opposite of `save`."""
        if state.rate not in RATES or len(state.events) % 6:
            raise StateError("VERR_SSM_UNEXPECTED_DATA", "pckbd: the mouse's state is impossible")
        self.enabled = state.enabled
        self.remote = state.remote
        self.wrapped = state.wrapped
        self.scaled = state.scaled
        self.resolution = state.resolution
        self.rate = state.rate
        self.identity = state.identity
        self.tilt = state.tilt
        self.knock = state.knock
        self.command = state.command
        self.answers = deque(state.answers)
        self.packet = deque(state.packet)
        self.sent = state.sent
        numbers = state.events
        self.events = deque(Motion(*numbers[at : at + 6]) for at in range(0, len(numbers), 6))
        self.buttons = state.buttons
        self.reported = state.reported
        self.refused = state.refused

    # --- another source of motion

    def greet(self) -> None:
        """The source may be another one than before: a new one, or after a load."""
        self.told = not self._listening
        self._tell_modes()
        self.taken()

    def let_go(self) -> None:
        """The source goes, and nobody else will release its buttons."""
        if self.buttons:
            self.mouse_event(0, 0, 0, 0, 0)
        self.refused = False
