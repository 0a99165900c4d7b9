"""Put a trained model into the zoo: its weights, its config, seed and versions, and the log of its training.

python -m experiments.publish WORKDIR     the folder of a run with --config.init=scratch
"""

import json
import shutil
import sys
from pathlib import Path

from aire import zoo
from aire.errors import UserError


def publish(workdir: Path) -> Path:
    """Copy a run's model into aire/zoo/ under its config's name; returns the new file.

    Raises:
        UserError: the folder holds no trained model.
    """
    if not (workdir / "model.json").is_file():
        raise UserError(f"{workdir} holds no trained model: run a config with --config.init=scratch there first")
    name = json.loads((workdir / "model.json").read_text())["config"]["name"]
    target = Path(zoo.__file__).parent / f"{name}.safetensors"
    shutil.copyfile(workdir / "model.safetensors", target)
    shutil.copyfile(workdir / "model.json", target.with_suffix(".json"))
    shutil.copyfile(workdir / "training" / "metrics.csv", target.with_suffix(".csv"))
    return target


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        print(publish(Path(sys.argv[1])))
    except UserError as error:
        sys.exit(f"error: {error}")
