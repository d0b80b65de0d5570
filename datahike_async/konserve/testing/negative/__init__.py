"""Stores that break one promise each, and the laws that must find them out.

A suite that never turns red says nothing. Each store here is a sound one but for one flaw, such as
a real backend might have, and each law it names in ``found_by`` must fail on it.
"""

# They plant themselves when they are imported.
from datahike_async.konserve.testing.negative import conditions, journals, reading, turns, writing
from datahike_async.konserve.testing.negative.planting import BROKEN, Planted

__all__ = ["BROKEN", "Planted", "conditions", "journals", "reading", "turns", "writing"]
