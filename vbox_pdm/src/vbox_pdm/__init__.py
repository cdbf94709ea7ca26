"""The contract of vbox-vmm: what the author of a device, driver or bus imports, and nothing else."""

from vbox_pdm.config import NoConfig, key
from vbox_pdm.device import Device, DeviceClass, DeviceType
from vbox_pdm.driver import Driver, DriverType
from vbox_pdm.errors import ConfigError, PdmError, RegistrationError, StateError
from vbox_pdm.helpers import (
    DeviceHelpers,
    Dma,
    DmaChannel,
    DriverHelpers,
    IrqLine,
    Mapping,
    PciBusHelpers,
    PicHelpers,
    Queue,
    ResetSource,
    RuntimeErrorFlags,
    ShadowMode,
    Worker,
)
from vbox_pdm.hookspecs import hookimpl
from vbox_pdm.layers import (
    CharStream,
    CharStreamAbove,
    CharStreamBelow,
    End,
    Keyboard,
    KeyboardAbove,
    KeyboardBelow,
    Layer,
    Mouse,
    MouseAbove,
    MouseBelow,
)
from vbox_pdm.pci import Capability, Msi, MsiX, PciFunction, PciIdentity
from vbox_pdm.regions import Mmio, Ports, Ram, ReadWidth, Region, Rom, Width, WriteWidth
from vbox_pdm.registers import Reg8, Reg16, Reg32, Reg64, Register, RegisterMap
from vbox_pdm.state import State
from vbox_pdm.timers import Clock, Timer
from vbox_pdm.version import CONTRACT

__all__ = [
    "CONTRACT",
    "Capability",
    "CharStream",
    "CharStreamAbove",
    "CharStreamBelow",
    "Clock",
    "ConfigError",
    "Device",
    "DeviceClass",
    "DeviceHelpers",
    "DeviceType",
    "Dma",
    "DmaChannel",
    "Driver",
    "DriverHelpers",
    "DriverType",
    "End",
    "IrqLine",
    "Keyboard",
    "KeyboardAbove",
    "KeyboardBelow",
    "Layer",
    "Mapping",
    "Mmio",
    "Mouse",
    "MouseAbove",
    "MouseBelow",
    "Msi",
    "MsiX",
    "NoConfig",
    "PciBusHelpers",
    "PciFunction",
    "PciIdentity",
    "PdmError",
    "PicHelpers",
    "Ports",
    "Queue",
    "Ram",
    "ReadWidth",
    "Reg8",
    "Reg16",
    "Reg32",
    "Reg64",
    "Region",
    "Register",
    "RegisterMap",
    "RegistrationError",
    "ResetSource",
    "Rom",
    "RuntimeErrorFlags",
    "ShadowMode",
    "State",
    "StateError",
    "Timer",
    "Width",
    "Worker",
    "WriteWidth",
    "hookimpl",
    "key",
]
