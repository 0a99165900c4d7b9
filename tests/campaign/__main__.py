"""Attack the program and write what happened to the table in docs/campaign.md.

python -m tests.campaign [NAME …]
"""

import os
import sys
import tempfile
from pathlib import Path

# Before JAX is imported: runs share what they compile.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[2] / ".pytest_cache" / "jax_campaign"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from tests.campaign.attack import row, write_page
from tests.campaign.attacks import ATTACKS


def main(names: list[str]) -> None:
    rows, bad = [], []
    for name in names or ATTACKS:
        with tempfile.TemporaryDirectory() as folder:
            outcomes = list(ATTACKS[name].run(Path(folder)))
        bad += [outcome for outcome in outcomes if not ATTACKS[name].is_good(outcome)]
        rows.append(row(ATTACKS[name], outcomes))
        print(*rows[-1], sep=" | ", flush=True)
    for outcome in bad:
        print(outcome)
    write_page(rows)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main(sys.argv[1:])
