"""Plans: many named runs from one YAML, see docs/plans.md.

``spec`` reads a plan into runs, ``state`` sees from their folders how far they are, ``runner``
carries them out on this machine, ``forked`` many short ones, ``on_ray`` on many machines.
"""

from .forked import ForkedSlots
from .runner import LocalSlots, Slots, carry_out
from .spec import Plan, PlannedRun, Section, read_plan
from .state import RunState, Status, look_at, write_tables

__all__ = [
    "ForkedSlots",
    "LocalSlots",
    "Plan",
    "PlannedRun",
    "RunState",
    "Section",
    "Slots",
    "Status",
    "carry_out",
    "look_at",
    "read_plan",
    "write_tables",
]
