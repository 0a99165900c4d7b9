"""All attacks by name."""

from tests.campaign import calls, commands, flips, folders, hostile, kills, signals
from tests.campaign.attack import Attack

ATTACKS: dict[str, Attack] = {
    "flips": flips.ATTACK,
    "hostile": hostile.ATTACK,
    "commands": commands.ATTACK,
    "calls": calls.ATTACK,
    "kills": kills.ATTACK,
    **signals.ATTACKS,
    **folders.ATTACKS,
}
