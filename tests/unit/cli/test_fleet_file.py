"""Fleet files: what they say, what is wrong with them, and what makes one fleet into another."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cli.fleet_file import (
    DEFAULTS,
    Fleet,
    Noun,
    Thing,
    gate_groups,
    omaha_id_of,
    parse,
    position_of,
    read_policy,
    render,
    ring_of,
    shown,
)
from services.cli.fleet_plan import FieldChange, Step, Verb, difference, merged_order, plan
from shared.errors import InvalidInput

WHOLE = """\
fleet: 1
applications:
  - name: flatcar
    omaha_id: "{E96281A6-D1AF-4BDE-9A0A-97B76E56DC57}"
    channels:
      - {name: beta, archs: [amd64, arm64]}
      - name: stable
        archs: [amd64]
        required_attestations: [kubernetes, containers]
    groups:
      - name: production
        channel: stable
        selector: {site: [one, 3066.10]}
        policy:
          gates: [{groups: [canaries], soak_s: 3600}]
          waves: [{fraction: 0.1, soak_s: 60}, {fraction: 1}]
          windows: {weekly: [{days: [mon], start: 22:00, length_s: 3600}]}
      - name: canaries
        channel: beta
        nodes: [b, a]
        selector: {}
        policy: {allowed_bad_rate: 0.05}
"""


def thing(fleet: Fleet, noun: Noun, name: str) -> Thing:
    return next(each for each in fleet.things if (each.noun, each.name) == (noun, name))


def group(name: str, **fields) -> Thing:
    return Thing(noun=Noun.GROUP, application="os", name=name, fields={**DEFAULTS[Noun.GROUP], **fields})


def application(*groups: Thing) -> Fleet:
    own = Thing(noun=Noun.APPLICATION, application="os", name="os", fields=DEFAULTS[Noun.APPLICATION])
    return Fleet((own, *groups), {"os": tuple(each.name for each in groups)})


def test_values_are_read_by_what_is_expected_in_their_place():
    """A time of day is no number in base 60, a version keeps its digits, and defaults are filled in."""
    fleet = parse(WHOLE, "fleet.yaml")
    production = thing(fleet, Noun.GROUP, "production").fields
    assert production["selector"] == {"site": ["one", "3066.10"]}
    assert production["policy"]["windows"]["weekly"][0]["start"] == "22:00"
    assert production["policy"]["waves"] == [{"fraction": 0.1, "soak_s": 60.0}, {"fraction": 1.0, "soak_s": 0.0}]
    assert set(production["policy"]) == {"gates", "waves", "windows"}
    assert (production["owner"], production["updates_enabled"]) == ("", True)
    assert thing(fleet, Noun.GROUP, "canaries").fields["nodes"] == ["a", "b"]
    assert thing(fleet, Noun.APPLICATION, "flatcar").fields["omaha_id"] == "e96281a6-d1af-4bde-9a0a-97b76e56dc57"
    beta = [each for each in fleet.things if each.name == "beta"]
    assert [(each.arch, each.fields["position"], each.line) for each in beta] == [("amd64", 1, 6), ("arm64", 1, 6)]
    assert fleet.orders == {"flatcar": ("production", "canaries")}


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("selector:", "selektor:", 13, "did you mean 'selector'?"),
        ("waves:", "wawes:", 16, "did you mean 'waves'?"),
        ("soak_s: 60", "soak: 60", 16, "did you mean 'soak_s'?"),
        ("name: canaries", "zzzzzz: canaries", 18, "known are channel, contact"),
        ("channel: beta", "channel: bata", 19, "did you mean 'beta'?"),
        ("[canaries]", "[canarys]", 15, "did you mean 'canaries'?"),
        ("[canaries]", "[production]", 15, "wait for each other (production for production)"),
        ("soak_s: 3600}", "soak_s: long}", 15, "expected `float`"),
        ("fraction: 1}", "fraction: 0.05}", 15, "each must be wider"),
        ("length_s: 3600", "length_s: 1", 17, "expected `float` >= 60"),
        ("[amd64, arm64]", "[amd64, amd64]", 6, "beta (amd64) in line 6 already"),
        ("name: canaries", "name: production", 18, "group production in line 11 already"),
        ("        channel: stable\n", "", 11, "follows nothing"),
        ("fleet: 1", "fleet: 2", 1, "fleet: expected `int` <= 1"),
        ("allowed_bad_rate: 0.05}", "allowed_bad_rate: 0.05, allowed_bad_rate: 0.1}", 22, "given twice"),
        ("selector: {site", "nodes: [a]\n        selector: {site", 21, "in group production already"),
        ("selector: {site: [one, 3066.10]}", "selector: {}", 18, "no node ever comes to group canaries"),
        ("selector: {}", "selector: {a: [b]}\n        explicit_only: true", 21, "no selector"),
        ("selector: {site", "selector: {[site]", 13, "a name must be plain text"),
        ("selector: {site:", "selector: {si\\te:", 13, "selector"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_what_would_be_right(old, new, line, said):
    """One finger on the line, and the nearest known name."""
    text = WHOLE.replace(old, new, 1)
    assert text != WHOLE
    with pytest.raises(InvalidInput) as refused:
        parse(text, "fleet.yaml")
    assert f"fleet.yaml:{line}: " in refused.value.message
    assert said in refused.value.message


def test_all_unknown_names_are_said_at_once():
    """Nobody has to run it once per mistake."""
    with pytest.raises(InvalidInput) as refused:
        parse(WHOLE.replace("selector: {site", "selektor: {site").replace("nodes:", "knots:"), "f")
    assert [line.split(":")[1] for line in refused.value.message.splitlines()] == ["13", "20"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "- a",
        "fleet: 1\x00",
        "&a [*a]",
        "fleet: 1\napplications: &a\n- *a",
        "fleet: " + "[" * 30,
        "fleet: 1\napplications: [" + "x," * 100_001 + "]",
        "# " + "x" * (1024 * 1024),
        "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n"
            for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "fleet: 1\nfleet: !!python/object/apply:os.getcwd []",
    ],
)  # fmt: skip
def test_hostile_files_are_refused(text):
    """Neither depth nor size nor aliases nor tags get anywhere."""
    with pytest.raises(InvalidInput):
        parse(text, "fleet.yaml")


def test_what_is_written_reads_as_the_same():
    """`export`, then `apply`: nothing differs."""
    fleet = parse(WHOLE, "fleet.yaml")
    notes = {thing(fleet, Noun.GROUP, "canaries").key: ["the first", "to know"]}
    text = render(fleet, head=["A fleet."], notes=notes)
    assert text.startswith("# A fleet.\nfleet: 1\n")
    assert "      # to know\n      - name: canaries\n" in text
    assert "archs: [amd64, arm64]" in text
    assert "blackouts" not in text
    assert difference(parse(text, "again"), fleet).nothing
    assert render(Fleet(), notes={}) == "fleet: 1\napplications: []\n"


def test_a_policy_that_this_version_cannot_read_is_written_as_it_is():
    """Newer servers have values that this command does not know."""
    assert read_policy({"newer": 1}) == {"newer": 1}
    text = render(application(group("all", channel="stable", policy={"newer": 1})), notes={})
    assert "newer: 1" in text


def test_channels_that_differ_in_more_than_the_arch_are_written_one_by_one():
    """And an unusual position is told."""
    channels = [
        Thing(noun=Noun.CHANNEL, application="os", name="beta", arch=arch, fields={**DEFAULTS[Noun.CHANNEL], **more})
        for arch, more in [("a", {"position": 1}), ("b", {"position": 7, "required_attestations": ["x"]})]
    ]
    fleet = Fleet((*application().things, *channels), {"os": ()})
    text = render(fleet, notes={})
    assert text.count("- name: beta") == 2
    assert "position: 7" in text
    assert difference(parse(text, "again"), fleet).nothing


def test_names_as_they_are_kept():
    """An Omaha id in lower case without braces; a channel's position by its name."""
    assert (omaha_id_of("{ABC}"), omaha_id_of(None)) == ("abc", None)
    assert [position_of(name, None) for name in ("alpha", "beta", "stable", "lts-2024", "mine")] == [0, 1, 2, 3, 2]
    assert position_of("alpha", 9) == 9


def test_a_new_fleet_is_made_in_an_order_in_which_each_step_is_allowed():
    """Applications, channels, then groups before those whose gates name them; at last the order that was written."""
    steps = plan(difference(parse(WHOLE, "f"), Fleet()))
    assert [step.words for step in steps] == [
        "add application flatcar",
        "add channel flatcar/beta (amd64)",
        "add channel flatcar/beta (arm64)",
        "add channel flatcar/stable (amd64)",
        "add group flatcar/canaries",
        "add group flatcar/production",
        "order the groups of flatcar",
    ]
    assert steps[1].body == {"position": 1}
    assert steps[5].line == 11
    assert steps[5].body["policy"]["gates"][0]["groups"] == ["canaries"]


def test_only_what_differs_is_changed_and_a_value_that_is_gone_is_taken_back():
    """A policy value by itself, with None where the file does not give it any more."""
    live = application(group("a", channel="x", policy={"approval": True, "max_attempts": 2}), group("b", channel="x"))
    wanted = application(
        group("a", channel="x", policy={"approval": True}, owner="us"), group("b", channel="x", updates_enabled=False)
    )
    found = difference(wanted, live)
    assert [change.verb for change in found.changes] == [Verb.SET, Verb.SET]
    assert found.changes[0].fields == (
        FieldChange("owner", "", "us"),
        FieldChange("policy.max_attempts", 2, None),
    )
    assert plan(found)[0].body == {"owner": "us", "policy": {"max_attempts": None}}
    assert difference(live, live).nothing


def test_what_the_file_does_not_name_is_left_alone_and_said():
    """Nothing is taken away without being asked to; with prune groups go, after all that could still name them."""
    some = {"selector": {"oem": ["ami"]}}
    live = application(group("old", channel="x", **some), group("a", channel="x", **some), group("all", channel="x"))
    wanted = application(group("a", channel="x", **some), group("all", channel="x", owner="us"))
    found = difference(wanted, live)
    assert [each.words for each in found.left] == ["group os/old"]
    assert not found.orders
    pruned = difference(wanted, live, prune=True)
    assert [step.words for step in plan(pruned)] == ["set group os/all", "remove group os/old"]
    assert pruned.left == ()
    everything_else = Fleet((Thing(noun=Noun.APPLICATION, application="other", name="other", fields={}),), {})
    assert difference(Fleet(), everything_else, prune=True).nothing


def test_a_group_that_takes_every_node_stays_behind_the_others():
    """Also where the file does not name it."""
    live = application(group("a", channel="x", selector={"oem": ["a"]}), group("all", channel="x"))
    wanted = application(
        group("a", channel="x", selector={"oem": ["a"]}), group("b", channel="x", selector={"oem": ["b"]})
    )
    (order,) = difference(wanted, live).orders
    assert order.after == ("a", "b", "all")


def test_groups_change_places_all_at_once():
    """Where they only go behind the others, adding them is enough."""
    a, b, c = (group(name, channel="x") for name in "abc")
    (step,) = plan(difference(application(b, a), application(a, b)))
    assert (step.body, step.words) == ({"order": ["b", "a"]}, "order the groups of os")
    (added,) = difference(application(a, b, c), application(a, b)).orders
    assert (added.before, added.after) == (("a", "b"), ("a", "b", "c"))
    assert difference(application(a, b), application(a, b)).nothing
    (order,) = difference(application(c, a, b), application(a, b)).orders
    assert order.after == ("c", "a", "b")


@given(st.permutations("abcdef"), st.permutations("abcdefxyz"), st.sets(st.sampled_from("xyz")))
def test_the_merged_order_has_everything_once_and_keeps_the_files_order(wanted, live, last):
    """Whatever stood where."""
    order = merged_order(wanted, live, last=last)
    assert sorted(order) == sorted("abcdefxyz")
    assert [name for name in order if name in wanted] == list(wanted)
    assert set(order[len(order) - len(last) :]) == last


@given(st.dictionaries(st.sampled_from("abcde"), st.lists(st.sampled_from("abcde"), max_size=3)))
def test_a_ring_is_found_where_there_is_one(waits):
    """Each of it waits for the next, the last for the first; without a ring there is an order."""
    ring = ring_of(waits)
    for name, following in zip(ring, [*ring[1:], *ring[:1]], strict=True):
        assert following in waits[name]
    if not ring:
        rest = dict(waits)
        while rest:
            free = [name for name in rest if not set(rest[name]) & rest.keys()]
            assert free
            for name in free:
                del rest[name]


def test_things_have_names_for_people():
    """With the arch where there is one."""
    channel = Thing(noun=Noun.CHANNEL, application="os", name="beta", arch="arm64", fields={})
    assert channel.words == "channel os/beta (arm64)"
    assert dataclasses.replace(channel, noun=Noun.APPLICATION, name="os").words == "application os"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("owner", "", "-"),
        ("pin", None, "-"),
        ("updates_enabled", False, "false"),
        ("selector", {"site": ["one", "two"]}, "{site: [one, two]}"),
        ("policy.waves", [{"fraction": 0.1, "soak_s": 60.0}, {"fraction": 1.0, "soak_s": 0.0}],
         "[{fraction: 0.1, soak_s: 60}, {fraction: 1}]"),
        ("policy.approval", True, "true"),
        ("policy.waves", None, "-"),
        ("policy.newer", [1], "[1]"),
    ],
)  # fmt: skip
def test_values_are_shown_as_the_file_could_have_them(name, value, words):
    """On one line, without what is a default."""
    assert shown(name, value) == words


class Server:
    """Does steps as the server does them, and refuses what it refuses."""

    def __init__(self, fleet: Fleet) -> None:
        self.things = {each.key: dict(each.fields) for each in fleet.things}
        self.orders = {name: list(order) for name, order in fleet.orders.items()}

    def groups(self) -> dict[str, dict]:
        return {key[2]: fields for key, fields in self.things.items() if key[0] is Noun.GROUP}

    def check_gates(self) -> None:
        groups = self.groups()
        waits = {name: gate_groups(fields["policy"]) for name, fields in groups.items()}
        assert all(wanted in groups for names in waits.values() for wanted in names), waits
        assert not ring_of(waits)

    def do(self, step: Step) -> None:
        key = (step.noun, step.application, step.name, step.arch)
        if "order" in step.body:
            assert sorted(step.body["order"]) == sorted(self.orders[step.application])
            self.orders[step.application] = list(step.body["order"])
            return
        if step.verb is Verb.REMOVE:
            del self.things[key]
            self.orders[step.application].remove(step.name)
        else:
            assert (key in self.things) == (step.verb is Verb.SET)
            fields = self.things.setdefault(key, dict(DEFAULTS[step.noun]))
            for name, value in step.body.items():
                merged = {**fields["policy"], **value} if name == "policy" else value
                fields[name] = {of: is_ for of, is_ in merged.items() if is_ is not None} if name == "policy" else value
            if step.noun is Noun.GROUP and step.verb is Verb.ADD:
                assert (Noun.CHANNEL, step.application, fields["channel"], "amd64") in self.things
                order = self.orders[step.application]
                last = order and not self.groups()[order[-1]]["selector"]
                order.insert(len(order) - 1 if last and fields["selector"] else len(order), step.name)
            self.orders.setdefault(step.application, [])
        self.check_gates()

    @property
    def fleet(self) -> Fleet:
        things = tuple(
            Thing(noun=key[0], application=key[1], name=key[2], arch=key[3], fields=fields)
            for key, fields in self.things.items()
        )
        return Fleet(things, {name: tuple(order) for name, order in self.orders.items()})


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """One application, two channels, and groups whose gates wait for others without a ring."""
    own = application().things
    channels = [
        Thing(noun=Noun.CHANNEL, application="os", name=name, arch="amd64", fields={"position": position,
              "required_attestations": draw(st.sampled_from([[], ["k8s"]]))})
        for name, position in (("beta", 1), ("stable", 2))
    ]  # fmt: skip
    ranks = draw(st.lists(st.sampled_from("abcde"), unique=True))
    made = {}
    for number, name in enumerate(ranks):
        policy: dict = {}
        if draw(st.booleans()):
            policy["approval"] = draw(st.booleans())
        if number and draw(st.booleans()):
            policy["gates"] = [{"groups": draw(st.lists(st.sampled_from(ranks[:number]), min_size=1, unique=True))}]
        made[name] = group(
            name, channel=draw(st.sampled_from(["beta", "stable"])), selector={"oem": [name]}, policy=policy,
            owner=draw(st.sampled_from(["", "us"])), nodes=draw(st.sampled_from([[], [f"m-{name}"]])),
        )  # fmt: skip
    order = draw(st.permutations(ranks))
    rest = [group("rest", channel="stable")] if draw(st.booleans()) else []
    groups = [*(made[name] for name in order), *rest]
    fleet = Fleet((*own, *channels, *groups), {"os": tuple(each.name for each in groups)})
    return parse(render(fleet, notes={}), "made")


@settings(max_examples=30)
@given(fleets(), fleets())
def test_any_fleet_becomes_any_other_by_steps_that_are_allowed_each(live, wanted):
    """Whatever stood there: gates name what is there at every step, and afterwards nothing differs."""
    server = Server(live)
    found = difference(wanted, server.fleet, prune=True)
    for step in plan(found):
        server.do(step)
    assert difference(wanted, server.fleet, prune=True).nothing
    assert difference(parse(render(server.fleet, notes={}), "again"), server.fleet, prune=True).nothing


@settings(max_examples=30)
@given(fleets(), fleets())
def test_without_prune_what_the_file_does_not_name_stays_as_it_is(live, wanted):
    """Its values and its place among the others that stay."""
    server = Server(live)
    found = difference(wanted, server.fleet)
    assert all(change.verb is not Verb.REMOVE for change in found.changes)
    left = {each.key: each.fields for each in found.left}
    assert left == {each.key: each.fields for each in live.things if each.key not in {one.key for one in wanted.things}}
