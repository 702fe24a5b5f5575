"""Metrics that say what an engine is, and what it has in hand."""

from functools import partial

from db.vocabulary.states import Stage
from workers.decoding import metrics
from workers.engine.in_flight import InFlight, ItemStep
from workers.families.base import Family
from workers.metrics import ITEMS_ENDED


def export_engine(family: Family, in_flight: InFlight) -> None:
    """Export what an engine serves and its items in flight, from now on."""
    name, slot_engine = family.card.name, family.slot_engine
    metrics.ENGINE_INFO.labels(name, "slots" if slot_engine else "generate").set(1)
    metrics.SEQUENCE_SLOTS.set(slot_engine.count if slot_engine else 0)
    for step in ItemStep:
        waiting = metrics.ITEMS_IN_FLIGHT.labels(step.name.lower())
        waiting.set_function(partial(in_flight.count, step))
    for kind in family.card.kinds:  # Prometheus sees an increase only of what was there before
        for outcome in ("succeeded", "failed"):
            ITEMS_ENDED.labels(Stage.GENERATE, name, kind, outcome)
