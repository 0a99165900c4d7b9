"""The one traversal: every state space layer of a model, by identity, in any module or container that holds one."""

from collections.abc import Callable
from typing import Any

from flax import nnx

from aire.ssm.base import StateSpaceLayer
from aire.ssm.paths import Path, natural_order, path_name
from aire.utils.errors import UserError


def map_layers(model: nnx.Module, fn: Callable[[Path, StateSpaceLayer], Any]) -> Any:
    """A copy of a model with fn(path, layer) in the place of each state space layer.

    A layer that is used in several places is one layer: `fn` is called once, with the first path, and its result
    stands in all of them. Layers inside a layer are that layer's own business. The copy shares its arrays with the
    model, but not its variables.

    Raises:
        UserError: the model contains no state space layer.
    """
    return _replace(nnx.clone(model), fn)


def layers(model: nnx.Module) -> dict[str, StateSpaceLayer]:
    """The state space layers of a model by path, "blocks/0/ssm", and "" where the model is itself one.

    In path order, numbers by value.

    Raises:
        UserError: the model contains no state space layer.
    """
    found: dict[str, StateSpaceLayer] = {}
    _replace(model, lambda path, layer: found.setdefault(path_name(path), layer))
    return {path: found[path] for path in sorted(found, key=natural_order)}


def _replace(model: nnx.Module, fn: Callable[[Path, StateSpaceLayer], Any]) -> Any:
    """`map_layers` in place."""
    done: dict[int, Any] = {}
    found: list[Path] = []

    def visit(node: Any, path: Path) -> Any:
        if id(node) in done:
            return done[id(node)]
        if isinstance(node, StateSpaceLayer):
            found.append(path)
            done[id(node)] = fn(path, node)
        elif isinstance(node, nnx.Pytree | dict | list | tuple):
            done[id(node)] = node  # already now, because a module may refer to itself
            new = {key: (child, visit(child, (*path, key))) for key, child in _children(node)}
            changed = {key: after for key, (before, after) in new.items() if after is not before}
            if changed:
                done[id(node)] = _with_children(node, changed)
        return done.get(id(node), node)

    result = visit(model, ())
    if not found:
        raise UserError(f"{type(model).__name__} contains no state space layer: nothing to prune")
    return result


def _children(node: Any) -> list[tuple[Any, Any]]:
    """Keys and children of a module (by attribute) or a container."""
    if isinstance(node, nnx.List | list | tuple):
        return list(enumerate(node))
    items = node.items() if isinstance(node, dict) else vars(node).items()
    return sorted(
        ((k, v) for k, v in items if not str(k).startswith("_pytree__")), key=lambda item: _key_order(item[0])
    )


def _key_order(key: Any) -> tuple[bool, Any]:
    """Flax's order, numbers by value, so that a layer's first path is the one that Flax has for its parameters."""
    return not isinstance(key, int), key if isinstance(key, int) else str(key)


def _with_children(node: Any, new: dict[Any, Any]) -> Any:
    """A module with other children, in place; another container in the place of a dict, list or tuple."""
    if isinstance(node, nnx.List):
        for i, child in new.items():
            node[i] = child
        return node
    if isinstance(node, nnx.Pytree):
        for name, child in new.items():
            setattr(node, name, nnx.data(child) if isinstance(child, dict | list | tuple) else child)
        return node
    if isinstance(node, dict):
        return node | new
    children = [new.get(i, child) for i, child in enumerate(node)]
    return type(node)(*children) if hasattr(node, "_fields") else type(node)(children)
