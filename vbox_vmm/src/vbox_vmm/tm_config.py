"""What can be set about time: the catch-up table, warp, rates (CFGM node /TM).

Facts: vmm.md section 9.  Times are nanoseconds, rates per cent.
"""

from __future__ import annotations

import enum
import logging
from typing import Any

from attrs import Attribute, field, frozen

from vbox_pdm import ConfigError
from vbox_vmm.cfgm import Node, matches

log = logging.getLogger("vbox.TM")

NS_PER_SECOND = 1_000_000_000

_WITHOUT_EFFECT = (
    "TSCMode|TSCTiedToExecution|TSCNotTiedToHalt|TSCMultiplier|TimerMillies|UTCTouchFileOnJump|HostHz*"
)
_KNOWN = (
    "CatchUpStopThreshold|CatchUpGiveUpThreshold|CatchUpStartThreshold?|CatchUpPrecentage?|ScheduleSlack"
    f"|TSCTicksPerSecond|UTCOffset|WarpDrivePercentage|Mode|Source|InstructionTime|UTCStart|{_WITHOUT_EFFECT}"
)


class Mode(enum.Enum):
    """How time passes while the guest is halted."""

    REALTIME = "realtime"  # as long as the host's
    WARP = "warp"  # it jumps to the next timer


class Source(enum.Enum):
    """What the virtual clocks follow while the guest runs."""

    HOST = "host"  # the host's clock
    INSTRUCTIONS = "instructions"  # what the guest executes: each run is the same


@frozen
class CatchUpPeriod:
    """From a lag of `start` ns on, VIRTUAL_SYNC runs `percentage` per cent faster (1..2000)."""

    start: int
    percentage: int


CATCH_UP_PERIODS = (
    CatchUpPeriod(750_000, 5),
    CatchUpPeriod(1_500_000, 10),
    CatchUpPeriod(8_000_000, 25),
    CatchUpPeriod(30_000_000, 50),
    CatchUpPeriod(75_000_000, 75),
    CatchUpPeriod(175_000_000, 100),
    CatchUpPeriod(500_000_000, 200),
    CatchUpPeriod(3_000_000_000, 300),
    CatchUpPeriod(30_000_000_000, 400),
    CatchUpPeriod(55_000_000_000, 500),
)


def _span(low: int, high: int) -> Any:
    def check(_instance: object, attribute: Attribute[int], value: int) -> None:
        if not low <= value <= high:
            raise invalid(f"{attribute.name} is {value}", f"It takes {low}..{high}")

    return check


@frozen
class TmConfig:
    """The settings of one VM's TM.  Raises ConfigError VERR_INVALID_PARAMETER for impossible ones."""

    mode: Mode = Mode.REALTIME
    tsc_hz: int = field(default=NS_PER_SECOND, validator=_span(1_000_000, 1_000_000_000_000))
    warp_percentage: int = field(default=100, validator=_span(2, 20_000))
    periods: tuple[CatchUpPeriod, ...] = CATCH_UP_PERIODS
    stop_threshold: int = field(default=500_000, validator=_span(0, 1 << 62))
    give_up_threshold: int = field(default=60_000_000_000, validator=_span(1, 1 << 62))
    slack: int = field(default=100_000, validator=_span(0, NS_PER_SECOND))
    utc_offset: int = 0
    source: Source = Source.HOST
    instruction_time: int = field(default=2, validator=_span(1, 1_000_000))
    """With INSTRUCTIONS: ns for each."""
    utc_start: int = 1_767_225_600
    """With INSTRUCTIONS: the guest's wall clock when its virtual clock is 0, seconds since 1970."""

    def __attrs_post_init__(self) -> None:
        below, name = self.stop_threshold, "stop threshold"
        for number, period in enumerate(self.periods):
            if not 1 <= period.percentage <= 2000:
                raise invalid(f"catch-up percentage {number} is {period.percentage}", "It takes 1..2000")
            if period.start <= below:
                raise invalid(
                    f"catch-up start threshold {number} is {period.start} ns, not above the {name}"
                    f" of {below} ns",
                    "Thresholds must be strictly increasing",
                )
            below, name = period.start, f"start threshold {number}"
        if self.source is Source.INSTRUCTIONS and self.warp_percentage != 100:
            raise invalid(
                f"warp drive percentage is {self.warp_percentage} while instructions are the source of time",
                "Set InstructionTime instead",
            )
        if self.give_up_threshold <= below:
            raise invalid(
                f"catch-up give-up threshold is {self.give_up_threshold} ns, not above the {name}"
                f" of {below} ns",
                "Thresholds must be strictly increasing",
            )


def invalid(message: str, remedy: str) -> ConfigError:
    """The error for a setting of TM."""
    return ConfigError("VERR_INVALID_PARAMETER", f"TM: {message}", remedy)


def read_config(node: Node) -> TmConfig:
    """The settings in the CFGM node /TM; what is absent has its default.

    Raises ConfigError: VERR_CFGM_* for unknown keys and wrong types, VERR_INVALID_PARAMETER.
    Keys of VirtualBox that mean nothing here are accepted and logged.
    """
    node.validate(_KNOWN, "", "TM")
    for name in node.values:
        if matches(name, _WITHOUT_EFFECT):
            log.warning("TM: %s has no effect in this VMM", name)
    default = TmConfig()
    periods = tuple(
        CatchUpPeriod(
            node.query_integer(f"CatchUpStartThreshold{number}", default=period.start),
            # The spelling is VirtualBox's.
            node.query_integer(f"CatchUpPrecentage{number}", default=period.percentage, bits=32),
        )
        for number, period in enumerate(default.periods)
    )
    mode = node.query_string("Mode", default=default.mode.value)
    if mode not in {item.value for item in Mode}:
        raise invalid(f"Mode is '{mode}'", "It takes realtime or warp")
    source = node.query_string("Source", default=default.source.value)
    if source not in {item.value for item in Source}:
        raise invalid(f"Source is '{source}'", "It takes host or instructions")
    return TmConfig(
        mode=Mode(mode),
        tsc_hz=node.query_integer("TSCTicksPerSecond", default=default.tsc_hz),
        warp_percentage=node.query_integer("WarpDrivePercentage", default=100, bits=32),
        periods=periods,
        stop_threshold=node.query_integer("CatchUpStopThreshold", default=default.stop_threshold),
        give_up_threshold=node.query_integer("CatchUpGiveUpThreshold", default=default.give_up_threshold),
        slack=node.query_integer("ScheduleSlack", default=default.slack, bits=32),
        utc_offset=node.query_integer("UTCOffset", default=0, signed=True),
        source=Source(source),
        instruction_time=node.query_integer("InstructionTime", default=default.instruction_time),
        utc_start=node.query_integer("UTCStart", default=default.utc_start),
    )
