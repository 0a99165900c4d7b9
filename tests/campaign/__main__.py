"""Attack the program and write what happened to the table in docs/campaign.md.

python -m tests.campaign [NAME …]
"""

import sys
import tempfile
from pathlib import Path

from tests.campaign import attacks
from tests.campaign.attack import row, write_page


def main(names: list[str]) -> None:
    rows, bad = [], []
    for name in names or attacks.ATTACKS:
        with tempfile.TemporaryDirectory() as folder:
            outcomes = list(attacks.ATTACKS[name].run(Path(folder)))
        bad += [outcome for outcome in outcomes if not outcome.is_good]
        rows.append(row(attacks.ATTACKS[name], outcomes))
        print(*rows[-1], sep=" | ", flush=True)
    for outcome in bad:
        print(outcome)
    write_page(rows)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main(sys.argv[1:])
