"""The campaign as a test: no attack gives a wrong result or a traceback, or takes more than 2 s of CPU time or 1 GB."""

import pytest

from tests.campaign.attacks import ATTACKS


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "calls")) for n in ATTACKS])
def test_attacks(name, tmp_path, monkeypatch, jax_defaults, unchecked_types):
    monkeypatch.chdir(tmp_path)
    outcomes = list(ATTACKS[name].run(tmp_path))
    assert len(outcomes) >= ATTACKS[name].expected
    assert not [outcome for outcome in outcomes if not ATTACKS[name].is_good(outcome)]
