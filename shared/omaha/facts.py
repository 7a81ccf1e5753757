"""What an Omaha request says about the node itself."""

from __future__ import annotations

from shared.omaha.request import App, Request

_BOARDS = {"amd64-usr": "amd64", "arm64-usr": "arm64"}
# Kernel names, Debian names and Omaha's own names for the same machines.
_ARCHES = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "x64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "arm": "arm64",
    "x86": "x86",
    "i386": "x86",
    "i686": "x86",
}
_SERVICE_PACK_SUFFIXES = (("_x86_64", "amd64"), ("_aarch64", "arm64"), ("_arm64", "arm64"))


def arch_of(request: Request, app: App) -> str | None:
    """The node's architecture, ``amd64`` or ``arm64`` for those two; None where nothing says it.

    The board decides where it is a known one; then ``os@arch``, then the machine name that update_engine appends to
    ``os@sp`` (``<version>_<uname -m>``). Nothing is assumed: Nebraska's default of amd64 would send amd64 images to
    whatever does not say what it is.
    """
    arch = _BOARDS.get(app.board)
    if arch is not None:
        return arch
    named = request.os_arch.strip().lower()
    if named:
        return _ARCHES.get(named, named)
    for suffix, arch in _SERVICE_PACK_SUFFIXES:
        if request.os_service_pack.endswith(suffix):
            return arch
    return None


def facts_of(request: Request, app: App) -> dict[str, str]:
    """The node's facts by name. What is empty on the wire is left out: an unknown fact, not an empty one."""
    facts: dict[str, str] = {}
    arch = arch_of(request, app)
    if arch is not None:
        facts["arch"] = arch
    if app.track:
        facts["track"] = app.track
    if app.board:
        facts["board"] = app.board
    if app.oem:
        facts["oem"] = app.oem
    if app.oemversion:
        facts["oemversion"] = app.oemversion
    if app.alephversion:
        facts["alephversion"] = app.alephversion
    if app.machinealias:
        facts["alias"] = app.machinealias
    if request.os_platform:
        facts["platform"] = request.os_platform
    return facts
