"""What may stand in a template, and the template rewritten so that every operation is charged for: see `sandbox`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jinja2
from jinja2 import nodes

from harness.core.sandbox import CHARACTERS, FILTERS, LARGE_NUMBER, METHODS, TESTS, unknown

MAX_DEPTH = 60  # of blocks and expressions inside one another
MAX_LOOPS = 12  # inside one another; Python itself compiles no more than 20
MAX_NODES = 5_000  # of the rewritten syntax tree: more takes long to compile
ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Macro, nodes.CallBlock,
    nodes.FilterBlock, nodes.With, nodes.Assign, nodes.AssignBlock, nodes.Name, nodes.Const, nodes.Tuple, nodes.List,
    nodes.Dict, nodes.Pair, nodes.Keyword, nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Call, nodes.Getitem,
    nodes.Getattr, nodes.Slice, nodes.Concat, nodes.Compare, nodes.Operand, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div,
    nodes.FloorDiv, nodes.Mod, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos,
)  # fmt: skip


def rewrite(node: Any, depth: int = 0, loops: int = 0) -> Any:
    """A parsed template with every operation charged.

    Raises TemplateSyntaxError, which has the line, for what may not stand in a template.
    """
    loops += isinstance(node, nodes.For)
    _check(node, depth, loops)
    for field, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            setattr(node, field, rewrite(value, depth + 1, loops))
        elif isinstance(value, list):
            setattr(node, field, [rewrite(v, depth + 1, loops) if isinstance(v, nodes.Node) else v for v in value])
    weight = 0
    if isinstance(node, nodes.Template | nodes.For | nodes.Macro | nodes.CallBlock):
        inside = sum(1 for _ in node.find_all(nodes.Node))
        if inside > MAX_NODES:
            raise jinja2.TemplateSyntaxError(f"it has {inside} parts; a template has at most {MAX_NODES}", node.lineno)
        # text as it stands is printed without a charge of its own: most of a prompt is such text
        literal = sum(1 + len(text.data) // CHARACTERS for text in node.find_all(nodes.TemplateData))
        weight = inside // 4 + 1 + literal
    return _charged(node, weight)


def _check(node: Any, depth: int, loops: int) -> None:
    def refuse(why: str) -> jinja2.TemplateSyntaxError:
        return jinja2.TemplateSyntaxError(why, node.lineno)

    if depth > MAX_DEPTH or loops > MAX_LOOPS:
        raise refuse(f"nested too deeply: at most {MAX_LOOPS} loops, and {MAX_DEPTH} levels in all")
    if not isinstance(node, ALLOWED):
        raise refuse(f"{type(node).__name__.lower()!r} may not stand in a template")
    if isinstance(node, nodes.Const) and isinstance(node.value, int) and abs(node.value) >= LARGE_NUMBER:
        raise refuse(f"a number is below {LARGE_NUMBER:.0e}")
    if isinstance(node, nodes.For) and node.recursive:
        raise refuse("a loop may not be recursive")
    if isinstance(node, nodes.CallBlock) and getattr(node.call.node, "name", "range") == "range":
        raise refuse("{% call %} is for macros of the template only")
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        raise refuse(unknown("filter", node.name, FILTERS))
    if isinstance(node, nodes.Test) and node.name not in TESTS:
        raise refuse(unknown("test", node.name, TESTS))
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr not in METHODS:
        raise refuse(unknown("method", node.node.attr, METHODS))


def _charged(node: Any, weight: int) -> Any:
    """The node, its own operation replaced by a filter that charges for it. `weight` is what one round costs."""

    def through(name: str, value: Any, args: Iterable[Any] = (), call: Any = None) -> nodes.Filter:
        more = (call.kwargs, call.dyn_args, call.dyn_kwargs) if call else ([], None, None)
        return nodes.Filter(value, name, list(args), *more, lineno=node.lineno, environment=node.environment)

    def const(value: Any) -> nodes.Const:
        return nodes.Const(value, lineno=node.lineno, environment=node.environment)

    match node:
        case nodes.Call(node=nodes.Getattr() as method):
            return through(f".{method.attr}", method.node, node.args, node)
        case nodes.Call(node=nodes.Name(name="range")):
            return through(" range", nodes.List(node.args, lineno=node.lineno), [], node)
        case nodes.Concat():
            return through(" text", nodes.List(node.nodes, lineno=node.lineno))
        case nodes.List() | nodes.Dict() | nodes.Tuple(ctx="load"):
            return through(" value", node)
        case nodes.Getitem(arg=nodes.Slice() as part):
            return through(" slice", node.node, [x or const(None) for x in (part.start, part.stop, part.step)])
        case nodes.Getitem():
            return through(" item", node.node, [node.arg])
        case nodes.Compare() | nodes.Operand():
            node.expr = through(" value", node.expr)
        case nodes.For():
            node.iter = through(" each", node.iter, [const(weight)])
        case nodes.Macro() | nodes.CallBlock():
            spend = nodes.Output([through(" spend", const(""), [const(weight)])], lineno=node.lineno)
            node.body = [spend, *node.body]
    return node
