"""``python -m services.telemetry``."""

from __future__ import annotations

from services.telemetry.app import NAME, make_app
from services.telemetry.settings import Settings
from shared.web import main

if __name__ == "__main__":
    main(make_app, Settings, name=NAME, uvloop=True)
