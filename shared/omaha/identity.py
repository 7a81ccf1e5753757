"""How ids look on the wire and how they are compared.

update_engine writes application and boot ids with braces, other clients write them without; some write capitals. An
application id is compared in its normal form and echoed verbatim.
"""

from __future__ import annotations

_AROUND = "{} \t\r\n"


def normalise_app_id(app_id: str) -> str:
    """The form in which application ids are compared: no braces, no blanks around, lower case."""
    return app_id.strip(_AROUND).lower()


def normalise_boot_id(boot_id: str) -> str:
    """The form in which boot ids are compared; the same rule as for application ids.

    The value is ``/proc/sys/kernel/random/boot_id``, new at every boot; empty when the client does not report it.
    """
    return boot_id.strip(_AROUND).lower()
