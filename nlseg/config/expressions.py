"""Where the parts of a Python expression in a config file were written."""

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from nlseg.config.origin import EVERY, Key, Origin, merged

COPIES = ("deepcopy", "copy")


@dataclass
class Scope:
    """The names that a config file knows while it is read.

    Args:
        file: The file, as it is shown to users.
        base: Origins of what the base files say, read as ``_base_.name``.
        names: Origins of the file's own variables.
    """

    file: str
    base: Origin
    names: dict[Key, Origin] = field(default_factory=dict)

    def at(self, node: ast.expr | ast.keyword) -> str:
        """Return ``file:line`` of a piece of source."""
        return f"{self.file}:{node.lineno}"

    def assign(self, target: ast.expr, value: ast.expr) -> None:
        """Note ``name = value``, ``name.key = value`` or ``name['key'] = value``."""
        new = replace(describe(value, self), named_at=self.at(target))
        if isinstance(target, ast.Name):
            self.names[target.id] = new
        elif isinstance(target, (ast.Attribute, ast.Subscript)):
            holder, key = self.resolve(target.value), _key(target)
            if holder is not None and key is not None:
                holder.inside[key] = new
        elif isinstance(target, ast.Tuple):
            for item in target.elts:
                if isinstance(item, ast.Name):
                    self.names[item.id] = Origin(self.at(item))

    def resolve(self, node: ast.expr) -> Origin | None:
        """Follow a name, attribute or subscript to an origin that is known."""
        if isinstance(node, ast.Name):
            return self.base if node.id == "_base_" else self.names.get(node.id)
        if isinstance(node, (ast.Attribute, ast.Subscript)):
            holder, key = self.resolve(node.value), _key(node)
            if holder is not None and key is not None:
                return holder.inside.get(key, holder.inside.get(EVERY))
        return None


def _key(node: ast.Attribute | ast.Subscript) -> Key | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    index = node.slice
    if isinstance(index, ast.Constant) and isinstance(index.value, (str, int)):
        return index.value
    return None


def describe(node: ast.expr, scope: Scope) -> Origin:
    """Describe where an expression and all that it holds were written.

    Args:
        node: The expression.
        scope: Names that it may use.

    Returns:
        Its origin; what is not understood is attributed to the line that it starts on.
    """
    node = _unbraced(node)
    if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)):
        return _describe_reference(node, scope)
    if isinstance(node, ast.Call):
        return _describe_call(node, scope)
    if isinstance(node, ast.Dict):
        keys = [(_constant(key), key) for key in node.keys]
        pairs = [(*key, value) for key, value in zip(keys, node.values, strict=True)]
        return _describe_pairs(pairs, scope, scope.at(node))
    return Origin(scope.at(node), inside=_items(node, scope))


def _unbraced(node: ast.expr) -> ast.expr:
    """Take ``{{_base_.x}}``, which Python reads as a set in a set, for ``_base_.x``."""
    if isinstance(node, ast.Set) and len(node.elts) == 1:
        inner = node.elts[0]
        if isinstance(inner, ast.Set) and len(inner.elts) == 1:
            return inner.elts[0]
    return node


def _describe_reference(node: ast.Name | ast.Attribute | ast.Subscript, scope: Scope) -> Origin:
    known = scope.resolve(node)
    if known is None:
        return Origin(scope.at(node))
    name = node.id if isinstance(node, ast.Name) else known.variable
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        name = node.attr if node.value.id == "_base_" else known.variable
    return replace(known, inside=dict(known.inside), named_at=scope.at(node), variable=name)


def _describe_call(node: ast.Call, scope: Scope) -> Origin:
    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
    if name in COPIES and node.args:
        return describe(node.args[0], scope)
    if name != "dict":
        return Origin(scope.at(node))
    pairs = [(item.arg, item, item.value) for item in node.keywords]
    origin = _describe_pairs(pairs, scope, scope.at(node))
    for argument in node.args[:1]:
        origin = merged(replace(describe(argument, scope), is_dict=True), origin)
    return origin


Pair = tuple[Key | None, ast.expr | ast.keyword | None, ast.expr]


def _describe_pairs(pairs: Iterable[Pair], scope: Scope, where: str) -> Origin:
    origin = Origin(where, is_dict=True)
    for key, key_node, value in pairs:
        child = describe(value, scope)
        if key is None:
            origin.inside.update(child.inside)
        else:
            named_at = scope.at(key_node) if key_node is not None else child.where
            origin.inside[key] = replace(child, named_at=named_at)
    origin.replaces = "_delete_" in origin.inside
    origin.inside.pop("_delete_", None)
    return origin


def _constant(node: ast.expr | None) -> Key | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int)):
        return node.value
    return None


def _items(node: ast.expr, scope: Scope) -> dict[Key, Origin]:
    """Describe the items of a list, a tuple, a comprehension or a sum of lists."""
    if isinstance(node, ast.ListComp):
        return {EVERY: describe(node.elt, scope)}
    children: list[Origin] = []
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        for side in (node.left, node.right):
            children += describe(side, scope).inside.values()
    elif isinstance(node, (ast.List, ast.Tuple)):
        for item in node.elts:
            if isinstance(item, ast.Starred):
                children += describe(item.value, scope).inside.values()
            else:
                children.append(describe(item, scope))
    return dict(enumerate(children))
