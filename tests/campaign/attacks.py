"""All attacks by name."""

from tests.campaign import flips, hostile
from tests.campaign.attack import Attack

ATTACKS: dict[str, Attack] = {"flips": flips.ATTACK, "hostile": hostile.ATTACK}
