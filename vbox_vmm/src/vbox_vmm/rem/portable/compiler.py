"""From thunks (see `language`) to machine code.

One pass over the syntax tree of each function: an expression leaves its value in RAX, every variable has a
slot in the frame, nothing is kept in registers between statements.  Functions are compiled once for each set
of their keyword-only arguments, when something reachable calls them.  They follow the C calling convention
of x86-64 Linux, so that C code calls them and they call C code.
"""

from __future__ import annotations

import ast
import inspect
import struct
import sys
from collections.abc import Callable, Hashable, Sequence
from types import FunctionType
from typing import Any, NoReturn

from . import assembler as a
from . import language
from .folding import OPERATORS, fold
from .language import Array, Field, Functions, Pointer, Scalar, Struct, u8, u32

Constants = tuple[tuple[str, Hashable], ...]

_CONDITIONS: dict[type[ast.cmpop], int] = {
    ast.Eq: a.EQUAL, ast.NotEq: a.NOT_EQUAL, ast.Lt: a.BELOW, ast.LtE: a.BELOW_EQUAL,
    ast.Gt: a.ABOVE, ast.GtE: a.ABOVE_EQUAL,
}  # fmt: skip
_IMMEDIATE = {"+": b"\x48\x05", "-": b"\x48\x2d", "&": b"\x48\x25", "|": b"\x48\x0d", "^": b"\x48\x35"}
_PARAMETERS: dict[str, tuple[Scalar, bool] | None] = {
    "int": None, "bool": (u8, False), "UInt8": (u8, False), "UInt32": (u32, False),
    "Int32": (u32, True),
}  # fmt: skip


def _alternatives(node: ast.Compare) -> ast.expr | None:
    """`x in (a, b)` as `x == a or x == b`; None for another comparison."""
    if not isinstance(node.ops[0], ast.In | ast.NotIn) or not isinstance(node.comparators[0], ast.Tuple):
        return None
    values: list[ast.expr] = [
        ast.Compare(left=node.left, ops=[ast.Eq()], comparators=[each]) for each in node.comparators[0].elts
    ]
    either = ast.BoolOp(op=ast.Or(), values=values)
    return either if isinstance(node.ops[0], ast.In) else ast.UnaryOp(op=ast.Not(), operand=either)


class CompileError(Exception):
    """A thunk uses what the subset has not."""


class Program:
    """Thunks on their way into one piece of executable memory."""

    def __init__(self) -> None:
        self.assembler = a.Assembler()
        self._queue: list[tuple[Callable[..., Any], Constants]] = []
        self._known: set[Hashable] = set()
        self._trees: dict[str, dict[str, ast.FunctionDef]] = {}

    def add(self, function: Callable[..., Any], **constants: Hashable) -> Hashable:
        """The label of a thunk, which is compiled with all it needs by `load`."""
        key = (function, tuple(sorted(constants.items())))
        if key not in self._known:
            self._known.add(key)
            self._queue.append(key)
        return key

    def load(self) -> Callable[[Hashable], int]:
        """Compile, and make executable; gives the address of each label."""
        while self._queue:
            function, constants = self._queue.pop()
            self.assembler.emit(b"\xcc" * (-len(self.assembler.code) % 16))
            self.assembler.place((function, constants))
            _Function(self, function, dict(constants)).compile(self._tree(function))
        base = a.executable(self.assembler.finish())
        labels = self.assembler.labels
        return lambda label: base + labels[label]

    def _tree(self, function: Callable[..., Any]) -> ast.FunctionDef:
        module = function.__module__
        if module not in self._trees:
            tree = ast.parse(inspect.getsource(sys.modules[module]))
            self._trees[module] = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
        return self._trees[module][function.__name__]


class _Function:
    def __init__(self, program: Program, function: Callable[..., Any], constants: dict[str, Any]) -> None:
        self.program = program
        self.asm = program.assembler
        self.function = function
        self.names = function.__globals__
        self.constants = constants
        self.slots: dict[str, int] = {}
        self.types: dict[str, type[Struct] | None] = {}
        self.frame = 0
        self.depth = 0  # 8-byte values on the stack below the frame
        self.loops: list[tuple[object, object]] = []

    def compile(self, tree: ast.FunctionDef) -> None:
        start = len(self.asm.code)
        self.asm.enter(0)
        parameters = tree.args.posonlyargs + tree.args.args
        for number, parameter in enumerate(parameters):
            self._parameter(number, parameter)
        self._body(tree.body)
        self.asm.leave()
        self.asm.ret()
        struct.pack_into("<i", self.asm.code, start + 7, (self.frame + 15) & ~15)

    def _parameter(self, number: int, parameter: ast.arg) -> None:
        if not isinstance(parameter.annotation, ast.Name):
            self._fail(parameter, "a parameter needs a plain type")
        name = parameter.annotation.id
        slot = self._slot(parameter.arg)
        kind = None
        if name in _PARAMETERS:
            kind = _PARAMETERS[name]
        else:
            self.types[parameter.arg] = self.names[name]
        if number < len(a.ARGUMENTS) and kind is None:
            self.asm.store_local(a.ARGUMENTS[number], slot)
            return
        if number < len(a.ARGUMENTS):
            self.asm.move(a.RAX, a.ARGUMENTS[number])
        else:
            self.asm.load_local(a.RAX, 16 + (number - len(a.ARGUMENTS)) * 8)
        if kind is not None:
            self.asm.extend(kind[0].size, kind[1])
        self.asm.store_local(a.RAX, slot)

    def _fail(self, node: ast.AST, why: str) -> NoReturn:
        line = getattr(node, "lineno", 0)
        raise CompileError(f"{self.function.__module__}:{line}: {why}")

    def _slot(self, name: str) -> int:
        if name not in self.slots:
            self.frame += 8
            self.slots[name] = -self.frame
            self.types.setdefault(name, None)
        return self.slots[name]

    # --- statements

    def _body(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            getattr(self, f"_do_{type(statement).__name__}", self._unknown)(statement)

    def _unknown(self, node: ast.AST) -> NoReturn:
        self._fail(node, f"{type(node).__name__} is not in the subset")

    def _do_Pass(self, node: ast.Pass) -> None:
        pass

    def _do_Expr(self, node: ast.Expr) -> None:
        call = node.value
        if isinstance(call, ast.Call) and self._global(call.func) is language.tail:
            self._call(call, call.args[0], call.args[1:], is_tail=True)
        elif not isinstance(call, ast.Constant):  # a docstring
            self._value(call)

    def _do_Assign(self, node: ast.Assign) -> None:
        self._store(node.targets[0], self._value(node.value))

    def _do_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._store(node.target, self._value(node.value))

    def _do_AugAssign(self, node: ast.AugAssign) -> None:
        self._binary(node.target, OPERATORS[type(node.op)], node.value)
        self._store(node.target, None)

    def _store(self, target: ast.expr, kind: type[Struct] | None) -> None:
        """RAX goes to the target."""
        if isinstance(target, ast.Name):
            if target.id not in self.slots:
                self.types[target.id] = kind
            self.asm.store_local(a.RAX, self._slot(target.id))
            return
        if isinstance(target, ast.Attribute) and self._is_simple(target.value):
            field = getattr(self.types[ast.unparse(target.value)], target.attr, None)
            if isinstance(field, Field | Pointer):
                self._simple(a.RCX, target.value)
                self.asm.store(field.scalar.size if isinstance(field, Field) else 8, field.offset)
                return
        self._push()
        offset, size, _, _ = self._place(target)
        self.asm.move(a.RCX, a.RAX)
        self._pop(a.RAX)
        self.asm.store(size, offset)

    def _do_If(self, node: ast.If) -> None:
        known = self._constant(node.test)
        if known is not None:
            self._body(node.body if known else node.orelse)
            return
        otherwise, done = self.asm.fresh(), self.asm.fresh()
        self._branch(node.test, otherwise, False)
        self._body(node.body)
        if node.orelse:
            self.asm.jump(done)
        self.asm.place(otherwise)
        self._body(node.orelse)
        self.asm.place(done)

    def _do_While(self, node: ast.While) -> None:
        top, done = self.asm.fresh(), self.asm.fresh()
        self.asm.place(top)
        self._branch(node.test, done, False)
        self.loops.append((top, done))
        self._body(node.body)
        self.loops.pop()
        self.asm.jump(top)
        self.asm.place(done)

    def _do_For(self, node: ast.For) -> None:
        if not (isinstance(node.iter, ast.Call) and isinstance(node.target, ast.Name)):
            self._fail(node, "for needs a name and range()")
        first, last = ast.Constant(0), node.iter.args[-1]
        self._value(node.iter.args[0] if len(node.iter.args) > 1 else first)
        self.asm.store_local(a.RAX, self._slot(node.target.id))
        end = self._slot(f"end of {node.lineno}:{node.col_offset}")
        self._value(last)
        self.asm.store_local(a.RAX, end)
        top, again, done = self.asm.fresh(), self.asm.fresh(), self.asm.fresh()
        self.asm.place(top)
        self.asm.load_local(a.RAX, self.slots[node.target.id])
        self.asm.load_local(a.RCX, end)
        self.asm.compare()
        self.asm.jump_if(a.ABOVE_EQUAL, done)
        self.loops.append((again, done))
        self._body(node.body)
        self.loops.pop()
        self.asm.place(again)
        self.asm.load_local(a.RAX, self.slots[node.target.id])
        self.asm.emit(b"\x48\xff\xc0")  # inc rax
        self.asm.store_local(a.RAX, self.slots[node.target.id])
        self.asm.jump(top)
        self.asm.place(done)

    def _do_Break(self, node: ast.Break) -> None:
        self.asm.jump(self.loops[-1][1])

    def _do_Continue(self, node: ast.Continue) -> None:
        self.asm.jump(self.loops[-1][0])

    def _do_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            self._value(node.value)
        self.asm.leave()
        self.asm.ret()

    # --- conditions

    def _branch(self, node: ast.expr, label: object, when: bool) -> None:
        """Jump to the label when the condition is as `when` says, else go on."""
        known = self._constant(node)
        if known is not None:
            if bool(known) is when:
                self.asm.jump(label)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self._branch(node.operand, label, not when)
        elif isinstance(node, ast.BoolOp):
            if isinstance(node.op, ast.Or) is when:  # any of them decides
                for value in node.values:
                    self._branch(value, label, when)
            else:
                past = self.asm.fresh()
                for value in node.values[:-1]:
                    self._branch(value, past, not when)
                self._branch(node.values[-1], label, when)
                self.asm.place(past)
        elif isinstance(node, ast.Compare) and (either := _alternatives(node)) is not None:
            self._branch(either, label, when)
        elif isinstance(node, ast.Compare):
            condition = self._compare(node)
            self.asm.jump_if(condition if when else condition ^ 1, label)
        else:
            self._value(node)
            self.asm.test()
            self.asm.jump_if(a.NOT_EQUAL if when else a.EQUAL, label)

    def _compare(self, node: ast.Compare) -> int:
        if len(node.ops) != 1 or type(node.ops[0]) not in _CONDITIONS:
            self._fail(node, "one comparison of numbers at a time")
        self._operands(node.left, node.comparators[0])
        self.asm.compare()
        return _CONDITIONS[type(node.ops[0])]

    # --- expressions

    def _constant(self, node: ast.expr) -> int | None:
        """The value, when it is known now."""
        return fold(node, self._name)

    def _name(self, name: str) -> Any:
        """What a name stands for that is no variable."""
        return None if name in self.slots else self.constants.get(name, self.names.get(name))

    def _global(self, node: ast.expr) -> Any:
        """What a name of the module stands for; None for anything else."""
        return self._name(node.id) if isinstance(node, ast.Name) else None

    def _is_simple(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Attribute) and node.attr == "address":
            node = node.value
        return self._constant(node) is not None or (isinstance(node, ast.Name) and node.id in self.slots)

    def _simple(self, register: int, node: ast.expr) -> None:
        """Load a constant or a variable; touches no other register."""
        if isinstance(node, ast.Attribute):
            node = node.value
        value = self._constant(node)
        if value is not None:
            self.asm.load_constant(register, value)
        else:
            assert isinstance(node, ast.Name)
            self.asm.load_local(register, self.slots[node.id])

    def _push(self) -> None:
        self.asm.push()
        self.depth += 1

    def _pop(self, register: int) -> None:
        self.asm.pop(register)
        self.depth -= 1

    def _operands(self, left: ast.expr, right: ast.expr) -> None:
        """Into RAX and RCX."""
        self._value(left)
        if self._is_simple(right):
            self._simple(a.RCX, right)
            return
        self._push()
        self._value(right)
        self.asm.move(a.RCX, a.RAX)
        self._pop(a.RAX)

    def _binary(self, left: ast.expr, operator: str, right: ast.expr) -> None:
        value = self._constant(right)
        if value is not None and operator in _IMMEDIATE and -(1 << 31) <= value < 1 << 31:
            self._value(left)
            self.asm.emit(_IMMEDIATE[operator], struct.pack("<i", value))
        elif value is not None and operator in ("<<", ">>"):
            self._value(left)
            self.asm.emit(b"\x48\xc1", 0xE0 if operator == "<<" else 0xE8, value)
        else:
            self._operands(left, right)
            self.asm.binary(operator)

    def _value(self, node: ast.expr) -> type[Struct] | None:
        """Into RAX; the structure that it is the address of, where that is known."""
        if self._is_simple(node):
            self._simple(a.RAX, node)
            return self.types.get(node.id) if isinstance(node, ast.Name) else None
        handler = getattr(self, f"_value_{type(node).__name__}", self._unknown)
        kind: type[Struct] | None = handler(node)
        return kind

    def _value_Name(self, node: ast.Name) -> NoReturn:
        self._fail(node, f"{node.id} has no value here")

    def _value_BinOp(self, node: ast.BinOp) -> None:
        self._binary(node.left, OPERATORS[type(node.op)], node.right)

    def _value_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._value_of_condition(node)
            return
        self._value(node.operand)
        self.asm.emit(b"\x48\xf7", 0xD0 if isinstance(node.op, ast.Invert) else 0xD8)

    def _value_Compare(self, node: ast.Compare) -> None:
        if _alternatives(node) is not None:
            self._value_of_condition(node)
            return
        self.asm.set_if(self._compare(node))

    def _value_BoolOp(self, node: ast.BoolOp) -> None:
        self._value_of_condition(node)

    def _value_of_condition(self, node: ast.expr) -> None:
        otherwise, done = self.asm.fresh(), self.asm.fresh()
        self._branch(node, otherwise, False)
        self.asm.load_constant(a.RAX, 1)
        self.asm.jump(done)
        self.asm.place(otherwise)
        self.asm.load_constant(a.RAX, 0)
        self.asm.place(done)

    def _value_IfExp(self, node: ast.IfExp) -> type[Struct] | None:
        known = self._constant(node.test)
        if known is not None:
            return self._value(node.body if known else node.orelse)
        otherwise, done = self.asm.fresh(), self.asm.fresh()
        self._branch(node.test, otherwise, False)
        kind = self._value(node.body)
        self.asm.jump(done)
        self.asm.place(otherwise)
        self._value(node.orelse)
        self.asm.place(done)
        return kind

    def _value_Attribute(self, node: ast.Attribute) -> type[Struct] | None:
        if node.attr == "address":
            self._value(node.value)
            return None
        offset, size, signed, kind = self._place(node)
        self.asm.load(size, signed, offset)
        return kind

    def _value_Subscript(self, node: ast.Subscript) -> None:
        offset, size, signed, _ = self._place(node)
        self.asm.load(size, signed, offset)

    def _place(self, node: ast.expr) -> tuple[int, int, bool, type[Struct] | None]:
        """Of something in memory: the address in RAX, plus an offset; size, sign, and what it points to."""
        if isinstance(node, ast.Attribute):
            owner = self._value(node.value)
            field = getattr(owner, node.attr, None)
            if isinstance(field, Field):
                return field.offset, field.scalar.size, field.scalar.signed, None
            if isinstance(field, Pointer):
                return field.offset, 8, False, field.target
            self._fail(node, f"no field {node.attr} in {owner}")
        if not isinstance(node, ast.Subscript):
            self._fail(node, "this is nowhere in memory")
        scalar = self._global(node.value)
        if isinstance(scalar, Scalar):
            return self._base(node.slice), scalar.size, scalar.signed, None
        if isinstance(node.value, ast.Attribute):
            return self._element(node.value, node.slice)
        self._fail(node, "only memory and arrays of structures have items")

    def _base(self, node: ast.expr) -> int:
        """An address into RAX, without a constant summand, which is the result."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            offset = self._constant(node.right)
            if offset is not None and 0 <= offset < 1 << 31:
                self._value(node.left)
                return offset
        self._value(node)
        return 0

    def _element(self, array: ast.Attribute, index: ast.expr) -> tuple[int, int, bool, None]:
        known = self._constant(index)
        if known is None:
            self._value(index)
            self._push()
        owner = self._value(array.value)
        field = getattr(owner, array.attr, None)
        if not isinstance(field, Array):
            self._fail(array, f"no array {array.attr} in {owner}")
        if known is None:
            self._pop(a.RCX)
            self.asm.emit(b"\x48\x69\xc9", struct.pack("<i", field.stride))  # imul rcx, rcx, stride
            self.asm.binary("+")
            known = 0
        return field.offset + known * field.stride, field.scalar.size, field.scalar.signed, None

    # --- calls

    def _value_Call(self, node: ast.Call) -> type[Struct] | None:
        target = self._global(node.func)
        if isinstance(target, type) and issubclass(target, Struct):
            self._value(node.args[0])
            return target
        if isinstance(target, Scalar):
            self._value(node.args[0])
            self.asm.extend(target.size, target.signed)
        elif target is language.here:
            self.asm.load_local(a.RAX, 8)
        elif target is language.buffer:
            self._buffer(node)
        elif target is language.execute:
            self._execute(node)
        elif target is language.address_of:
            self._address_of(node.args[0])
        elif target is language.call:
            self._call(node, node.args[0], node.args[1:])
        else:
            return self._call(node, node.func, node.args)
        return None

    def _buffer(self, node: ast.Call) -> None:
        size = self._constant(node.args[0])
        if size is None:
            self._fail(node, "the size of a buffer is a constant")
        self.frame = (self.frame + size + 15) & ~15
        self.asm.address_of_local(-self.frame)

    def _execute(self, node: ast.Call) -> None:
        code = self._global(node.args[0])
        if not isinstance(code, bytes):
            self._fail(node, "code is a constant")
        if len(node.args) == 2:
            self._value(node.args[1])
        elif len(node.args) == 3:
            self._operands(node.args[1], node.args[2])
        self.asm.emit(code)

    def _function(self, node: ast.expr) -> Functions | Callable[..., Any] | None:
        if isinstance(node, ast.Attribute) and isinstance(self._global(node.value), Functions):
            functions: Functions = self._global(node.value)
            if node.attr not in functions.addresses:
                self._fail(node, f"there is no function {node.attr}")
            return functions
        target = self._global(node)
        return target if isinstance(target, FunctionType) else None

    def _address_of(self, node: ast.expr) -> None:
        target = self._function(node)
        if isinstance(target, Functions):
            assert isinstance(node, ast.Attribute)
            self.asm.load_constant(a.RAX, target.addresses[node.attr])
        elif target is not None:
            self.asm.address_of_label(self.program.add(target))
        else:
            self._fail(node, "not a function")

    def _call(
        self, node: ast.Call, function: ast.expr, arguments: Sequence[ast.expr], is_tail: bool = False
    ) -> type[Struct] | None:
        target = self._function(function)
        pointer = 0
        if target is None:
            pointer = self._slot(f"function of {node.lineno}:{node.col_offset}")
            self._value(function)
            self.asm.store_local(a.RAX, pointer)
        in_registers, on_stack = arguments[: len(a.ARGUMENTS)], arguments[len(a.ARGUMENTS) :]
        if is_tail:
            on_stack = []
        before = self.depth
        if (self.depth + len(on_stack)) % 2:
            self.asm.add_to_rsp(-8)
            self.depth += 1
        for argument in reversed(on_stack):
            self._value(argument)
            self._push()
        self._arguments(in_registers)
        self._go(target, function, pointer, node.keywords, is_tail)
        self.asm.add_to_rsp((self.depth - before) * 8)
        self.depth = before
        return self._result(target)

    def _arguments(self, arguments: Sequence[ast.expr]) -> None:
        registers = a.ARGUMENTS[: len(arguments)]
        pairs = list(zip(registers, arguments, strict=True))
        computed = [(r, n) for r, n in pairs if not self._is_simple(n)]
        for _, argument in computed:
            self._value(argument)
            if len(computed) > 1:
                self._push()
        if len(computed) == 1:
            self.asm.move(computed[0][0], a.RAX)
        else:
            for register, _ in reversed(computed):
                self._pop(register)
        for register, argument in pairs:
            if self._is_simple(argument):
                self._simple(register, argument)

    def _go(
        self,
        target: Functions | Callable[..., Any] | None,
        function: ast.expr,
        pointer: int,
        keywords: Sequence[ast.keyword],
        is_tail: bool,
    ) -> None:
        if isinstance(target, Functions):
            assert isinstance(function, ast.Attribute)
            self.asm.load_constant(a.RAX, target.addresses[function.attr])
        elif target is None:
            self.asm.load_local(a.RAX, pointer)
        else:
            constants: dict[str, Hashable] = {}
            for keyword in keywords:
                assert keyword.arg is not None
                value = self._constant(keyword.value)
                constants[keyword.arg] = self._global(keyword.value) if value is None else value
            label = self.program.add(target, **constants)
            if is_tail:
                self.asm.leave()
            (self.asm.jump if is_tail else self.asm.call)(label)
            return
        if is_tail:
            self.asm.leave()
            self.asm.jump_rax()
        else:
            self.asm.call_rax()

    def _result(self, target: Functions | Callable[..., Any] | None) -> type[Struct] | None:
        if isinstance(target, Functions) or target is None:
            return None
        kind = self.program._tree(target).returns
        found = target.__globals__.get(kind.id) if isinstance(kind, ast.Name) else None
        return found if isinstance(found, type) and issubclass(found, Struct) else None
