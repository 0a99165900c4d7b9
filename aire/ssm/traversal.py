"""Find and replace the state space layers of a model, in any module or container."""

from collections.abc import Callable
from typing import Any

from flax import nnx

from aire.ssm.base import StateSpaceLayer
from aire.ssm.paths import Path, natural_order, path_name
from aire.utils.arguments import describe, function
from aire.utils.errors import UserError


def map_layers(model: nnx.Module, fn: Callable[[Path, StateSpaceLayer], Any]) -> Any:
    """Copy a model with each state space layer replaced by fn(path, layer).

    `fn` is called once for a layer that is used in several places, with its first path, and the result replaces all of
    them. Layers inside a layer are not visited. The copy shares its arrays with the model, but not its variables.

    Raises:
        UserError: the model contains no state space layer, or `fn` is no function.
    """
    function("fn", fn, "of a path and a layer")
    layers(model)  # before the copy, which fails on what is no module
    return _replace(nnx.clone(model), fn)


def layers(model: nnx.Module) -> dict[str, StateSpaceLayer]:
    """The state space layers of a model by path, such as "blocks/0/ssm", or "" if the model itself is a layer.

    Sorted by path, numbers by value.

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
            done[id(node)] = node  # before the visit, because a module may refer to itself
            new = {key: (child, visit(child, (*path, key))) for key, child in _children(node)}
            changed = {key: after for key, (before, after) in new.items() if after is not before}
            if changed:
                done[id(node)] = _with_children(node, changed)
        return done.get(id(node), node)

    result = visit(model, ())
    if not found:
        if not isinstance(model, nnx.Module):
            raise UserError(f"model: expected a flax.nnx.Module, not {describe(model)}")
        raise UserError(f"{type(model).__name__} contains no state space layer: nothing to prune")
    return result


def _children(node: Any) -> list[tuple[Any, Any]]:
    """Keys and children of a container, or attributes of a module."""
    if isinstance(node, nnx.List | list | tuple):
        return list(enumerate(node))
    items = node.items() if isinstance(node, dict) else vars(node).items()
    return sorted(
        ((k, v) for k, v in items if not str(k).startswith("_pytree__")), key=lambda item: _key_order(item[0])
    )


def _key_order(key: Any) -> tuple[bool, Any]:
    """Sort as Flax does, numbers by value, so that the first path of a layer is the path of its parameters in Flax."""
    return not isinstance(key, int), key if isinstance(key, int) else str(key)


def _with_children(node: Any, new: dict[Any, Any]) -> Any:
    """Replace children: in place in a module, in a copy of a dict, list or tuple."""
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
