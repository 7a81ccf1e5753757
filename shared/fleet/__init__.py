"""What nodes report, on its way into Postgres: the one door through which attempts move."""

from __future__ import annotations

from shared.domain.observation import Observation, ObservationKind, ObservationSource, Outcome, OutcomeStatus
from shared.fleet.report import FleetReporter, record

__all__ = ["FleetReporter", "Observation", "ObservationKind", "ObservationSource", "Outcome", "OutcomeStatus", "record"]
