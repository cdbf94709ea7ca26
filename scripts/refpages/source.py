"""What the code says of itself: signatures, docstrings, comments behind members, groups of methods.

Nothing here knows Markdown.  A text that is missing is an empty string; who uses it complains.
"""

from __future__ import annotations

import ast
import enum
import functools
import inspect
import re
import sys
import textwrap
import tokenize
import typing
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import attrs
from attrs import frozen

MADE = "made new"
"""Stands for a default that is a value of its own for each object."""
_GROUP = re.compile(r"\s*# --- (.+)")
_MODULE_PREFIX = re.compile(r"\b(?:[a-z_]+\.)+(?=[A-Z])")


@frozen
class Member:
    """A method, a property, a field, an enum's member or a constant of a class or module.

    `signature` is how it is written: `set(level: bool)`, `level: bool`, `RAM = 1`."""

    name: str
    signature: str
    text: str
    group: str = ""
    default: str = ""
    function: Callable[..., Any] | None = None


def docstring(thing: Any) -> str:
    """Its own docstring, not one that is inherited or made up by attrs or enum."""
    text = vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__
    if not text or (isinstance(thing, type) and text in (enum.Enum.__doc__, "An enumeration.")):
        return ""
    return inspect.cleandoc(text)


def methods(owner: type[Any]) -> list[Member]:
    """The public methods and properties that a class defines itself, in order."""
    groups = _groups(owner)
    found = []
    for name, value in vars(owner).items():
        if name.startswith("_"):
            continue
        function, call = _function(value)
        if function is None or function.__module__ != owner.__module__:
            continue
        text = docstring(function)
        line = function.__code__.co_firstlineno
        group = next((group for at, group in reversed(groups) if at < line), "")
        shown = signature(function, name) if call else f"{name}{_returns(_definition(function), ': ')}"
        found.append(Member(name, shown, text, group, function=function))
    return found


def fields(owner: type[Any]) -> list[Member]:
    """The public fields of an attrs class, or the annotated attributes of any other, in order."""
    texts, written = _attributes(owner)
    kinds = {
        **({field.name: field.type for field in attrs.fields(owner)} if attrs.has(owner) else {}),
        **vars(owner).get("__annotations__", {}),
    }
    return [
        Member(name, f"{name}: {_annotation(kind)}", texts.get(name, ""), default=written.get(name, ""))
        for name, kind in kinds.items()
        if not name.startswith("_")
    ]


def assigned(owner: type[Any]) -> list[Member]:
    """The attributes that the `__init__` of a plain class gives its instances and documents."""
    init = vars(owner).get("__init__")
    if init is None or attrs.has(owner):
        return []
    tree = ast.parse(textwrap.dedent(inspect.getsource(init))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    found = []
    for statement, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        text = _text_of(after)
        if isinstance(statement, ast.AnnAssign) and text:
            kind = f": {ast.unparse(statement.annotation)}"
            target: ast.expr = statement.target
        elif isinstance(statement, ast.Assign) and text:
            kind, target = "", statement.targets[0]
        else:
            continue
        if isinstance(target, ast.Attribute) and not target.attr.startswith("_"):
            found.append(Member(target.attr, target.attr + kind, text))
    return found


def choices(owner: type[enum.Enum]) -> list[Member]:
    """The members of an enum; what they mean stands behind them as a comment."""
    comments = _comments(owner)
    _, written = _attributes(owner)
    return [
        Member(name, name, comments.get(name, ""), default=written.get(name, ""))
        for name in owner.__members__
    ]


def constants(module_name: str) -> dict[str, Member]:
    """The names of a module that are assigned and documented by a string behind them."""
    found = {}
    body = _tree(module_name).body
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            found[name] = Member(name, f"{name} = {ast.unparse(statement.value)}", _text_of(after))
    return found


def signature(function: Callable[..., Any], name: str = "") -> str:
    """`name(argument: type = default) -> type`, without `self`."""
    node = _definition(function)
    source = textwrap.dedent(inspect.getsource(function))
    every = node.args
    plain = [*every.posonlyargs, *every.args]
    defaults = [None] * (len(plain) - len(every.defaults)) + list(every.defaults)
    parts = [_parameter(argument, value, source) for argument, value in zip(plain, defaults, strict=True)]
    if plain and plain[0].arg in ("self", "cls"):
        del parts[0]
    if every.vararg is not None:
        parts.append("*" + _parameter(every.vararg, None, source))
    elif every.kwonlyargs:
        parts.append("*")
    for argument, value in zip(every.kwonlyargs, every.kw_defaults, strict=True):
        parts.append(_parameter(argument, value, source))
    if every.kwarg is not None:
        parts.append("**" + _parameter(every.kwarg, None, source))
    return f"{name or node.name}({', '.join(parts)}){_returns(node, ' -> ')}"


def open_answer(function: Callable[..., Any]) -> str:
    """What the body of a layer's method does when nobody is there; nothing when it has none."""
    source = textwrap.dedent(inspect.getsource(function))
    node = _definition(function)
    body = node.body[1:] if _text_of(node.body[0]) else node.body
    return "; ".join(_segment(source, statement).removeprefix("return ") for statement in body)


def is_protocol(thing: type[Any]) -> bool:
    """Whether a class says what others have to offer."""
    return bool(vars(thing).get("_is_protocol", False))


def _function(value: Any) -> tuple[Callable[..., Any] | None, bool]:
    """The function behind an attribute of a class, and whether one calls it."""
    if isinstance(value, (classmethod, staticmethod)):
        return value.__func__, True
    if isinstance(value, property):
        return value.fget, False
    return (value, True) if inspect.isfunction(value) else (None, False)


def _definition(function: Callable[..., Any]) -> ast.FunctionDef:
    """The syntax of a function."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


def _parameter(argument: ast.arg, default: ast.expr | None, source: str) -> str:
    text = argument.arg
    if argument.annotation is not None:
        text += f": {_annotation(ast.unparse(argument.annotation))}"
    if default is not None:
        text += f"{' = ' if ':' in text else '='}{_segment(source, default)}"
    return text


def _returns(node: ast.FunctionDef, before: str) -> str:
    kind = "None" if node.returns is None else ast.unparse(node.returns)
    return "" if kind == "None" else before + _annotation(kind)


def _annotation(kind: Any) -> str:
    """As it is written in the source, without modules before the names of classes."""
    if isinstance(kind, typing.ForwardRef):
        kind = kind.__forward_arg__
    text = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    return _MODULE_PREFIX.sub("", text.strip("'"))


def _segment(source: str, node: ast.AST) -> str:
    """A piece of source, on one line."""
    return " ".join((ast.get_source_segment(source, node) or "").split())


@functools.cache
def _source(module_name: str) -> str:
    return inspect.getsource(sys.modules[module_name])


@functools.cache
def _tree(module_name: str) -> ast.Module:
    return ast.parse(_source(module_name))


def _class(owner: type[Any]) -> ast.ClassDef:
    for node in ast.walk(_tree(owner.__module__)):
        if isinstance(node, ast.ClassDef) and node.name == owner.__name__:
            return node
    raise LookupError(f"{owner.__module__} has no class {owner.__name__}")


def _text_of(statement: ast.stmt | None) -> str:
    """The text of a statement that is nothing but a string."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        text = statement.value.value
        return inspect.cleandoc(text) if isinstance(text, str) else ""
    return ""


def _attributes(owner: type[Any]) -> tuple[dict[str, str], dict[str, str]]:
    """The strings behind the attributes of a class and of those that it is derived from, and their
    values as they are written."""
    texts: dict[str, str] = {}
    values: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        if base.__module__.partition(".")[0] != owner.__module__.partition(".")[0]:
            continue
        source = _source(base.__module__)
        body = _class(base).body
        for statement, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(statement, ast.AnnAssign):
                target: ast.expr = statement.target
            elif isinstance(statement, ast.Assign):
                target = statement.targets[0]
            else:
                continue
            if isinstance(target, ast.Name):
                texts[target.id] = _text_of(after)
                values[target.id] = _value(source, statement.value)
    return texts, values


def _value(source: str, node: ast.expr | None) -> str:
    """A default as it is written: `field(default=0)` has 0, `field(factory=dict)` has dict()."""
    if node is None:
        return ""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("field", "key"):
        for keyword in node.keywords:
            if keyword.arg == "default":
                return _segment(source, keyword.value)
            if keyword.arg == "factory":
                made = isinstance(keyword.value, ast.Lambda)
                return MADE if made else f"{_segment(source, keyword.value)}()"
        return ""
    return _segment(source, node)


def _lines(owner: type[Any]) -> Iterator[tuple[int, str]]:
    """The source lines of a class with their numbers in the module."""
    node = _class(owner)
    lines = _source(owner.__module__).splitlines()
    for number in range(node.lineno, (node.end_lineno or node.lineno) + 1):
        yield number, lines[number - 1]


def _groups(owner: type[Any]) -> list[tuple[int, str]]:
    """The comments `# --- name` in a class, which head groups of methods."""
    return [(number, match[1]) for number, line in _lines(owner) if (match := _GROUP.match(line))]


def _comments(owner: type[Any]) -> dict[str, str]:
    """The comments behind the assignments of a class."""
    found = {}
    text = textwrap.dedent("\n".join(line for _, line in _lines(owner)))
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(StringIO(text + "\n").readline)
        if token.type == tokenize.COMMENT
    }
    for statement in ast.parse(text).body[0].body:  # type: ignore[attr-defined]
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            found[statement.targets[0].id] = comments.get(statement.lineno, "")
    return found
