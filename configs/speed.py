"""Benchmark: what scoring, selecting and cutting cost, the two forms of the scan side by side, and a cut S4D layer.

    python run.py --config=speed           about two minutes on 2 CPU cores
    python run.py --config=speed:smoke     seconds; for tests

Medians of interleaved repetitions in one process, after one call of each to compile.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variants: str = "") -> ConfigDict:
    config = ConfigDict(
        {
            "experiment": "speed",
            "name": "speed",
            "repetitions": 15,
            # The largest network of the paper (Image, sCIFAR): 6 layers of P = 384, H = 512.
            "network": {"layers": 6, "states": 192, "d_model": 512},
            "state_counts": (1_000, 10_000, 100_000, 1_000_000),
            # (batch, length, stored states): ListOps, Image, Pathfinder and Path-X, batch reduced.
            "scan_shapes": ((8, 2048, 8), (4, 1024, 192), (8, 1024, 128), (1, 16384, 128)),
            # An S4D layer as for ListOps, states per channel, and the shares of them that are left.
            "bank": {"d_model": 128, "states": 32, "length": 2048, "shares": (1.0, 0.5, 0.25, 0.1, 0.03)},
        }
    )
    for change in common.parse_variants(variants, {"smoke": smoke}):
        change(config)
    return config


def smoke(config: ConfigDict) -> None:
    """Every measurement once, on tiny shapes."""
    config.repetitions = 1
    config.network.update(layers=2, states=4, d_model=8)
    config.state_counts = (100,)
    config.scan_shapes = ((2, 64, 4),)
    config.bank.update(d_model=4, states=4, length=64, shares=(1.0, 0.5))
