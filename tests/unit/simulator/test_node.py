"""A node says what update_engine says, in update_engine's order, at update_engine's times."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from services.simulator.fates import Fate
from services.simulator.node import (
    CheckResult,
    Download,
    DownloadDone,
    Effect,
    Elapsed,
    Expects,
    Input,
    Node,
    NodeState,
    Off,
    Outcome,
    Reboot,
    Response,
    Sabotage,
    Send,
    Span,
    Timing,
    Wait,
)
from services.simulator.wire import Arch, Identity

OLD = "3033.2.0"
NEW = "3033.2.1"
MACHINE = "06fe98d2a89248b6a2542ef2bcb8c16a"
SHA256 = "stLG3U/o4Ar8TMHFwT/RWB0iNkaWOO6QtLrq6+AHBbA="

NO_UPDATE = Response(200, b'<response><app><updatecheck status="noupdate"></updatecheck></app></response>')
OFFER = Response(
    200,
    (
        '<?xml version="1.0" encoding="UTF-8"?>\n<response protocol="3.0" server="x"><app appid="a" status="ok">'
        '<updatecheck status="ok"><urls><url codebase="http://127.0.0.1/a/"></url>'
        '<url codebase="http://127.0.0.1/b"></url></urls>'
        f'<manifest version="{NEW}"><packages><package name="update.gz" size="1234" required="true"></package>'
        f'</packages><actions><action event="postinstall" sha256="{SHA256}" DisablePayloadBackoff="true"></action>'
        "</actions></manifest></updatecheck></app></response>"
    ).encode(),
)
IGNORED = Response(200, b"")


def check_bytes(version: str, boot_id: str, event: str) -> bytes:
    """An update check, as update_engine 0.4.10 writes it."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<request protocol="3.0" version="update_engine-0.4.10" updaterversion="update_engine-0.4.10" installsource="scheduler" ismachine="1">
    <os version="Chateau" platform="CoreOS" sp="{version}_x86_64"></os>
    <app appid="{{e96281a6-d1af-4bde-9a0a-97b76e56dc57}}" version="{version}" track="stable" bootid="{{{boot_id}}}" oem="ami" oemversion="" alephversion="3510.2.0" machineid="06fe98d2a89248b6a2542ef2bcb8c16a" machinealias="" lang="en-US" board="amd64-usr" hardware_class="" delta_okay="false" >
        <ping active="1"></ping>
        <updatecheck></updatecheck>
        {event}
    </app>
</request>
""".encode()  # noqa: E501


def one_line_bytes(version: str, boot_id: str, line: str) -> bytes:
    """A message with nothing but an event, or nothing but a ping."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<request protocol="3.0" version="update_engine-0.4.10" updaterversion="update_engine-0.4.10" installsource="scheduler" ismachine="1">
    <os version="Chateau" platform="CoreOS" sp="{version}_x86_64"></os>
    <app appid="{{e96281a6-d1af-4bde-9a0a-97b76e56dc57}}" version="{version}" track="stable" bootid="{{{boot_id}}}" oem="ami" oemversion="" alephversion="3510.2.0" machineid="06fe98d2a89248b6a2542ef2bcb8c16a" machinealias="" lang="en-US" board="amd64-usr" hardware_class="" delta_okay="false" >
        {line}
    </app>
</request>
""".encode()  # noqa: E501


def result(event_type: int, event_result: int, error: int | None = None) -> str:
    code = "" if error is None else f' errorcode="{error}"'
    return f'<event eventtype="{event_type}" eventresult="{event_result}"{code}></event>'


def previous(version: str) -> str:
    return f'<event eventtype="3" eventresult="2" previousversion="{version}"></event>'


PING = '<ping active="1"></ping>'
STEADY = previous("")
ROLLBACK = result(3, 0, 44)


class Play:
    """Steps one node and keeps what it did, so that a test reads as a list of what happened."""

    def __init__(
        self, fate: Fate = Fate.GOOD, *, seed: int = 1, timing: Timing | None = None, first_ever: bool = False
    ) -> None:
        self.node = Node(
            Identity(machine_id=MACHINE, aleph_version="3510.2.0", oem="ami"),
            OLD,
            fate_of=lambda _version: fate,
            rng=random.Random(seed),
            timing=timing,
            first_ever=first_ever,
        )
        self.effect: Effect = self.node.start()
        self.waits: list[float] = []

    def step(self, given: Input) -> Effect:
        self.effect = self.node.step(given)
        return self.effect

    def pass_time(self) -> Effect:
        """Lets waits and reboots pass until the node does something else."""
        while isinstance(self.effect, Wait | Reboot):
            self.waits.append(self.effect.seconds)
            self.step(Elapsed())
        return self.effect

    def sent(self) -> str:
        """The next message's event (or ping), after checking every other byte of it."""
        effect = self.pass_time()
        assert isinstance(effect, Send)
        lines = effect.body.decode().splitlines()
        line = lines[-3].strip()
        if effect.expects is Expects.CHECK:
            assert effect.body == check_bytes(self.node.version, self.node.boot_id, line)
        else:
            assert effect.body == one_line_bytes(self.node.version, self.node.boot_id, line)
            assert (line == PING) == (effect.expects is Expects.PING)
        return line

    def answer(self, response: Response) -> str:
        """The next message's event, which is then answered."""
        line = self.sent()
        self.step(response)
        return line

    def take_offer(self) -> Download:
        """From the next check to the download, with an honest node."""
        self.answer(OFFER)
        assert self.answer(IGNORED) == result(13, 1)
        assert isinstance(self.effect, Download)
        return self.effect

    def stage(self) -> None:
        self.take_offer()
        self.step(DownloadDone())
        assert self.answer(IGNORED) == result(14, 1)
        assert self.answer(IGNORED) == result(3, 1)


def test_a_good_update_byte_for_byte():
    """Check, 13/1, 14/1, 3/1 on the old version and boot; then 3/2 with the old version on the new ones."""
    play = Play(first_ever=True)
    first_boot = play.node.boot_id
    assert play.answer(NO_UPDATE) == previous("0.0.0.0")
    assert play.answer(NO_UPDATE) == STEADY
    assert play.answer(OFFER) == STEADY
    assert play.node.state is NodeState.DOWNLOADING
    assert play.answer(IGNORED) == result(13, 1)
    assert play.effect == Download("http://127.0.0.1/a/update.gz", 1234, SHA256)
    play.step(DownloadDone())
    assert play.answer(Response(None)) == result(14, 1)
    assert play.answer(Response(500)) == result(3, 1), "events are sent once, whatever the answer"
    assert play.node.state is NodeState.REBOOTING
    assert play.sent() == previous(OLD)
    assert (play.node.version, play.node.last_outcome) == (NEW, Outcome.COMMITTED)
    assert play.node.boot_id != first_boot
    play.step(NO_UPDATE)
    assert play.answer(NO_UPDATE) == STEADY


def test_a_rollback_byte_for_byte():
    """A node that comes back on the old version says 3/0 with a bare 44, once, in a new boot."""
    play = Play(Fate.ROLLS_BACK)
    play.stage()
    boot = play.node.boot_id
    assert play.sent() == ROLLBACK
    assert (play.node.version, play.node.last_outcome) == (OLD, Outcome.ROLLED_BACK)
    assert play.node.boot_id != boot
    play.step(OFFER)
    assert play.node.state is NodeState.DOWNLOADING, "the report rides on a check, which may be answered with an offer"


def test_pings_while_waiting_for_the_reboot():
    """A staged node sends nothing but pings, every 45 ± 5 minutes, until it reboots."""
    play = Play(timing=Timing(reboot_after=Span(4 * 3600, 4 * 3600)))
    play.stage()
    assert play.node.state is NodeState.STAGED
    play.waits.clear()
    pings = 0
    while play.sent() == PING:
        pings += 1
        play.step(OFFER)  # a ping's answer is not read
        assert play.node.state in {NodeState.STAGED, NodeState.REBOOTING}
    assert pings in {4, 5, 6}
    assert all(2400 <= wait <= 3000 for wait in play.waits[:pings])
    assert play.sent() == previous(OLD)


def test_the_poll_interval_of_an_offer_holds_for_the_first_ping_only():
    """PollInterval is not persisted, and a ping's answer is not read."""
    play = Play(timing=Timing(reboot_after=Span(20 * 3600, 20 * 3600)))
    body = OFFER.body.replace(b'<updatecheck status="ok"', b'<updatecheck PollInterval="14400" status="ok"')
    play.answer(Response(200, body))
    play.answer(IGNORED)
    play.step(DownloadDone())
    play.answer(IGNORED)
    play.answer(IGNORED)
    play.waits.clear()
    assert play.answer(IGNORED) == PING
    assert play.answer(IGNORED) == PING
    assert 7200 <= play.waits[0] <= 21600
    assert 2400 <= play.waits[1] <= 3000


def test_the_marker_is_cleared_before_sending():
    """A report whose request is answered with an error is lost for good."""
    play = Play(Fate.ROLLS_BACK)
    play.stage()
    assert play.answer(Response(503)) == ROLLBACK
    assert play.answer(IGNORED) == result(3, 0, 268437959), "the failed check is reported at once"
    assert play.answer(NO_UPDATE) == STEADY


def test_an_unanswered_check_is_sent_again_three_times_at_ten_seconds():
    """The same bytes, four times in all; then an error event, which is not repeated."""
    play = Play(Fate.GOOD)
    play.stage()
    bodies = []
    for _ in range(4):
        play.waits.clear()
        assert play.sent() == previous(OLD)
        assert isinstance(play.effect, Send)
        bodies.append(play.effect.body)
        play.step(Response(None))
        assert play.node.last_check is not CheckResult.NO_UPDATE
    assert len(set(bodies)) == 1
    assert play.waits == [10]
    assert play.answer(Response(None)) == result(3, 0, 2000 | 1 << 28)
    play.waits.clear()
    assert play.answer(NO_UPDATE) == STEADY
    assert 2400 <= play.waits[0] <= 3000


@pytest.mark.parametrize("fate", [Fate.LOSES_REPORT, Fate.LOSES_ROLLBACK_REPORT])
def test_a_lost_report_is_never_sent(fate):
    """All of the check that carries the report is lost; the next one says nothing new."""
    play = Play(fate)
    play.stage()
    for _ in range(4):
        assert play.sent() == (previous(OLD) if fate is Fate.LOSES_REPORT else ROLLBACK)
        assert isinstance(play.effect, Send)
        assert play.effect.lost
        play.step(Response(None))
    assert isinstance(play.effect, Send)
    assert play.effect.lost
    play.step(Response(None))
    assert play.sent() == STEADY
    assert not play.effect.lost
    assert play.node.version == (NEW if fate is Fate.LOSES_REPORT else OLD)


def test_a_silent_node_never_comes_back():
    """After its reboot there is nothing any more."""
    play = Play(Fate.SILENT)
    play.stage()
    assert play.pass_time() == Off()
    assert play.node.state is NodeState.OFF
    with pytest.raises(RuntimeError):
        play.step(Elapsed())


@pytest.mark.parametrize(
    ("fate", "sabotage", "error", "reported"),
    [
        (Fate.FAILS_TO_DOWNLOAD, Sabotage.BREAKS_OFF, 9, 268435465),
        (Fate.CORRUPT, Sabotage.CORRUPT, 10, 268435466),
        (Fate.GOOD, Sabotage.NONE, 2403, 268437859),
    ],
)
def test_a_failed_download_is_reported_with_flag_bits(fate, sabotage, error, reported):
    """No 14/1, an error event with the private-server flag, and the next check in 45 ± 5 minutes."""
    play = Play(fate)
    assert play.take_offer().sabotage is sabotage
    play.step(DownloadDone(error))
    assert play.answer(IGNORED) == result(3, 0, reported)
    assert play.node.state is NodeState.IDLE
    play.waits.clear()
    assert play.answer(NO_UPDATE) == STEADY
    assert 2400 <= play.waits[0] <= 3000


def test_a_broken_payload_switches_to_the_next_url():
    """A hash mismatch takes the next URL at once, a transfer error only after ten."""
    play = Play()
    assert play.take_offer().url == "http://127.0.0.1/a/update.gz"
    play.step(DownloadDone(10))
    play.answer(IGNORED)
    for _ in range(10):
        assert play.take_offer().url == "http://127.0.0.1/b/update.gz"
        play.step(DownloadDone(9))
        play.answer(IGNORED)
    assert play.take_offer().url == "http://127.0.0.1/a/update.gz"


def test_payload_back_off_defers_with_code_40():
    """Unless the server disables it, a payload that failed to boot is not tried again for about a day."""
    play = Play(Fate.ROLLS_BACK)
    body = OFFER.body.replace(b' DisablePayloadBackoff="true"', b"")
    play.answer(Response(200, body))
    play.answer(IGNORED)
    play.step(DownloadDone())
    play.answer(IGNORED)
    play.answer(IGNORED)
    assert play.answer(Response(200, body)) == ROLLBACK
    deferred = 0
    while play.sent() != result(13, 1):
        assert play.sent() in {STEADY, result(3, 9, 268435496)}
        deferred += play.sent() != STEADY
        play.step(Response(200, body))
    assert 22 <= deferred <= 45, "one day ± 6 hours of checks every 45 minutes"


def test_a_liar_repeats_itself_and_swaps_the_order():
    """14 before 13, 3/1 before 14, all of it twice, and the old 3/2 again in the same boot."""
    play = Play(Fate.LIES)
    play.answer(OFFER)
    lines = []
    while not isinstance(play.effect, Download):
        lines.append(play.answer(IGNORED))
        play.pass_time()
    play.step(DownloadDone())
    while play.node.state is NodeState.DOWNLOADING:
        lines.append(play.answer(IGNORED))
    done, started, complete = result(14, 1), result(13, 1), result(3, 1)
    assert lines == [done, started, complete, done, complete, started, complete]
    assert play.answer(NO_UPDATE) == previous(OLD)
    boot = play.node.boot_id
    assert play.answer(NO_UPDATE) == previous(OLD)
    assert play.answer(NO_UPDATE) == STEADY
    assert play.node.boot_id == boot


def test_a_reset_before_the_reboot_looks_like_a_rollback_in_the_same_boot():
    """Error 44 with an unchanged boot id; the next try at the same version is a good one."""
    play = Play(Fate.RESETS_STATUS)
    play.stage()
    boot = play.node.boot_id
    assert play.sent() == ROLLBACK
    assert play.node.boot_id == boot
    assert play.node.last_outcome is Outcome.RESET
    play.step(NO_UPDATE)
    play.stage()
    assert play.sent() == previous(OLD)
    assert play.node.version == NEW


def test_times_between_checks():
    """7 ± 5 minutes after the boot, then 45 ± 5; 500 and 503 double up to 4 hours, with fuzz; 502 does not."""
    for seed in range(30):
        play = Play(seed=seed)
        spans: list[tuple[Response, float, float]] = [
            (NO_UPDATE, 120, 720),
            (NO_UPDATE, 2400, 3000),
            (Response(500), 2400, 3000),
            (Response(503), 2700, 8100),
            (Response(503), 5400, 16200),
            (Response(503), 7200, 21600),
            (Response(502), 7200, 21600),
            (NO_UPDATE, 2400, 3000),
        ]
        for response, low, high in spans:
            play.waits.clear()
            play.sent()
            assert low <= play.waits[0] <= high
            play.step(response)
            if response.status != 200:
                assert play.answer(IGNORED) == result(3, 0, 2000 + (response.status or 0) | 1 << 28)


def test_arm64_says_so():
    """The board and the machine name follow the architecture."""
    node = Node(
        Identity(machine_id=MACHINE, aleph_version=OLD, arch=Arch.ARM64),
        OLD,
        fate_of=lambda _version: Fate.GOOD,
        rng=random.Random(1),
    )
    node.start()
    send = node.step(Elapsed())
    assert isinstance(send, Send)
    assert b'sp="3033.2.0_aarch64"' in send.body
    assert b'board="arm64-usr"' in send.body


@pytest.mark.parametrize(
    "step",
    [
        lambda play: play.step(Response(200)),
        lambda play: (play.sent(), play.step(Elapsed())),
        lambda play: (play.take_offer(), play.step(Elapsed())),
    ],
    ids=["waiting", "sending", "downloading"],
)
def test_a_result_of_the_wrong_kind_is_refused(step: Callable[[Play], object]):
    """A runner that mixes nodes up is told at once."""
    with pytest.raises(TypeError):
        step(Play())
