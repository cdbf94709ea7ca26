"""Instruction forms of user-mode code, and an assembler for them: what test_differential.py draws from.

A form is a name, a way to draw bytes, and the flags that it leaves undefined (SDM volume 2).  Those are
cleared behind it, so that nothing undefined reaches the next form.  R15 points to the middle of 256 bytes of
data, RSP to a stack; all other registers are free.  An x87 or MMX form loads its operands from the data and
stores its result there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from random import Random

from attrs import frozen

CF, PF, AF, ZF, SF, OF = 1, 4, 0x10, 0x40, 0x80, 0x800
ALL_FLAGS = CF | PF | AF | ZF | SF | OF
FREE = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
SIZES = (1, 2, 4, 8)


@frozen
class Form:
    name: str
    draw: Callable[[Random], bytes]
    undefined: int = 0
    feature: str = ""

    def assemble(self, rng: Random) -> bytes:
        code = self.draw(rng)
        if self.undefined:
            # pushf / and qword [rsp], ~undefined / popf
            code += b"\x9c\x48\x81\x24\x24" + struct.pack("<i", ~self.undefined) + b"\x9d"
        return code


def rex(w: int, reg: int, rm: int, force: bool = False) -> bytes:
    value = 0x40 | w << 3 | (reg >> 3) << 2 | rm >> 3
    return bytes([value]) if value != 0x40 or force else b""


def encode(
    opcode: bytes, size: int, reg: int, rm: int | None, disp: int = 0, prefix: bytes = b"", tail: bytes = b""
) -> bytes:
    """reg and rm as numbers; rm None is [r15 + disp]."""
    base = 15 if rm is None else rm
    head = prefix + (b"\x66" if size == 2 else b"")
    head += rex(size == 8, reg, base, force=size == 1)
    mode = (0x40 if rm is None else 0xC0) | (reg & 7) << 3 | base & 7
    return head + opcode + bytes([mode]) + (struct.pack("<b", disp) if rm is None else b"") + tail


def immediate(rng: Random, size: int) -> bytes:
    length = min(size, 4)
    value = rng.choice((0, 1, -1, 0x7F, 0x80, rng.getrandbits(31)))
    return (value & (1 << length * 8) - 1).to_bytes(length, "little")


def disp(rng: Random, align: int = 1) -> int:
    return rng.randrange(-128, 96) // align * align


def operand(rng: Random, memory: bool, align: int = 1) -> tuple[int | None, int]:
    return (None, disp(rng, align)) if memory else (rng.choice(FREE), 0)


def plain(
    opcode: bytes,
    size: int,
    memory: bool,
    extension: int | None = None,
    *,
    tail: Callable[[Random], bytes] = lambda rng: b"",
    prefix: bytes = b"",
    before: bytes = b"",
) -> Callable[[Random], bytes]:
    """An instruction with a ModRM byte: its reg field is `extension`, or a register at random."""

    def draw(rng: Random) -> bytes:
        rm, at = operand(rng, memory)
        reg = rng.choice(FREE) if extension is None else extension
        return before + encode(opcode, size, reg, rm, at, prefix, tail(rng))

    return draw


def sized(opcode: int, size: int) -> bytes:
    return bytes([opcode | (size > 1)])


def places() -> Iterator[tuple[int, bool, str]]:
    for size in SIZES:
        for memory in (False, True):
            yield size, memory, f"{'m' if memory else 'r'}{size * 8}"


def arithmetic() -> Iterator[Form]:
    for number, name in enumerate(("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")):
        undefined = AF if name in ("or", "and", "xor") else 0
        for size, memory, place in places():
            yield Form(f"{name} {place}, r", plain(sized(number << 3, size), size, memory), undefined)
            yield Form(f"{name} r, {place}", plain(sized(number << 3 | 2, size), size, memory), undefined)
            yield Form(
                f"{name} {place}, imm",
                plain(sized(0x80, size), size, memory, number, tail=lambda rng, s=size: immediate(rng, s)),
                undefined,
            )
            if memory and name != "cmp":
                yield Form(
                    f"lock {name} {place}, r",
                    plain(sized(number << 3, size), size, memory, prefix=b"\xf0"),
                    undefined,
                )
            if size > 1:
                yield Form(
                    f"{name} {place}, imm8",
                    plain(b"\x83", size, memory, number, tail=lambda rng: immediate(rng, 1)),
                    undefined,
                )
    for size, memory, place in places():
        yield Form(f"test {place}, r", plain(sized(0x84, size), size, memory), AF)
        yield Form(f"mov {place}, r", plain(sized(0x88, size), size, memory))
        yield Form(f"mov r, {place}", plain(sized(0x8A, size), size, memory))
        yield Form(f"xchg {place}, r", plain(sized(0x86, size), size, memory))
        yield Form(f"xadd {place}, r", plain(b"\x0f" + sized(0xC0, size), size, memory))
        yield Form(f"cmpxchg {place}, r", plain(b"\x0f" + sized(0xB0, size), size, memory))
        for number, name in ((2, "not"), (3, "neg")):
            yield Form(f"{name} {place}", plain(sized(0xF6, size), size, memory, number))
        for number, name in ((0, "inc"), (1, "dec")):
            yield Form(f"{name} {place}", plain(sized(0xFE, size), size, memory, number))
        for number, name in ((4, "mul"), (5, "imul")):
            yield Form(f"{name} {place}", plain(sized(0xF6, size), size, memory, number), SF | ZF | AF | PF)
        yield from divisions(size, memory, place)


def divisions(size: int, memory: bool, place: str) -> Iterator[Form]:
    """By RCX or memory, which is made odd first; the dividend is extended, so that few overflow."""
    for number, name in ((6, "div"), (7, "idiv")):
        if name == "div":
            extend = b"\x0f\xb6\xc0" if size == 1 else b"\x31\xd2"  # movzx eax, al / xor edx, edx
        else:
            extend = {1: b"\x66\x98", 2: b"\x66\x99", 4: b"\x99", 8: b"\x48\x99"}[size]

        def draw(rng: Random, number: int = number, extend: bytes = extend) -> bytes:
            rm, at = (None, disp(rng)) if memory else (1, 0)
            odd = encode(b"\x80", 1, 1, rm, at, tail=b"\x01")
            return odd + extend + encode(sized(0xF6, size), size, number, rm, at)

        yield Form(f"{name} {place}", draw, ALL_FLAGS)


def shifts() -> Iterator[Form]:
    for number, name in enumerate(("rol", "ror", "rcl", "rcr", "shl", "shr", "sal", "sar")):
        af = AF if number >= 4 else 0
        for size, memory, place in places():
            cf = CF if size < 4 and name in ("shl", "shr", "sal") else 0
            yield Form(f"{name} {place}, 1", plain(sized(0xD0, size), size, memory, number), af)
            yield Form(f"{name} {place}, cl", plain(sized(0xD2, size), size, memory, number), af | cf | OF)
            yield Form(
                f"{name} {place}, imm",
                plain(sized(0xC0, size), size, memory, number, tail=lambda rng: rng.randbytes(1)),
                af | cf | OF,
            )
    for opcode, name in ((0xA4, "shld"), (0xAC, "shrd")):
        for size, memory, place in places():
            if size == 1:
                continue
            most = min(size * 8, 32)
            yield Form(
                f"{name} {place}, r, imm",
                plain(
                    bytes([0x0F, opcode]),
                    size,
                    memory,
                    tail=lambda rng, m=most: bytes([rng.randrange(m)]),
                ),
                OF | AF,
            )
            yield Form(
                f"{name} {place}, r, cl",
                plain(bytes([0x0F, opcode | 1]), size, memory, before=b"\x80\xe1\x0f"),  # and cl, 15
                OF | AF,
            )


def bits() -> Iterator[Form]:
    for size, memory, place in places():
        if size == 1:
            continue
        for number, name in ((4, "bt"), (5, "bts"), (6, "btr"), (7, "btc")):
            yield Form(
                f"{name} {place}, imm",
                plain(b"\x0f\xba", size, memory, number, tail=lambda rng: rng.randbytes(1)),
                OF | SF | AF | PF,
            )
            if not memory:
                yield Form(
                    f"{name} {place}, r",
                    plain(bytes([0x0F, 0x83 | number << 3]), size, memory),
                    OF | SF | AF | PF,
                )
        for opcode, name in ((0xBC, "bsf"), (0xBD, "bsr")):

            def scan(rng: Random, opcode: int = opcode, size: int = size, memory: bool = memory) -> bytes:
                rm, at = operand(rng, memory)
                set_bit = encode(b"\x83", size, 1, rm, at, tail=b"\x40")  # of 0 the result is undefined
                return set_bit + encode(bytes([0x0F, opcode]), size, rng.choice(FREE), rm, at)

            yield Form(f"{name} r, {place}", scan, ALL_FLAGS & ~ZF)
        for opcode, name, feature, undefined in (
            (0xB8, "popcnt", "popcnt", 0),
            (0xBC, "tzcnt", "bmi1", OF | SF | AF | PF),
            (0xBD, "lzcnt", "abm", OF | SF | AF | PF),
        ):
            yield Form(
                f"{name} r, {place}",
                plain(bytes([0x0F, opcode]), size, memory, prefix=b"\xf3"),
                undefined,
                feature,
            )
        yield Form(f"imul r, {place}", plain(b"\x0f\xaf", size, memory), SF | ZF | AF | PF)
        for opcode, length in ((0x69, size), (0x6B, 1)):
            yield Form(
                f"imul r, {place}, imm{'8' if length == 1 else ''}",
                plain(bytes([opcode]), size, memory, tail=lambda rng, n=length: immediate(rng, n)),
                SF | ZF | AF | PF,
            )
        for opcode, name in ((0xB6, "movzx8"), (0xBE, "movsx8"), (0xB7, "movzx16"), (0xBF, "movsx16")):
            yield Form(f"{name} r, {place}", plain(bytes([0x0F, opcode]), size, memory))
        if memory:
            for opcode in (0xF0, 0xF1):
                yield Form(
                    f"movbe {opcode & 1} {place}",
                    plain(bytes([0x0F, 0x38, opcode]), size, memory),
                    0,
                    "movbe",
                )
    for memory in (False, True):
        place = "m" if memory else "r"
        yield Form(f"movsxd r64, {place}32", plain(b"\x63", 8, memory))
        for w in (4, 8):
            yield Form(
                f"crc32 r, {place}{w * 8}",
                plain(b"\x0f\x38\xf1", w, memory, prefix=b"\xf2"),
                0,
                "sse4_2",
            )
            for prefix, name in ((b"\x66", "adcx"), (b"\xf3", "adox")):
                yield Form(
                    f"{name} r, {place}{w * 8}", plain(b"\x0f\x38\xf6", w, memory, prefix=prefix), 0, "adx"
                )
        for code in range(16):
            yield Form(f"set{code:x} {place}8", plain(bytes([0x0F, 0x90 | code]), 1, memory, 0))
            for size in (2, 4, 8):
                yield Form(
                    f"cmov{code:x} r, {place}{size * 8}", plain(bytes([0x0F, 0x40 | code]), size, memory)
                )


def vex() -> Iterator[Form]:
    """BMI1 and BMI2: (name, pp, map, opcode, extension, undefined, feature)."""
    table = (
        ("andn", 0, 2, 0xF2, None, AF | PF, "bmi1"),
        ("bextr", 0, 2, 0xF7, None, AF | SF | PF, "bmi1"),
        ("blsr", 0, 2, 0xF3, 1, AF | PF, "bmi1"),
        ("blsmsk", 0, 2, 0xF3, 2, AF | PF, "bmi1"),
        ("blsi", 0, 2, 0xF3, 3, AF | PF, "bmi1"),
        ("bzhi", 0, 2, 0xF5, None, AF | PF, "bmi2"),
        ("pdep", 3, 2, 0xF5, None, 0, "bmi2"),
        ("pext", 2, 2, 0xF5, None, 0, "bmi2"),
        ("mulx", 3, 2, 0xF6, None, 0, "bmi2"),
        ("shlx", 1, 2, 0xF7, None, 0, "bmi2"),
        ("sarx", 2, 2, 0xF7, None, 0, "bmi2"),
        ("shrx", 3, 2, 0xF7, None, 0, "bmi2"),
    )
    for name, pp, space, opcode, extension, undefined, feature in table:
        for w in (0, 1):
            for memory in (False, True):

                def draw(
                    rng: Random,
                    pp: int = pp,
                    space: int = space,
                    opcode: int = opcode,
                    extension: int | None = extension,
                    w: int = w,
                    memory: bool = memory,
                ) -> bytes:
                    rm, at = operand(rng, memory)
                    reg, third = rng.choice(FREE), rng.choice(FREE)
                    if extension is not None:
                        reg = extension
                    base = 15 if rm is None else rm
                    first = (~reg >> 3 & 1) << 7 | 0x40 | (~base >> 3 & 1) << 5 | space
                    head = bytes([0xC4, first, w << 7 | (~third & 15) << 3 | pp, opcode])
                    mode = (0x40 if rm is None else 0xC0) | (reg & 7) << 3 | base & 7
                    return head + bytes([mode]) + (struct.pack("<b", at) if rm is None else b"")

                yield Form(f"{name} {'m' if memory else 'r'}{64 if w else 32}", draw, undefined, feature)


def fixed() -> Iterator[Form]:
    table = {
        "cbw": "6698", "cwde": "98", "cdqe": "4898", "cwd": "6699", "cdq": "99", "cqo": "4899",
        "lahf": "9f", "sahf": "9e", "clc": "f8", "stc": "f9", "cmc": "f5", "xlat": "498d5f80 d7",
        "cmpxchg8b": "4539c8 410fc70f", "cmpxchg16b": "4539c8 490fc70f",
        "leave": "c8080000c9", "push pop": "50 5a",
    }  # fmt: skip
    for name, code in table.items():
        yield Form(name, lambda rng, c=code: bytes.fromhex(c))
    for size in (4, 8):
        yield Form(f"bswap r{size * 8}", lambda rng, s=size: bswap(rng.choice(FREE), s))
        yield Form(f"lea r{size * 8}", lambda rng, s=size: lea(rng, s))
    strings = {0xA4: "movs", 0xA6: "cmps", 0xAA: "stos", 0xAC: "lods", 0xAE: "scas"}
    for opcode, name in strings.items():
        for size in SIZES:
            for prefix, repeat in ((b"", ""), (b"\xf3", "rep "), (b"\xf2", "repne ")):
                for backwards in (False, True):
                    yield Form(
                        f"{repeat}{name}{size * 8}{' down' if backwards else ''}",
                        lambda rng, o=opcode, s=size, p=prefix, b=backwards: string(rng, o, s, p, b),
                    )


def bswap(number: int, size: int) -> bytes:
    return rex(size == 8, 0, number) + bytes([0x0F, 0xC8 | number & 7])


def lea(rng: Random, size: int) -> bytes:
    """lea reg, [base + index * scale + disp32]"""
    reg, base, index = (rng.choice(FREE) for _ in range(3))
    head = 0x40 | (size == 8) << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3
    sib = rng.randrange(4) << 6 | (index & 7) << 3 | base & 7
    return bytes([head, 0x8D, 0x84 | (reg & 7) << 3, sib]) + rng.randbytes(4)


def string(rng: Random, opcode: int, size: int, prefix: bytes, backwards: bool) -> bytes:
    """lea rsi, rdi around R15 / mov ecx, count / (std) / the instruction / (cld)"""
    middle = [rng.randrange(-50, 20) for _ in range(2)]
    code = b"\x49\x8d\x77" + struct.pack("<b", middle[0]) + b"\x49\x8d\x7f" + struct.pack("<b", middle[1])
    code += b"\xb9" + struct.pack("<I", rng.randrange(0, 6))
    code += b"\xfd" if backwards else b""
    code += prefix + (b"\x66" if size == 2 else b"") + (b"\x48" if size == 8 else b"") + sized(opcode, size)
    return code + (b"\xfc" if backwards else b"")


# ---- SSE

P66, PF3, PF2, NONE = b"\x66", b"\xf3", b"\xf2", b""
SSE: tuple[tuple[str, bytes, str, str], ...] = (
    # feature, prefix, opcodes behind 0F, opcodes that take an immediate
    ("sse", NONE, "51 52 53 54 55 56 57 58 59 5c 5d 5e 5f 14 15 28 10 2e 2f", "c2 c6"),
    ("sse2", NONE, "5a 5b", ""),
    ("sse2", P66, "51 54 55 56 57 58 59 5a 5b 5c 5d 5e 5f 14 15 28 10 2e 2f e6", "c2 c6"),
    ("sse", PF3, "51 52 53 58 59 5c 5d 5e 5f 10", "c2"),
    ("sse2", PF3, "5a 5b e6 7e 6f", "70"),
    ("sse2", PF2, "51 58 59 5a 5c 5d 5e 5f 10 e6", "c2 70"),
    ("sse3", PF3, "12 16", ""),
    ("sse3", PF2, "12 7c 7d d0", ""),
    ("sse3", P66, "7c 7d d0", ""),
    ("sse2", P66, "60 61 62 63 64 65 66 67 68 69 6a 6b 6c 6d 6f 74 75 76 d1 d2 d3 d4 d5 d8 d9 da db dc dd de"
     " df e0 e1 e2 e3 e4 e5 e8 e9 ea eb ec ed ee ef f1 f2 f3 f4 f5 f6 f8 f9 fa fb fc fd fe", "70"),
    ("ssse3", P66, "3800 3801 3802 3803 3804 3805 3806 3807 3808 3809 380a 380b 381c 381d 381e", "3a0f"),
    ("sse4_1", P66, "3810 3814 3815 3817 3820 3821 3822 3823 3824 3825 3828 3829 382b 3830 3831 3832 3833"
     " 3834 3835 3838 3839 383a 383b 383c 383d 383e 383f 3840 3841",
     "3a08 3a09 3a0a 3a0b 3a0c 3a0d 3a0e 3a40 3a41 3a42"),
    ("sse4_2", P66, "3837", "3a60 3a61 3a62 3a63"),
    ("aes", P66, "38db 38dc 38dd 38de 38df", "3adf"),
    ("pclmulqdq", P66, "", "3a44"),
)  # fmt: skip
# immediates whose other bits are reserved
IMMEDIATES = {"c2": 8, "3a08": 8, "3a09": 8, "3a0a": 8, "3a0b": 8}
TO_REGISTER = (
    # name, prefix, opcode, sizes, memory, immediate, feature
    ("movmskps", NONE, "50", (4,), False, False, "sse"),
    ("movmskpd", P66, "50", (4,), False, False, "sse2"),
    ("pmovmskb", P66, "d7", (4,), False, False, "sse2"),
    ("pextrw", P66, "c5", (4,), False, True, "sse2"),
    ("cvttss2si", PF3, "2c", (4, 8), True, False, "sse"),
    ("cvtss2si", PF3, "2d", (4, 8), True, False, "sse"),
    ("cvttsd2si", PF2, "2c", (4, 8), True, False, "sse2"),
    ("cvtsd2si", PF2, "2d", (4, 8), True, False, "sse2"),
)
FROM_REGISTER = (
    ("cvtsi2ss", PF3, "2a", (4, 8), False, "sse"),
    ("cvtsi2sd", PF2, "2a", (4, 8), False, "sse2"),
    ("movd to xmm", P66, "6e", (4, 8), False, "sse2"),
    ("movd from xmm", P66, "7e", (4, 8), False, "sse2"),
    ("pinsrw", P66, "c4", (4,), True, "sse2"),
    ("pinsrb", P66, "3a20", (4,), True, "sse4_1"),
    ("pinsrd", P66, "3a22", (4, 8), True, "sse4_1"),
    ("pextrb", P66, "3a14", (4,), True, "sse4_1"),
    ("pextrd", P66, "3a16", (4, 8), True, "sse4_1"),
    ("extractps", P66, "3a17", (4,), True, "sse4_1"),
)


def xmm(
    prefix: bytes, opcode: str, memory: bool, limit: int, size: int = 4, target: str = "xmm"
) -> Callable[[Random], bytes]:
    def draw(rng: Random) -> bytes:
        rm: int | None = rng.randrange(16)
        if target == "from":
            rm = rng.choice(FREE)
        reg = rng.choice(FREE) if target == "to" else rng.randrange(16)
        at = disp(rng, 16)
        tail = bytes([rng.randrange(limit)]) if limit else b""
        code = bytes.fromhex("0f" + opcode)
        head = prefix + rex(size == 8, reg, 15 if memory else rm or 0)
        base = 15 if memory else rm or 0
        mode = (0x40 if memory else 0xC0) | (reg & 7) << 3 | base & 7
        return head + code + bytes([mode]) + (struct.pack("<b", at) if memory else b"") + tail

    return draw


def sse() -> Iterator[Form]:
    for feature, prefix, without, with_immediate in SSE:
        for opcode in without.split() + with_immediate.split():
            limit = IMMEDIATES.get(opcode, 256) if opcode in with_immediate.split() else 0
            for memory in (False, True):
                name = f"{prefix.hex()} 0f {opcode} xmm, {'m128' if memory else 'xmm'}".strip()
                yield Form(name, xmm(prefix, opcode, memory, limit), 0, feature)
    for name, prefix, opcode, sizes, in_memory, has_immediate, feature in TO_REGISTER:
        for size in sizes:
            for memory in (False, True)[: 1 + in_memory]:
                yield Form(
                    f"{name} r{size * 8}, {'m' if memory else 'xmm'}",
                    xmm(prefix, opcode, memory, 256 if has_immediate else 0, size, "to"),
                    0,
                    feature,
                )
    for name, prefix, opcode, sizes, has_immediate, feature in FROM_REGISTER:
        for size in sizes:
            for memory in (False, True):
                yield Form(
                    f"{name} {'m' if memory else 'r'}{size * 8}",
                    xmm(prefix, opcode, memory, 256 if has_immediate else 0, size, "from"),
                    0,
                    feature,
                )
    for opcode, extensions in (("71", (2, 4, 6)), ("72", (2, 4, 6)), ("73", (2, 3, 6, 7))):
        for extension in extensions:
            yield Form(
                f"66 0f {opcode} /{extension} xmm, imm",
                lambda rng, o=opcode, e=extension: (
                    b"\x66\x0f"
                    + bytes.fromhex(o)
                    + bytes([0xC0 | e << 3 | rng.randrange(8), rng.randrange(99)])
                ),
                0,
                "sse2",
            )


MMX = (
    "60 61 62 63 64 65 66 67 68 69 6a 6b 74 75 76 d1 d2 d3 d4 d5 d8 d9 da db dc dd de df e0 e1 e2 e3 e4 e5 e8"
    " e9 ea eb ec ed ee ef f1 f2 f3 f4 f5 f6 f8 f9 fa fb fc fd fe 3800 3801 3802 3803 3804 3805 3806 3807"
    " 3808 3809 380a 380b 381c 381d 381e"
)


def mmx() -> Iterator[Form]:
    def draw(rng: Random, opcode: str) -> bytes:
        """movq mm1, [r15 + a] / op mm1, [r15 + b] / movq [r15 + c], mm1 / emms"""
        a, b, c = (struct.pack("<b", disp(rng, 8)) for _ in range(3))
        op = b"\x41\x0f" + bytes.fromhex(opcode) + b"\x4f" + b
        return b"\x41\x0f\x6f\x4f" + a + op + b"\x41\x0f\x7f\x4f" + c + b"\x0f\x77"

    for opcode in MMX.split():
        yield Form(f"0f {opcode} mm, m64", lambda rng, o=opcode: draw(rng, o), 0, "ssse3")

    def convert(rng: Random, prefix: bytes, opcode: int) -> bytes:
        """op mm1 or xmm1, [r15 + a] / movq [r15 + b], mm1 / emms"""
        a, b = struct.pack("<b", disp(rng, 16) & -16), struct.pack("<b", disp(rng, 8))
        return prefix + b"\x41\x0f" + bytes([opcode]) + b"\x4f" + a + b"\x41\x0f\x7f\x4f" + b + b"\x0f\x77"

    for prefix in (b"", b"\x66"):
        for opcode in (0x2A, 0x2C, 0x2D):
            yield Form(
                f"{prefix.hex()} 0f {opcode:x} m64".strip(),
                lambda rng, p=prefix, o=opcode: convert(rng, p, o),
            )


# ---- x87: (name, code, condition codes that count beside C1)

C0, C1, C2, C3 = 0x100, 0x200, 0x400, 0x4000
COMPARED = C0 | C2 | C3
X87 = {
    "fadd": ("d8c1", 0), "fmul": ("d8c9", 0), "fsub": ("d8e1", 0), "fsubr": ("d8e9", 0), "fdiv": ("d8f1", 0),
    "fdivr": ("d8f9", 0), "fadd st(1), st": ("dcc1", 0), "fmul st(1), st": ("dcc9", 0),
    "fsub st(1), st": ("dce9", 0), "fsubr st(1), st": ("dce1", 0), "fdiv st(1), st": ("dcf9", 0),
    "fdivr st(1), st": ("dcf1", 0), "faddp": ("dec1", 0), "fdivrp": ("def1", 0),
    "fcom": ("d8d1", COMPARED), "fucom": ("dde1", COMPARED), "fcompp": ("ded9", COMPARED),
    "fxam": ("d9e5", COMPARED), "ftst": ("d9e4", COMPARED), "fchs": ("d9e0", 0), "fabs": ("d9e1", 0),
    "fsqrt": ("d9fa", 0), "frndint": ("d9fc", 0), "fxch": ("d9c9", 0), "fst st(1)": ("ddd1", 0),
    "fld st(1)": ("d9c1", 0), "fld1": ("ddd8 d9e8", 0), "fldz": ("ddd8 d9ee", 0),
    "fldpi": ("ddd8 d9eb", 0), "fldl2e": ("ddd8 d9ea", 0), "fldl2t": ("ddd8 d9e9", 0),
    "fldlg2": ("ddd8 d9ec", 0), "fldln2": ("ddd8 d9ed", 0), "fcmovb": ("dac1", 0), "fcmove": ("dac9", 0),
    "fcmovbe": ("dad1", 0), "fcmovu": ("dad9", 0), "fcmovnb": ("dbc1", 0), "fcmovne": ("dbc9", 0),
    "fcmovnbe": ("dbd1", 0), "fcmovnu": ("dbd9", 0), "fucomi": ("dbe9", 0), "fcomi": ("dbf1", 0),
    "fscale": ("d9fd", 0), "fprem": ("d9f8", COMPARED), "fprem1": ("d9f5", COMPARED), "fxtract": ("d9f4", 0),
    "f2xm1": ("d9f0", 0), "fyl2x": ("d9f1", 0), "fyl2xp1": ("d9f9", 0), "fpatan": ("d9f3", 0),
    "fptan": ("d9f2", C2), "fsin": ("d9fe", C2), "fcos": ("d9ff", C2), "fsincos": ("d9fb", C2),
}  # fmt: skip
EMPTY_0, EMPTY_1 = "ddc0", "ddc1"  # ffree
X87_STACK_FAULTS = {
    "fadd, ST(1) empty": (EMPTY_1 + "d8c1", 0), "fadd, ST(0) empty": (EMPTY_0 + "d8c1", 0),
    "fdiv st(1), st, ST(1) empty": (EMPTY_1 + "dcf9", 0), "fscale, ST(1) empty": (EMPTY_1 + "d9fd", 0),
    "fyl2x, ST(1) empty": (EMPTY_1 + "d9f1", 0), "fcom, ST(1) empty": (EMPTY_1 + "d8d1", COMPARED),
    "fcomi, ST(0) empty": (EMPTY_0 + "dbf1", 0), "fsqrt, empty": (EMPTY_0 + "d9fa", 0),
    "fchs, empty": (EMPTY_0 + "d9e0", 0), "fptan, empty": (EMPTY_0 + "d9f2", 0),
    "fxch, ST(1) empty": (EMPTY_1 + "d9c9", 0), "fxch, ST(0) empty": (EMPTY_0 + "d9c9", 0),
    "fst st(1), empty": (EMPTY_0 + "ddd1", 0), "fld st(1), empty": (EMPTY_1 + "d9c1", 0),
    "fxam, empty": (EMPTY_0 + "d9e5", COMPARED), "ftst, empty": (EMPTY_0 + "d9e4", COMPARED),
    "fld1, full": ("d9e8" * 7, 0), "fld st(1), full": ("d9c1" * 7, 0),
    "fxtract, full": ("d9c1" * 6 + "d9f4", 0),
    "fsincos, full": ("d9c1" * 6 + "d9fb", 0),
}  # fmt: skip
X87_MEMORY = {
    "fadd m32": "d8 0", "fmul m32": "d8 1", "fcom m32": "d8 2", "fsub m32": "d8 4", "fsubr m32": "d8 5",
    "fdiv m32": "d8 6", "fdivr m32": "d8 7", "fadd m64": "dc 0", "fmul m64": "dc 1", "fcom m64": "dc 2",
    "fsub m64": "dc 4", "fsubr m64": "dc 5", "fdiv m64": "dc 6", "fdivr m64": "dc 7", "fiadd m32": "da 0",
    "fimul m32": "da 1", "ficom m32": "da 2", "fisub m32": "da 4", "fidiv m32": "da 6", "fiadd m16": "de 0",
    "fimul m16": "de 1", "fld m32": "d9 0", "fld m64": "dd 0", "fld m80": "db 5", "fst m32": "d9 2",
    "fst m64": "dd 2", "fstp m80": "db 7", "fist m32": "db 2", "fist m16": "df 2", "fisttp m16": "df 1",
    "fisttp m32": "db 1", "fisttp m64": "dd 1", "fistp m64": "df 7", "fild m16": "df 0", "fild m32": "db 0",
    "fild m64": "df 5", "fbstp m80": "df 6",
}  # fmt: skip


def load_number(rng: Random) -> bytes:
    """fild qword, or fld tbyte of whatever is there"""
    return b"\x41" + rng.choice((b"\xdf", b"\xdb")) + b"\x6f" + struct.pack("<b", disp(rng, 16))


def load_control(rng: Random, masks: int = 0x3F) -> bytes:
    """mov word [at], control / fldcw [at]: any rounding and precision; with all masks or, at times, fewer"""
    at = disp(rng, 2)
    control = rng.choice((0, 0x200, 0x300)) | rng.randrange(4) << 10 | 0x40
    control |= masks if rng.random() < 0.5 else 0x3F
    return b"\x66\x41\xc7\x47" + struct.pack("<bH", at, control) + b"\x41\xd9\x6f" + struct.pack("<b", at)


def x87() -> Iterator[Form]:
    def draw(rng: Random, code: bytes, conditions: int, unmask: bool = True) -> bytes:
        """fninit / load twice / perhaps fldcw / the instruction / fnstsw ax, masked / fnclex / fstp tbyte
        / fstp tbyte / fninit"""
        start = b"\xdb\xe3" + load_number(rng) + load_number(rng)
        if rng.random() < 0.5:
            start += load_control(rng, rng.randrange(64) if unmask else 0x3F)
        mask = struct.pack("<H", 0x80FF | C1 | conditions)
        masked = b"\xdf\xe0\x9c\x66\x25" + mask + b"\x9d"  # fnstsw / pushf / and ax / popf
        stores = b"".join(b"\x41\xdb\x7f" + struct.pack("<b", disp(rng, 16)) for _ in range(2))
        return start + code + masked + b"\xdb\xe2" + stores + b"\xdb\xe3"

    for name, (code, conditions) in (X87 | X87_STACK_FAULTS).items():
        yield Form(name, lambda rng, c=code, s=conditions: draw(rng, bytes.fromhex(c), s))
    for name, text in X87_MEMORY.items():
        opcode, extension = text.split()

        def draw_memory(rng: Random, opcode: str = opcode, extension: int = int(extension)) -> bytes:
            at = struct.pack("<b", disp(rng, 2))
            code = b"\x41" + bytes.fromhex(opcode) + bytes([0x47 | extension << 3]) + at
            stores = opcode[1] in "9bdf" and extension in (1, 2, 3, 6, 7)
            return draw(rng, code, COMPARED if extension == 2 and not stores else 0, unmask=not stores)

        yield Form(name, draw_memory)
    yield Form("fnstenv", lambda rng: draw(rng, store_environment(rng), 0))
    for opcode in (0xD9, 0xDD):
        size = 32 if opcode == 0xD9 else 64
        yield Form(f"fld m{size}, signalling", lambda rng, o=opcode: draw(rng, signalling(rng, o), 0))


def store_environment(rng: Random) -> bytes:
    """fnstenv, without its pointers / fnstcw in their place"""
    at = disp(rng, 4)
    pointers = b"".join(b"\x41\xc7\x47" + struct.pack("<bI", at + i, 0) for i in (12, 16, 20, 24))
    return b"\x41\xd9\x77" + struct.pack("<b", at) + pointers + b"\x41\xd9\x7f" + struct.pack("<b", at + 12)


def signalling(rng: Random, opcode: int) -> bytes:
    """mov dword [the number's upper half], 7ff00001 / or 7f800001 / fld"""
    at = disp(rng, 8)
    upper = (at + 4, 0x7FF00001) if opcode == 0xDD else (at, 0x7F800001)
    return b"\x41\xc7\x47" + struct.pack("<bI", *upper) + bytes([0x41, opcode, 0x47]) + struct.pack("<b", at)


FORMS: tuple[Form, ...] = (*arithmetic(), *shifts(), *bits(), *vex(), *fixed(), *sse(), *mmx(), *x87())
"""Every form; the names are unique."""
