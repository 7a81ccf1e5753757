"""``python -m services.update_check``."""

from __future__ import annotations

import gc

from services.update_check.app import make_app
from services.update_check.settings import Settings
from shared.web import main

YOUNG_OBJECTS = 50_000
"""Objects that are made before the collector looks for cycles. Polls make none; by the default of 700 it looked after
every few dozen polls, at the contacts that wait to be written."""

if __name__ == "__main__":
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
    main(make_app, Settings, name="update_check", uvloop=True)
