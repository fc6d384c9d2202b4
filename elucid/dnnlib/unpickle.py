"""Reads pickles as data: interprets the opcodes without importing or calling anything that the pickle names.

A table lists the allowed names and the data that each call stands for; any other name is refused.
"""

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import limits


@dataclass(eq=False)
class Record:
    """A recorded call: the name of the callable, its arguments, and the state set afterwards."""

    name: str
    args: tuple = ()
    state: Any = None


@dataclass(frozen=True)
class Constant:
    """Table entry for a name that stands for a value and is not called."""

    value: Any


@dataclass(frozen=True)
class Global:
    """An allowed name on the stack; calling it means `make(*args)`, which must only create data."""

    name: str
    make: Callable


class Refused(Exception):
    """Raised if a pickle names a callable that is not in the table; the argument is the name."""


def recorder(name: str) -> Callable[..., Record]:
    """Return a table entry that records calls of `name`."""
    return lambda *args: Record(name, args)


def read_pickle(
    data: bytes, table: Mapping[str, Callable | Constant], source: str, finish: Callable[[Any], Any] = lambda x: x
) -> Any:
    """Read a pickle of lists, dicts, plain values, and objects created by `table` ("module.name" -> maker).

    `finish` converts the content to the result; its errors are handled like those of reading. Raises UserError naming
    `source` for names that are not in the table, opcodes that refer outside the file, and damaged files. Nothing named
    in the pickle is imported or called.
    """
    machine = _Machine(table, source)
    file, most = io.BytesIO(data), limits.ITEMS.value
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > most:
                raise limits.ITEMS.error(f"{source} has {count} instructions")
            machine.follow(opcode.name, argument)
        if file.read().strip():
            raise ValueError("there is more after its end")
        return finish(machine.result)
    except Refused as error:
        raise UserError(
            f"{source} names the callable {error}, which is not allowed in such a file; no code was run"
        ) from error
    except (ValueError, TypeError, LookupError, OverflowError, AttributeError, RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{source} is damaged, truncated or not a pickle ({reason}); get the file again") from error


def require_plain(value: Any, what: str) -> None:
    """Raise UserError unless a value from a file is text, numbers, lists, tuples and dicts, of reasonable extent.

    A pickle of a few lines can hold lists that contain one another, or the same list a million times: what is
    compared, copied or printed later is bounded here.
    """
    waiting, count = [(value, 0)], 0
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if count > limits.ITEMS.value or depth > limits.DEEPEST:
            raise UserError(f"{what} is nested without end; get the file again")
        if isinstance(node, dict):
            waiting.extend((part, depth + 1) for item in node.items() for part in item)
        elif isinstance(node, (list, tuple)):
            waiting.extend((part, depth + 1) for part in node)
        elif isinstance(node, int) and abs(node) >= 1 << 64:
            raise UserError(f"{what} has a number of {node.bit_length()} bits; get the file again")
        elif not (node is None or isinstance(node, (str, bytes, bool, int, float))):
            raise UserError(f"{what} has a {type(node).__name__}, not plain data; get the file again")


LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
KEYS = (str, bytes, int, float, type(None), Global)


@dataclass
class _Machine:
    """The pickle's stack machine. `marks` holds the stacks saved by MARK."""

    table: Mapping[str, Callable | Constant]
    source: str
    result: Any = None
    stack: list = field(default_factory=list)
    marks: list[list] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def follow(self, opcode: str, argument: Any) -> None:
        if opcode in LITERALS:
            self.stack.append(argument)
        elif opcode in CONSTANTS:
            self.stack.append(CONSTANTS[opcode])
        elif opcode in EMPTY:
            self.stack.append(EMPTY[opcode]())
        else:
            handler = getattr(self, f"on_{opcode.lower()}", None)
            if handler is None:
                raise UserError(f"{self.source} refers outside the file (pickle opcode {opcode}); no code was run")
            handler(argument)

    def on_proto(self, version):
        pass

    def on_frame(self, size):
        pass

    def on_stop(self, _):
        self.result = self.stack.pop()

    # The stack and the memo

    def on_mark(self, _):
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def on_pop(self, _):
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def on_pop_mark(self, _):
        self.since_mark()

    def on_dup(self, _):
        self.stack.append(self.stack[-1])

    def on_put(self, index):
        self.memo[index] = self.stack[-1]

    on_binput = on_long_binput = on_put

    def on_memoize(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def on_get(self, index):
        self.stack.append(self.memo[index])

    on_binget = on_long_binget = on_get

    # Containers

    def on_tuple(self, _):
        items = tuple(self.since_mark())
        self.stack.append(items)

    def on_tuple1(self, _):
        self.stack[-1:] = [(self.stack[-1],)]

    def on_tuple2(self, _):
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def on_tuple3(self, _):
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def on_list(self, _):
        items = self.since_mark()
        self.stack.append(items)

    def on_dict(self, _):
        items = self.since_mark()
        self.stack.append({})
        self.set_items(items)

    def on_frozenset(self, _):
        items = self.since_mark()
        self.stack.append(frozenset(self.key(item) for item in items))

    def on_append(self, _):
        item = self.stack.pop()
        self.top(list).append(item)

    def on_appends(self, _):
        items = self.since_mark()
        self.top(list).extend(items)

    def on_additems(self, _):
        items = self.since_mark()
        self.top(set).update(self.key(item) for item in items)

    def on_setitem(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def on_setitems(self, _):
        self.set_items(self.since_mark())

    def set_items(self, items: list) -> None:
        if len(items) % 2:
            raise ValueError("a key without a value")
        self.top(dict).update((self.key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))

    def top(self, kind: type):
        """Return the topmost value, which must be of this type."""
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"a {type(self.stack[-1]).__name__} where a {kind.__name__} belongs")
        return self.stack[-1]

    @staticmethod
    def key(value):
        # Hashing a tuple nested a million deep would overflow the interpreter's stack.
        if not isinstance(value, KEYS):
            raise ValueError(f"a {type(value).__name__} as a key")
        return value

    # Names and calls

    def push_name(self, name: str) -> None:
        if name not in self.table:
            raise Refused(name)
        entry = self.table[name]
        self.stack.append(entry.value if isinstance(entry, Constant) else Global(name, entry))

    def on_global(self, module_and_name):
        self.push_name(module_and_name.replace(" ", "."))

    def on_stack_global(self, _):
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name that is no text")
        self.push_name(f"{module}.{name}")

    def call(self, function, args) -> None:
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise ValueError(f"a call of a {type(function).__name__}")
        self.stack.append(function.make(*args))

    def on_reduce(self, _):
        args, function = self.stack.pop(), self.stack.pop()
        self.call(function, args)

    on_newobj = on_reduce

    def on_newobj_ex(self, _):
        if self.stack.pop():
            raise ValueError("keyword arguments of a constructor")
        self.on_reduce(_)

    def on_inst(self, module_and_name):
        args = tuple(self.since_mark())
        self.on_global(module_and_name)
        self.call(self.stack.pop(), args)

    def on_obj(self, _):
        function, *args = self.since_mark()
        self.call(function, tuple(args))

    def on_build(self, _):
        state = self.stack.pop()
        if isinstance(self.stack[-1], Record):
            self.stack[-1].state = state
        elif state:
            self.top(dict).update(state)
