"""Plans: many named runs from one YAML, see docs/plans.md.

``spec`` reads a plan into runs, ``state`` sees from their folders how far they are, ``runner``
carries them out on this machine, ``on_ray`` on many.
"""

from .runner import LocalSlots, Slots, carry_out
from .spec import Plan, PlannedRun, read_plan
from .state import RunState, Status, look_at, write_tables

__all__ = [
    "LocalSlots",
    "Plan",
    "PlannedRun",
    "RunState",
    "Slots",
    "Status",
    "carry_out",
    "look_at",
    "read_plan",
    "write_tables",
]
