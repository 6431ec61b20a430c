"""The systems that a configuration may be of (`system: NAME`): the one table of them.

To add one, write its settings, its model (`models.search_model.SearchModel`), how its files are read and how it is
trained (`configs.systems.system`), and an entry here. Nothing else asks which system a model is of.
"""

from configs.systems.clip import CLIP, IRRA
from configs.systems.mars import MARS
from configs.systems.rde import RDE
from configs.systems.system import System

USUAL_SYSTEM = "mars"
SYSTEMS: dict[str, System] = {"mars": MARS, "clip": CLIP, "irra": IRRA, "rde": RDE}
