"""What thunks are written in: memory, structures and calls, for Python and for machine code alike.

A thunk is a function of this process that libunicorn calls in place of one of its own, or that takes the
place of a piece of native code.  It is written as a Python function in a small subset of the language, which
`compiler` turns into machine code.  Its values are numbers of 64 bits without sign; `u8[address]` is the
byte at an address, `Slot(address).start` a field of a structure there.  The same notation works in ordinary
Python, where it goes through ctypes.

The subset: parameters of the types below or of a `Struct` class (by address), keyword-only parameters for
what is known when the thunk is compiled; assignments, `if`, `while`, `for ... in range(...)`, `break`,
`continue`, `return`; arithmetic without sign and without overflow; comparisons without sign; `and`, `or`,
`not` (which give 0 or 1), `in` a tuple, conditional expressions; module constants; calls of other thunks of
the subset, of `lib` and `python`, and of the intrinsics at the end of this module.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any, Generic, NoReturn, Self, TypeVar, overload

# Types of parameters.  A C caller leaves the bits beyond them undefined.
UInt8 = int
UInt32 = int
Int32 = int


class Scalar:
    """Numbers of one width in memory: `u32[address]`; `u32(value)` cuts a value to it."""

    def __init__(self, kind: Any, *, signed: bool = False) -> None:
        self._kind = kind
        self.size = ctypes.sizeof(kind)
        self.signed = signed

    def __getitem__(self, address: int) -> int:
        return int(self._kind.from_address(address).value)

    def __setitem__(self, address: int, value: int) -> None:
        self._kind.from_address(address).value = value

    def __call__(self, value: int) -> int:
        value &= (1 << self.size * 8) - 1
        return value - (1 << self.size * 8) if self.signed and value >> (self.size * 8 - 1) else value


u8 = Scalar(ctypes.c_uint8)
u16 = Scalar(ctypes.c_uint16)
u32 = Scalar(ctypes.c_uint32)
u64 = Scalar(ctypes.c_uint64)
i32 = Scalar(ctypes.c_int32, signed=True)
i64 = Scalar(ctypes.c_int64, signed=True)


class Struct:
    """A view of a structure in memory; the class lists its fields."""

    __slots__ = ("address",)

    def __init__(self, address: int) -> None:
        self.address = address

    @property
    def _as_parameter_(self) -> ctypes.c_uint64:
        return ctypes.c_uint64(self.address)


S = TypeVar("S", bound=Struct)


class Field:
    """A number in a structure."""

    def __init__(self, scalar: Scalar, offset: int) -> None:
        self.scalar = scalar
        self.offset = offset

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Struct, owner: type) -> int: ...
    def __get__(self, instance: Struct | None, owner: type) -> Self | int:
        return self if instance is None else self.scalar[instance.address + self.offset]

    def __set__(self, instance: Struct, value: int) -> None:
        self.scalar[instance.address + self.offset] = value


class Pointer(Generic[S]):
    """The address of another structure, in a structure."""

    def __init__(self, target: type[S], offset: int) -> None:
        self.target = target
        self.offset = offset

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Struct, owner: type) -> S: ...
    def __get__(self, instance: Struct | None, owner: type) -> Self | S:
        return self if instance is None else self.target(u64[instance.address + self.offset])

    def __set__(self, instance: Struct, value: S) -> None:
        u64[instance.address + self.offset] = value.address


class Items:
    """An array inside a structure, `stride` bytes from item to item."""

    def __init__(self, scalar: Scalar, base: int, stride: int) -> None:
        self._scalar, self._base, self._stride = scalar, base, stride

    def __getitem__(self, index: int) -> int:
        return self._scalar[self._base + index * self._stride]

    def __setitem__(self, index: int, value: int) -> None:
        self._scalar[self._base + index * self._stride] = value


class Array:
    """A field that is an array of numbers."""

    def __init__(self, scalar: Scalar, offset: int, stride: int = 0) -> None:
        self.scalar = scalar
        self.offset = offset
        self.stride = stride or scalar.size

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Struct, owner: type) -> Items: ...
    def __get__(self, instance: Struct | None, owner: type) -> Self | Items:
        if instance is None:
            return self
        return Items(self.scalar, instance.address + self.offset, self.stride)


class Functions:
    """Functions by name: those of a library, or callbacks.  Python may call them, too; it keeps the GIL."""

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}
        self._callables: dict[str, Callable[..., int]] = {}

    def define(self, addresses: Mapping[str, int]) -> None:
        self.addresses.update(addresses)
        self._callables.clear()

    def __getattr__(self, name: str) -> Callable[..., int]:
        found = self._callables.get(name)
        if found is None:
            if name not in self.addresses:
                raise AttributeError(name)
            function = ctypes.PYFUNCTYPE(ctypes.c_uint64)(self.addresses[name])

            def found(*arguments: int | Struct) -> int:
                return int(function(*(a if isinstance(a, Struct) else ctypes.c_uint64(a) for a in arguments)))

            self._callables[name] = found
        return found


lib = Functions()
"""libunicorn's functions, internal ones without their suffix, and a few of the C library."""
python = Functions()
"""Callbacks into Python: no guest exception may pass through them."""


# --- intrinsics: what a thunk can do beyond that --------------------------------------------------


def _only_compiled(*_: object) -> NoReturn:
    raise TypeError("this is for thunks")


def here() -> int:
    """The return address: in what translated code calls, where in the block that is."""
    _only_compiled()


def tail(function: Callable[..., Any], *arguments: int | Struct) -> NoReturn:
    """Go on in another function, which finds this thunk's return address and gives this thunk's result.  What
    it has on the stack, from the seventh argument on, are this thunk's."""
    _only_compiled(function, *arguments)


def call(address: int, *arguments: int | Struct) -> int:
    """Call a function by its address."""
    _only_compiled(address, *arguments)


def address_of(function: Callable[..., Any]) -> int:
    """Of a thunk or a function of a library."""
    _only_compiled(function)


def buffer(size: int) -> int:
    """So many bytes on the stack, aligned to 16, until the thunk returns."""
    _only_compiled(size)


def execute(code: bytes, rax: int = 0, rcx: int = 0) -> int:
    """Machine code between two values of registers and the result in RAX; XMM registers last to the next
    call."""
    _only_compiled(code, rax, rcx)


EXCHANGE_U32 = bytes.fromhex("87 08 89c8")  # xchg [rax], ecx / mov eax, ecx
# mul rcx / shrd rax, rdx, 40: the product has 128 bits
MULTIPLY_SHIFT_40 = bytes.fromhex("48 f7e1 48 0facd028")
