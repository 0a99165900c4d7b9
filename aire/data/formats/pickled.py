"""Parse Python 2 pickles as plain data. Nothing is imported or executed."""

import dataclasses
import math
import pickletools
from typing import Any

import numpy as np

CONSTANTS = {"BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINSTRING"}  # a string's bytes as Latin-1
NAMED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


@dataclasses.dataclass
class Call:
    """A call in a pickle, recorded but not executed, and the state to set on its result."""

    function: str
    arguments: tuple
    state: Any = None


def parse(data: bytes) -> Any:
    """Parse a pickle of protocol 2. Objects that are not plain values become a `Call`.

    Raises:
        ValueError: the pickle is damaged or contains an unsupported operation.
    """
    try:
        return _run(data)
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"damaged pickle: {error!r}") from error


def _run(data: bytes) -> Any:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def pop(n: int) -> list:
        """Pop the last n values of the stack."""
        if not 0 <= n <= len(stack):
            raise IndexError("the stack is too short")
        values = stack[len(stack) - n :]
        del stack[len(stack) - n :]
        return values

    for opcode, value, _ in pickletools.genops(data):
        match opcode.name:
            case "PROTO":
                pass
            case "MARK":
                marks.append(len(stack))
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case name if name in CONSTANTS:
                stack.append(value)
            case name if name in NAMED:
                stack.append(NAMED[name])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(pop(int(opcode.name[-1]))))
            case "TUPLE":
                stack.append(tuple(pop(len(stack) - marks.pop())))
            case "APPEND":
                [item] = pop(1)
                stack[-1].append(item)
            case "APPENDS":
                items = pop(len(stack) - marks.pop())
                stack[-1].extend(items)
            case "SETITEMS":
                items = pop(len(stack) - marks.pop())
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                stack.append(value)
            case "REDUCE":
                stack.append(Call(*pop(2)))
            case "BUILD":
                [state] = pop(1)
                stack[-1].state = state
            case "STOP":
                return stack[-1]
            case other:
                raise ValueError(f"unexpected operation {other}")
    raise ValueError("no end")


def array(call: Any) -> np.ndarray:
    """Return the uint8 array for a `Call` that NumPy uses to pickle arrays.

    Raises:
        ValueError: the call is something else.
    """
    match call:
        case Call(state=(1, tuple(shape), Call(arguments=("u1", *_)), False, str(values))):
            content = np.frombuffer(values.encode("latin-1"), np.uint8)
            if len(content) == math.prod(shape):
                return content.reshape(shape)
    raise ValueError("expected an array of unsigned bytes, stored row by row")
