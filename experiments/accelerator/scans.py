"""Each form of each scan on this device, fastest first, and which form the platform should have."""

import functools
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from aire.ssm import scan
from experiments.speed import speed_layers, speed_selective

HEADER = "scan", "shape", "pass", "form", "ms", "of fastest", "default"
SCANS = {
    "diagonal (B, L, P)": speed_layers.form_seconds,
    "selective (B, L, D, N)": speed_selective.form_seconds,
}
_DECIDES = "with gradients"
_WORTH = 0.95  # of the time: a form that is not this much faster is no reason to change the default


def rows(name: str, shape: Sequence[int], repetitions: int) -> Iterator[tuple[str, ...]]:
    """Time the forms of one scan at one shape, forward and with gradients."""
    default = default_form(platform())
    for direction, seconds in SCANS[name](tuple(shape), repetitions).items():
        fastest = min(seconds.values())
        for form, t in sorted(seconds.items(), key=lambda item: item[1]):
            cells = f"{1e3 * t:.4g}", f"{t / fastest:.2f}", "yes" if form == default else ""
            yield name, str(tuple(shape)), direction, form, *cells


def platform() -> str:
    """Return the name of the platform that programs are lowered for here: a key of `PLATFORM_FORMS`."""
    names = "cpu", "cuda", "rocm", "tpu"
    numbers = {name: functools.partial(jnp.int32, i) for i, name in enumerate(names)}
    found = int(jax.jit(lambda: jax.lax.platform_dependent(**numbers, default=lambda: jnp.int32(-1)))())
    return names[found] if found >= 0 else jax.default_backend()


def default_form(platform: str) -> str:
    return scan.PLATFORM_FORMS.get(platform, scan.OTHER_PLATFORMS)


def advice(table: Iterable[Sequence[str]], platform: str) -> str:
    """Say whether the default form is the fastest with gradients, in the geometric mean; if not, how to set it.

    Both scans have the same default, so each is also named alone.

    Args:
        table: rows as `rows` makes them.
    """
    default, ratios = default_form(platform), _to_default(table, default_form(platform))
    means = {form: _mean([r for of_scan in by_scan.values() for r in of_scan]) for form, by_scan in ratios.items()}
    best = min(means, key=means.__getitem__, default=default)
    if best == default or means[best] > _WORTH:
        return f"The default form of the scans on {platform}, {default}, is the fastest, or nearly so."
    alone = ", ".join(f"{name}: {_mean(of_scan):.2f}" for name, of_scan in ratios[best].items())
    return (
        f"On {platform} the form {best} takes {means[best]:.2f} of the time of the default, {default} ({alone}). "
        f'To set it, add "{platform}": "{best}" to PLATFORM_FORMS in aire/ssm/scan.py, or call '
        f'`aire.ssm.scan.PLATFORM_FORMS["{platform}"] = "{best}"` before the first use of a model.'
    )


def _to_default(table: Iterable[Sequence[str]], default: str) -> dict[str, dict[str, list[float]]]:
    """Return the time of every other form over the default's with gradients, by form and scan."""
    seconds: dict[tuple[str, str], dict[str, float]] = {}
    for name, shape, direction, form, milliseconds, *_ in table:
        if direction == _DECIDES:
            seconds.setdefault((name, shape), {})[form] = float(milliseconds)
    ratios: dict[str, dict[str, list[float]]] = {}
    for (name, _), forms in seconds.items():
        for form in forms.keys() - {default}:
            ratios.setdefault(form, {}).setdefault(name, []).append(forms[form] / forms[default])
    return ratios


def _mean(ratios: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(ratios))))
