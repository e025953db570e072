"""The part of Jinja that a template may use, and what it may cost. Templates come from strangers.

Time and memory are bounded by counting, not by a clock. A signal cannot stop an operation in C, reaches the main
thread only, and depends on how busy the machine is. So a template is rewritten before it is compiled: every operation
whose cost depends on its operands is charged for their size, in steps, and a rendering has MAX_STEPS of them (see
`template_syntax`). Nothing is computed while a template is compiled (no constant folding). A child process with limits
would be bounded too, but costs a round trip for each of tens of thousands of prompts.

A template sees plain data: text, numbers, true, false, none, lists, dicts. A dot reads a dict's key, never an
attribute of an object. Methods and `range` are no values: they exist only where they are called, by name, from the
lists below. Nothing here is random, reads a clock or depends on the order of a set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import jinja2
import markupsafe
from jinja2 import nodes
from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import MAX_RANGE
from jinja2.tests import TESTS as JINJA_TESTS
from jinja2.utils import pass_context

from harness.core.text import has_lone_surrogate
from harness.errors import nearest

MAX_STEPS = 1_000_000  # of one rendering; measured: below 2 s and 200 MiB for the worst that was found
CHARACTERS = 16  # of text cost one step, as one item of a list does
SMALL_NUMBER = 1e9  # both sides of a product are smaller
LARGE_NUMBER = 1e15  # both sides of other arithmetic are
MAX_PLACES = 15  # that a number is rounded to

TEXT_FILTERS = frozenset((
    "capitalize", "e", "escape", "lower", "replace", "string", "title", "trim", "truncate", "upper", "wordcount",
))  # fmt: skip
OTHER_FILTERS = frozenset((
    "abs", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "join", "last", "length",
    "list", "map", "max", "min", "reject", "rejectattr", "reverse", "round", "select", "selectattr", "sort", "tojson",
    "unique",
))  # fmt: skip
FILTERS = TEXT_FILTERS | OTHER_FILTERS
TESTS = frozenset(JINJA_TESTS) - {"callable", "escaped", "filter", "test"}
STRING_METHODS = frozenset((
    "capitalize", "casefold", "count", "endswith", "find", "isalnum", "isalpha", "isdecimal", "isdigit", "islower",
    "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition", "removeprefix",
    "removesuffix", "replace", "rfind", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip",
    "swapcase", "title", "upper",
))  # fmt: skip
DICT_METHODS = frozenset({"get", "items", "keys", "values"})
LOOP_METHODS = frozenset({"changed", "cycle"})
METHODS = STRING_METHODS | DICT_METHODS | LOOP_METHODS
LOOP_FIELDS = frozenset((
    "depth", "depth0", "first", "index", "index0", "last", "length", "nextitem", "previtem", "revindex", "revindex0",
))  # fmt: skip


class MeteredContext(Context):
    """The variables of one rendering, and the steps it has left."""

    left: int = MAX_STEPS

    def spend(self, steps: int) -> None:
        """Take steps away. Raises TemplateRuntimeError when there are too few."""
        self.left -= steps
        if self.left < 0:
            raise jinja2.TemplateRuntimeError(f"it takes more than {MAX_STEPS} steps: too much work for one prompt")

    def charge(self, *values: Any) -> None:
        """Take away what it costs to read these values, with everything in them. Raises as `spend`."""
        stack = list(values)
        while stack:
            value = stack.pop()
            if isinstance(value, str):
                self.spend(1 + len(value) // CHARACTERS)
                continue
            self.spend(1)
            if isinstance(value, list | tuple | dict):
                self.spend(len(value))
                stack.extend(value)
                if isinstance(value, dict):
                    stack.extend(value.values())


class Missing(jinja2.StrictUndefined):
    """What is not there: an error as soon as it is used, which says what there is instead."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        if self._undefined_hint:
            return self._undefined_hint
        if self._undefined_obj is jinja2.utils.missing:
            return f"{self._undefined_name!r} is undefined"
        return _no_field(self._undefined_obj, self._undefined_name)


class Sandbox(jinja2.Environment):
    """Jinja without a way to any object. Attributes are keys of dicts, and all arithmetic is checked."""

    sandboxed = True  # makes Jinja compile every call and the operators below into calls of this class
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%"})
    intercepted_unops: frozenset[str] = frozenset()
    context_class = MeteredContext

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A key of a dict, or what a loop says of itself. Undefined for everything else."""
        if type(obj) is dict and attribute in obj:  # nearly always
            return obj[attribute]
        if isinstance(obj, LoopContext) and attribute in LOOP_FIELDS:
            return getattr(obj, attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An item of a dict, a list or a text. Undefined where there is none."""
        try:
            if isinstance(obj, dict) or (isinstance(obj, list | tuple | str) and isinstance(argument, int)):
                return obj[argument]
        except LookupError:
            pass
        _require_defined(obj)
        return self.undefined(obj=obj, name=argument)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A macro of the template itself. Raises SecurityError for everything else."""
        _require_defined(obj)
        if not isinstance(obj, Macro):
            raise jinja2.exceptions.SecurityError(f"{_kind(obj)} may not be called")
        return context.call(obj, *args, **kwargs)

    def call_binop(self, context: MeteredContext, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic, and two texts or two lists joined by `+`. Raises SecurityError for what could grow."""
        _require_defined(left)
        _require_defined(right)
        context.charge(left, right)
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if not numbers and operator != "+":
            raise jinja2.exceptions.SecurityError(f"{operator!r} is for numbers only, in a template")
        largest = SMALL_NUMBER if operator == "*" else LARGE_NUMBER
        if numbers and not (abs(left) < largest and abs(right) < largest):
            raise jinja2.exceptions.SecurityError(f"{operator!r} is for numbers below {largest:.0e}, in a template")
        return self.binop_table[operator](left, right)

    def call_filter(
        self,
        name: str,
        value: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        context: Context | None = None,
        eval_ctx: nodes.EvalContext | None = None,
    ) -> Any:
        """As Jinja's, for the filter `map`: only what a template may name itself."""
        if name not in FILTERS:
            raise jinja2.TemplateRuntimeError(unknown("filter", name, FILTERS))
        return super().call_filter(name, value, args, kwargs, context, eval_ctx)

    binop_table: Mapping[str, Callable[[Any, Any], Any]] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
        "//": lambda a, b: a // b,
        "%": lambda a, b: a % b,
    }


def environment() -> Sandbox:
    """An environment for one template. Its filters and tests charge for their operands. It has no globals."""
    sandbox = Sandbox(
        undefined=Missing,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        finalize=_printed,
        cache_size=0,
    )
    replaced: dict[str, Callable[..., Any]] = {"tojson": _tojson, "join": _join, "replace": _replace, "round": _round}
    replaced |= {"string": lambda text: text, "e": _escape, "escape": _escape}
    sandbox.globals = {}
    sandbox.filters = {name: _filter(name, replaced.get(name) or JINJA_FILTERS[name]) for name in FILTERS}
    sandbox.filters |= {f".{name}": _method(name) for name in METHODS}
    sandbox.filters |= {" text": _joined, " value": _value, " each": _each, " item": _item, " slice": _slice}
    sandbox.filters |= {" range": _range, " spend": _spend}
    sandbox.tests = {name: _test(cast(Callable[..., Any], JINJA_TESTS[name])) for name in TESTS}
    return sandbox


# --- operations ---------------------------------------------------------------------------------------------------


@pass_context
def _printed(context: MeteredContext, value: Any) -> str:
    """What `{{ ... }}` writes. Raises TemplateRuntimeError for what is no text and no number."""
    if not isinstance(value, str):
        value = _text(value)
    context.spend(1 + len(value) // CHARACTERS)
    if not value.isascii() and has_lone_surrogate(value):
        raise jinja2.TemplateRuntimeError(f"it prints half of a surrogate pair, which is no character: {value[:40]!r}")
    return str(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float | Undefined):  # undefined raises, but for an `if` without `else`: that is empty
        return str(value)
    advice = {"list": " (use `| join(', ')`, `| tojson` or a loop)", "dict": " (name a field, or use `| tojson`)"}
    raise jinja2.TemplateRuntimeError(f"{_kind(value)} is no text{advice.get(_kind(value), '')}")


def _require_defined(value: Any) -> None:
    if isinstance(value, Undefined):
        str(value)  # StrictUndefined raises, with the name


def _kind(value: Any) -> str:
    kinds = {"NoneType": "none", "Missing": "an undefined value", "str": "text", "tuple": "list"}
    name = type(value).__name__
    return kinds.get(name, name)


def _no_field(obj: Any, argument: Any) -> str:
    """What is said when something has no such field or item."""
    if isinstance(obj, str) and argument in STRING_METHODS:
        return f"{argument!r} is a method of text: write {argument}() to call it"
    if isinstance(obj, dict):
        call = f"; write {argument}() to call the method" if argument in DICT_METHODS else ""
        names = [str(name) for name in obj]
        listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        return f"there is no field {argument!r}{nearest(str(argument), names)}; there are: {listed or 'none'}{call}"
    return f"{_kind(obj)} has no {argument!r}"


def unknown(what: str, name: str, allowed: Iterable[str]) -> str:
    """What is said of a filter, test or method that a template may not use."""
    return f"no {what} {name!r} here{nearest(name, allowed)}; a template may use: {', '.join(sorted(allowed))}"


def _plain(value: Any) -> Any:
    """A result as text, number, list or dict: filters give iterators, views and marked text."""
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or isinstance(value, int | float | list | dict | Undefined):
        return value
    if isinstance(value, tuple):
        return tuple(value)
    return [_plain(item) for item in value]


def _filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja's or of ours that charges for what goes in and comes out."""
    wants = getattr(getattr(function, "jinja_pass_arg", None), "name", "")

    @pass_context
    def charged(context: MeteredContext, value: Any, *args: Any, **kwargs: Any) -> Any:
        if name not in ("default", "d"):
            _require_defined(value)
        if name in TEXT_FILTERS:
            value = _text(value)
        context.charge(value, *args, *kwargs.values())
        first = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        result = _plain(function(first[wants], value, *args, **kwargs) if wants else function(value, *args, **kwargs))
        context.charge(result)
        return result

    return charged


def _test(function: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def charged(context: MeteredContext, value: Any, *args: Any) -> bool:
        context.charge(value, *args)
        return bool(function(value, *args))

    return charged


def _method(name: str) -> Callable[..., Any]:
    """A method where it is called: `text.upper()`, `labels.items()`, `loop.cycle('a', 'b')`."""

    @pass_context
    def call(context: MeteredContext, value: Any, *args: Any, **kwargs: Any) -> Any:
        _require_defined(value)
        context.charge(value, *args, *kwargs.values())
        if isinstance(value, str) and name in STRING_METHODS:
            if name == "join":
                result = _join(context, *args, **kwargs | {"d": value})
            elif name == "replace":
                result = _replace(context, value, *args, **kwargs)
            else:
                result = getattr(value, name)(*args, **kwargs)
        elif (isinstance(value, dict) and name in DICT_METHODS) or (
            isinstance(value, LoopContext) and name in LOOP_METHODS
        ):
            result = _plain(getattr(value, name)(*args, **kwargs))
        else:
            raise jinja2.exceptions.SecurityError(f"{_kind(value)} has no method {name!r} that a template may call")
        context.charge(result)
        return result

    return call


@pass_context
def _joined(context: MeteredContext, values: list[Any]) -> str:
    return _join(context, values)


@pass_context
def _value(context: MeteredContext, value: Any) -> Any:
    context.charge(value)
    return value


@pass_context
def _each(context: MeteredContext, values: Any, weight: int) -> Any:
    """What a loop goes over. Every round is paid before the first."""
    _require_defined(values)
    if not isinstance(values, str | list | tuple | dict):
        raise jinja2.TemplateRuntimeError(f"{_kind(values)} is nothing to loop over")
    context.spend(1 + len(values) * weight)
    return values


@pass_context
def _item(context: MeteredContext, value: Any, argument: Any) -> Any:
    _require_defined(value)
    context.charge(argument)
    return context.environment.getitem(value, argument)


@pass_context
def _slice(context: MeteredContext, value: Any, start: Any, stop: Any, step: Any) -> Any:
    _require_defined(value)
    if not isinstance(value, str | list | tuple):
        raise jinja2.TemplateRuntimeError(f"{_kind(value)} has no parts to take")
    context.spend(1 + len(value) // (CHARACTERS if isinstance(value, str) else 1))
    return value[start:stop:step]


@pass_context
def _range(context: MeteredContext, bounds: list[Any]) -> list[int]:
    numbers = range(*bounds)
    if len(numbers) > MAX_RANGE:
        raise jinja2.TemplateRuntimeError(f"range({', '.join(map(str, bounds))}): more than {MAX_RANGE} numbers")
    context.spend(1 + len(numbers))
    return list(numbers)


@pass_context
def _spend(context: MeteredContext, value: str, steps: int) -> str:
    context.spend(steps)
    return value


@pass_context
def _join(context: MeteredContext, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    """As Jinja's, paid before it is made."""
    items: Iterator[Any] = iter(values)
    if attribute is not None:
        items = (context.environment.getitem(item, attribute) for item in values)
    texts = [_text(item) for item in items]
    context.spend(1 + (sum(map(len, texts)) + len(_text(d)) * len(texts)) // CHARACTERS)
    return _text(d).join(texts)


@pass_context
def _replace(context: MeteredContext, text: str, old: Any, new: Any, count: int | None = None) -> str:
    """As Jinja's, paid before it is made."""
    old, new = _text(old), _text(new)
    times = text.count(old) if count is None or count < 0 else min(count, text.count(old))
    context.spend(1 + (len(text) + times * len(new)) // CHARACTERS)
    return text.replace(old, new, times)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if abs(precision) > MAX_PLACES:
        raise jinja2.TemplateRuntimeError(f"round: {precision} places; at most {MAX_PLACES}")
    rounded: float = JINJA_FILTERS["round"](value, precision, method)
    return rounded


def _escape(text: str) -> str:
    return str(markupsafe.escape(text))


def _tojson(value: Any, indent: int | None = None) -> str:
    """JSON as a person would write it: nothing is escaped that JSON does not ask for, keys stay in their order."""
    if indent is not None and not 0 <= indent <= 8:
        raise jinja2.TemplateRuntimeError(f"tojson: indent {indent}; it is from 0 to 8")
    return json.dumps(value, ensure_ascii=False, indent=indent)
