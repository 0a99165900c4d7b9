"""Digests of arrays and of JSON records."""

import hashlib
import json

import numpy as np
import pytest

from aire.utils import digests
from tests.helpers import refused


def test_the_digest_of_an_array_is_that_of_its_values_in_c_order():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert digests.of_array(array.T) == hashlib.sha256(array.T.tobytes()).hexdigest() != digests.of_array(array)
    assert digests.of_array(np.zeros((0, 4))) == hashlib.sha256(b"").hexdigest()
    assert digests.of_array(np.float64(2)) == hashlib.sha256(np.float64(2).tobytes()).hexdigest()


def test_a_sealed_record_comes_back_from_json_however_it_is_laid_out():
    record = {"numbers": {2: 0.1, 10: 1e-300}, "sizes": (3, 4), "text": "Gödel", "none": None}
    sealed = json.loads(json.dumps(digests.seal(record), indent=3))
    turned = dict(reversed(sealed.items()))
    expected = {"numbers": {"2": 0.1, "10": 1e-300}, "sizes": [3, 4], "text": "Gödel", "none": None}
    assert digests.unseal(sealed, "record") == digests.unseal(turned, "record") == expected
    for change in ({"text": "Godel"}, {"sizes": [4, 3]}, {"more": 1}, {"none": 0}, {"sha256": None}):
        with refused("^record is damaged: it differs from what was written"):
            digests.unseal(sealed | change, "record")


def test_a_record_without_a_digest_is_accepted_unless_it_is_required():
    assert digests.unseal({"a": 1}, "record") == {"a": 1}
    with refused("^record is damaged: its digest 'sha256' is missing"):
        digests.unseal({"a": 1}, "record", required=True)
    with refused("^record is damaged: expected a JSON object, found list"):
        digests.unseal([], "record")


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"b": [{"a": 1, "a": 2}]}', "[" * 10**5, "9" * 5000, b"\xff", b"\x80{}", "", "nope"]
)
def test_texts_that_are_no_json(text):
    with refused("^record is not valid JSON: "):
        digests.parse_json(text, "record")
