"""The benchmark beside the S5 reference, as far as it goes without a clone of it."""

import pytest

from aire.errors import UserError
from configs import speed
from experiments.speed_reference import reference_rows


@pytest.mark.parametrize("folder", ["", "tests"])
def test_a_folder_that_is_no_clone_is_named(folder):
    config = speed.get_config("smoke")
    config.reference = folder
    with pytest.raises(UserError, match=f"config.reference='{folder or '.'}': expected a clone of"):
        reference_rows(config)
