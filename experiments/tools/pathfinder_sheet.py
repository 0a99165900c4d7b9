"""Draw a sheet of Pathfinder's images, with a record of how they were drawn.

python -m experiments.tools.pathfinder_sheet      writes experiments/results/pathfinder_samples.png and .json
"""

from pathlib import Path

from aire.data.contours import DESIGNS
from aire.data.pathfinder import Generated
from aire.report import figures
from aire.utils.files import write_json
from experiments.provenance import provenance

_SHEET = Path(__file__).parents[1] / "results" / "pathfinder_samples.png"
_SHOWN = 8  # of each label


def main() -> None:
    rows = {}
    for design, drawn in DESIGNS.items():
        source = Generated(design, train_examples=2 * _SHOWN)
        examples = list(source.splits()["train"])
        for label, words in ((1, "connected"), (0, "not connected")):
            title = f"{design}: {drawn.side}×{drawn.side}, contours of {drawn.contour_length} dashes, {words}"
            rows[title] = [image for image, of in examples if of == label]
    figures.image_sheet(rows, _SHEET)
    record = {"seed": source.seed, "split": "train", "examples": f"the first {_SHOWN} of each label", **provenance()}
    write_json(_SHEET.with_suffix(".json"), record)
    print(f"{_SHEET}: {', '.join(DESIGNS)}")


if __name__ == "__main__":
    main()
