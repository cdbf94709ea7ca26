"""Guest memory and a PC's port bus without any VM."""

from __future__ import annotations

from collections.abc import Sequence

from vbox_pdm import Mmio, PciFunction, PciIdentity, Ports


class FakeMemory:
    """`size` bytes of RAM from 0, and `high` bytes from 4 GiB on; sparse."""

    def __init__(self, size: int = 256 << 20, high: int = 0) -> None:
        self.size, self.high = size, high
        self.pages: dict[int, bytearray] = {}

    def ram_ranges(self) -> Sequence[tuple[int, int]]:
        low = [(0, self.size)]
        return [*low, (1 << 32, (1 << 32) + self.high)] if self.high else low

    def read(self, address: int, length: int) -> bytes:
        first, end = address >> 12, (address + length + 4095) >> 12
        whole = b"".join(self.pages.get(page, bytes(4096)) for page in range(first, end))
        return whole[address & 0xFFF :][:length]

    def write(self, address: int, data: bytes) -> None:
        assert address + len(data) <= self.size, "written outside of the RAM"
        done = 0
        while done < len(data):
            page = self.pages.setdefault((address + done) >> 12, bytearray(4096))
            at = (address + done) & 0xFFF
            chunk = data[done : done + 4096 - at]
            page[at : at + len(chunk)] = chunk
            done += len(chunk)


class _Mapping:
    def __init__(self, address: int) -> None:
        self.address: int | None = address

    def unmap(self) -> None:
        self.address = None

    def move(self, address: int) -> None:
        self.address = address


class FakeBoard:
    """A port bus with configuration mechanism 1 over real PCI functions; other writes are noted."""

    def __init__(self) -> None:
        self.functions: dict[tuple[int, int], PciFunction] = {}
        self.mapped: dict[str, int] = {}
        self.address = 0
        self.written: list[tuple[int, int]] = []

    def add(
        self, device: int, function: int = 0, *, bars: Sequence[Ports | Mmio] = (), wide: bool = False,
        vendor: int = 0x1234, device_id: int = 0x5678, class_code: int = 0x020000, pin: int = 1,
        multifunction: bool = False,
    ) -> PciFunction:  # fmt: skip
        identity = PciIdentity(vendor, device_id, class_code=class_code, pin=pin, multifunction=multifunction)
        made = PciFunction(self, identity, (), device, function, f"{device}.{function}")  # type: ignore[arg-type]
        for number, region in enumerate(bars):
            made.bar(number * (2 if wide else 1), region, wide=wide)
        self.functions[device, function] = made
        return made

    # PciHost

    def bar_map(self, function: PciFunction, region: Ports | Mmio, address: int) -> _Mapping:
        self.mapped[region.name] = address
        return _Mapping(address)

    def intx(self, function: PciFunction, pin: int, level: bool) -> None:
        raise AssertionError("set-up raises no interrupt")

    def message(self, function: PciFunction, address: int, data: int) -> None:
        raise AssertionError("set-up sends no message")

    # PortBus

    def port_read(self, port: int, size: int) -> int:
        function = self._selected(port)
        if function is None:
            return (1 << 8 * size) - 1
        return function.config_read((self.address & 0xFC) + (port & 3), size)

    def port_write(self, port: int, size: int, value: int) -> None:
        if (port, size) == (0xCF8, 4):
            self.address = value
        elif (function := self._selected(port)) is not None:
            function.config_write((self.address & 0xFC) + (port & 3), size, value)
        elif not 0xCFC <= port <= 0xCFF:
            self.written.append((port, value))

    def _selected(self, port: int) -> PciFunction | None:
        if not 0xCFC <= port <= 0xCFF or not self.address >> 31 or self.address >> 16 & 0xFF:
            return None
        return self.functions.get((self.address >> 11 & 31, self.address >> 8 & 7))
