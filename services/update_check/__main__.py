"""``python -m services.update_check``."""

from __future__ import annotations

from services.update_check.app import make_app
from services.update_check.settings import Settings
from shared.web import main

if __name__ == "__main__":
    main(make_app, Settings, name="update_check", uvloop=True)
