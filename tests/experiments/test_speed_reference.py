"""The benchmark's comparison with the references, as far as possible without clones."""

import pytest

from aire.utils.errors import UserError
from configs import speed
from experiments.speed.speed_reference_s4d import reference_s4d_table
from experiments.speed.speed_reference_s5 import reference_table


@pytest.mark.parametrize("folder", ["", "tests"])
@pytest.mark.parametrize("key,measure", [("reference", reference_table), ("reference_s4d", reference_s4d_table)])
def test_a_folder_that_is_no_clone_is_named(key, measure, folder):
    config = speed.get_config("smoke")
    config[key] = folder
    with pytest.raises(UserError, match=f"config.{key}='{folder or '.'}': expected a clone of"):
        measure(config)
