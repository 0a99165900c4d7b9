"""The largest cut within a tolerance: against accuracies that are functions of the number of states."""

import numpy as np
import pytest

import aire
from aire.pruning import Method
from aire.pruning.surgery import Cut, Readout
from aire.ssm import layers
from aire.utils.errors import UserError

N = 40


def reaching(model) -> int:
    """The number of states that reach an output, of a masked or a cut model."""
    return sum(int(np.any(np.asarray(layer.readout()) != 0, axis=(0, 1)).sum()) for layer in layers(model).values())


def stored(model) -> int:
    return sum(layer.n_states for layer in layers(model).values())


@pytest.mark.parametrize("needed,kept", [(0, 1), (1, 1), (17, 17), (20, 20), (39, 39), (40, 40)])
def test_the_largest_ratio_of_hundredths_that_keeps_enough(make_layer, needed, kept):
    """Accuracy is 0.9 with `needed` states or more, else 0.7. All ratios k/100 tried one by one give the same."""
    model, seen = make_layer(3, N), []

    def validate(candidate):
        seen.append((stored(candidate), reaching(candidate)))
        return 0.9 if reaching(candidate) >= needed else 0.7

    result = aire.prune(model, tolerance=0.1, validate=validate)
    best = next(k for k in reversed(range(98)) if round((1 - k / 100) * N) >= max(needed, 1))
    np.testing.assert_array_equal(result.keep[""], aire.prune(model, best / 100).keep[""])
    assert result.states == (N, kept)
    assert len(seen) <= 9 and seen[0] == (N, N)
    masked, smaller = seen[1:-1] if kept < N else seen[1:], seen[-1]
    assert all(size == N for size, _ in masked)
    assert kept == N or smaller == (kept, kept)


def test_the_tolerance_counts_as_met_when_it_is_met_exactly(make_layer):
    result = aire.prune(make_layer(3, N), tolerance=0.01, validate=lambda m: 0.91 if reaching(m) == N else 0.9)
    assert result.states.after == 1


def test_if_the_cut_model_fails_the_next_lower_ratio_is_tried(make_layer):
    """All masked models pass. Cut models pass if they have 20 states or more."""
    result = aire.prune(
        make_layer(3, N), tolerance=0, validate=lambda m: 1.0 if stored(m) >= 20 or stored(m) == N else 0.0
    )
    assert result.states.after == 20
    whole = aire.prune(make_layer(3, N), tolerance=0, validate=lambda m: float(stored(m) == N))
    assert whole.states.after == N


def test_the_refitted_model_is_validated_and_returned(make_layer):
    """The refit halves the readout. Where no cut passes, the model stays as it is."""
    model = make_layer(3, N)

    def halve(model, cut, calibration):
        keep = np.asarray(cut.keep[""])
        return Cut(cut.keep, {"": Readout(np.asarray(model.readout())[..., keep] / 2, model.D[...])})

    C = np.asarray(model.readout())
    norm = {"uncut": abs(C).max()}
    method, calibration = Method("aire", refit=halve), [np.zeros((1, 4, 3), np.float32)]

    def validate(m, worse=0.0):
        halved = abs(np.asarray(m.readout())).max() <= norm["uncut"] / 2
        return 1.0 - worse * halved

    passed = aire.prune(model, tolerance=0, validate=validate, method=method, calibration=calibration)
    keep = np.asarray(passed.keep[""])
    assert keep.sum() == 1
    np.testing.assert_array_equal(passed.model.readout(), C[..., keep] / 2)
    kept = aire.prune(model, tolerance=0, validate=lambda m: validate(m, 0.5), method=method, calibration=calibration)
    np.testing.assert_array_equal(kept.model.readout(), C)


def test_mistakes_are_named(make_layer):
    model = make_layer()
    with pytest.raises(UserError, match="pass tolerance=… and validate=fn together"):
        aire.prune(model, tolerance=0.01)
    with pytest.raises(UserError, match="pass tolerance=… and validate=fn together"):
        aire.prune(model, 0.5, validate=lambda m: 1.0)
    with pytest.raises(UserError, match="pass one of ratio=…, threshold=… and tolerance=…"):
        aire.prune(model, 0.5, tolerance=0.01, validate=lambda m: 1.0)
    for tolerance in (-0.1, float("nan")):
        with pytest.raises(UserError, match=f"tolerance={tolerance}: expected the accuracy that may be lost"):
            aire.prune(model, tolerance=tolerance, validate=lambda m: 1.0)
    with pytest.raises(UserError, match="validate returned nan: expected a finite accuracy"):
        aire.prune(model, tolerance=0.01, validate=lambda m: float("nan"))
    with pytest.raises(UserError, match="validate returned a NoneType: expected the accuracy, a number"):
        aire.prune(model, tolerance=0.01, validate=lambda m: None)
