"""Settings: read from the environment, refused by name."""

from __future__ import annotations

import copy
import enum
from pathlib import Path
from typing import Annotated

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import SettingsInvalid
from shared.settings import LogLevel, Secret, ServiceSettings, describe, load

URL = {"UNEVENTFUL_DATABASE_URL": "postgresql://u:hunter2@db/x"}


class Bus(enum.StrEnum):
    AUTO = "auto"
    NONE = "none"


class Settings(ServiceSettings, frozen=True, kw_only=True):
    """An example."""

    pace: Annotated[int, msgspec.Meta(ge=1, le=10, description="How many at once.")]
    ratio: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    strict: bool = True
    bus: Bus = Bus.AUTO
    names: tuple[str, ...] = ("a", "b")
    numbers: Annotated[tuple[int, ...], msgspec.Meta(max_length=3)] = ()
    suffix: Annotated[str, msgspec.Meta(pattern="^[a-z]*$", max_length=8)] = ""
    store: Path = Path("/var/lib/uneventful")
    token: Secret | None = None
    limit: Annotated[int | None, msgspec.Meta(description="Not set: none.")] = None


def read(**environ: str) -> Settings:
    return load(Settings, {**URL, "UNEVENTFUL_PACE": "3", **{f"UNEVENTFUL_{k}": v for k, v in environ.items()}})


def faults(environ: dict[str, str], kind: type = Settings) -> tuple[str, ...]:
    with pytest.raises(SettingsInvalid) as caught:
        load(kind, environ)
    return caught.value.faults


def test_values_come_from_the_environment_and_defaults_from_the_class():
    """Each field has its type; what is not set has its default."""
    settings = read(PORT="8080", RATIO=" 0.25 ", BUS="none", LOG_LEVEL="WARNING", STORE="/x", LIMIT="4")

    assert settings.pace == 3
    assert settings.port == 8080
    assert settings.ratio == 0.25
    assert settings.bus is Bus.NONE
    assert settings.log_level is LogLevel.WARNING
    assert settings.store == Path("/x")
    assert settings.limit == 4
    assert settings.host == settings.status_host == "127.0.0.1"
    assert settings.amqp_url is None
    assert settings.database_url.reveal() == "postgresql://u:hunter2@db/x"


@pytest.mark.parametrize(
    ("word", "value"),
    [("true", True), ("TRUE", True), ("1", True), ("false", False), ("False", False), ("0", False)],
)
def test_bool_words(word, value):
    """True, false, 1 and 0, in any case."""
    assert read(STRICT=word).strict is value


@pytest.mark.parametrize("word", ["yes", "on", "2", "tru"])
def test_other_bool_words_are_refused(word):
    """Nothing is guessed."""
    (fault,) = faults({**URL, "UNEVENTFUL_PACE": "3", "UNEVENTFUL_STRICT": word})

    assert fault == f"UNEVENTFUL_STRICT is {word!r}; expected true | false"


def test_lists_are_split_at_commas():
    """Spaces around and empty parts do not count."""
    settings = read(NAMES="x, y ,,z", NUMBERS="1,2")

    assert settings.names == ("x", "y", "z")
    assert settings.numbers == (1, 2)


def test_a_variable_set_to_nothing_counts_as_not_set():
    """Compose files pass `${NAME:-}`."""
    assert read(AMQP_URL="", PORT="").amqp_url is None
    assert faults({**URL, "UNEVENTFUL_PACE": ""})[0].startswith("UNEVENTFUL_PACE is missing")


def test_all_faults_are_listed_at_once_by_name():
    """One start tells everything that is wrong."""
    found = faults(
        {
            "UNEVENTFUL_PACE": "11",
            "UNEVENTFUL_RATIO": "1.0",
            "UNEVENTFUL_PORT": "70000",
            "UNEVENTFUL_BUS": "kafka",
            "UNEVENTFUL_NUMBERS": "1,2,3,4",
            "UNEVENTFUL_SUFFIX": "A",
            "UNEVENTFUL_LIMIT": "many",
            "UNEVENTFUL_PROT": "1",
            "UNEVENTFUL_QQQQQQQQQQ": "1",
            "OTHER_THING": "1",
        }
    )

    assert [fault.split()[0] for fault in found] == [
        "UNEVENTFUL_DATABASE_URL",
        "UNEVENTFUL_PORT",
        "UNEVENTFUL_PACE",
        "UNEVENTFUL_RATIO",
        "UNEVENTFUL_BUS",
        "UNEVENTFUL_NUMBERS",
        "UNEVENTFUL_SUFFIX",
        "UNEVENTFUL_LIMIT",
        "UNEVENTFUL_PROT",
        "UNEVENTFUL_QQQQQQQQQQ",
    ]
    assert "UNEVENTFUL_PACE is '11'; expected integer (1..10): How many at once." in found
    assert "UNEVENTFUL_RATIO is '1.0'; expected number (over 0..under 1)" in found
    assert "UNEVENTFUL_BUS is 'kafka'; expected auto | none" in found
    assert "UNEVENTFUL_PROT is no setting of this program; did you mean UNEVENTFUL_PORT?" in found
    assert "UNEVENTFUL_QQQQQQQQQQ is no setting of this program; take it out" in found


def test_a_secret_does_not_show_itself():
    """Neither alone, nor inside settings, nor in JSON made by orjson or msgspec."""
    secret = Secret("hunter2")

    assert repr(secret) == str(secret) == f"{secret}" == f"{secret:>20}" == "***"
    assert "hunter2" not in repr(read())
    assert orjson.dumps({"url": secret}, default=str) == b'{"url":"***"}'
    with pytest.raises(TypeError):
        orjson.dumps(secret)
    with pytest.raises(TypeError):
        msgspec.json.encode(read())


def test_secrets_compare_by_value():
    """Equal values are equal, also as keys; an empty one is false."""
    assert Secret("a") == Secret("a") == copy.copy(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert not Secret("")


def test_a_secret_of_the_wrong_form_is_not_in_the_fault():
    """A fault names the variable, never a secret's value."""

    class Odd(msgspec.Struct, frozen=True, kw_only=True):
        codes: tuple[Secret, ...] = ()
        pin: Annotated[Secret | None, msgspec.Meta(description="A pin.")] = None

    assert load(Odd, {"UNEVENTFUL_CODES": "x,y"}).codes == (Secret("x"), Secret("y"))
    assert load(Odd, {"UNEVENTFUL_PIN": "1"}).pin == Secret("1")


def test_a_value_can_come_from_a_file(tmp_path):
    """The newline at its end does not count."""
    path = tmp_path / "url"
    path.write_text("postgresql://from-file\n")

    settings = load(Settings, {"UNEVENTFUL_DATABASE_URL_FILE": str(path), "UNEVENTFUL_PACE": "1"})

    assert settings.database_url == Secret("postgresql://from-file")


def test_faults_of_files_are_named(tmp_path):
    """Missing, too large, not text, and set twice."""
    large = tmp_path / "large"
    large.write_bytes(b"x" * 70_000)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    pace = {"UNEVENTFUL_PACE": "1"}

    def fault(**environ: str) -> str:
        (only,) = faults({**pace, **{f"UNEVENTFUL_{k}": v for k, v in environ.items()}})
        return only

    assert "cannot be read: No such file" in fault(DATABASE_URL_FILE=str(tmp_path / "none"))
    assert "larger than 65536 bytes" in fault(DATABASE_URL_FILE=str(large))
    assert "not UTF-8" in fault(DATABASE_URL_FILE=str(binary))
    assert "both set" in fault(DATABASE_URL_FILE=str(large), DATABASE_URL="x")


def test_a_field_whose_name_ends_in_file_is_itself():
    """`ready_file` is no file to read a setting from."""
    assert read(READY_FILE="/run/ready").ready_file == "/run/ready"


def test_another_prefix():
    """What begins with another prefix is nobody's business."""

    class Small(msgspec.Struct, frozen=True, kw_only=True):
        port: int = 1

    assert load(Small, {"X_PORT": "2", "UNEVENTFUL_JUNK": "1"}, prefix="X_").port == 2


def test_describe_says_everything_about_a_setting():
    """Name, type, default, bounds and sentence, for help and reference."""
    docs = {doc.name: doc for doc in describe(Settings)}

    pace = docs["UNEVENTFUL_PACE"]
    assert (pace.type, pace.default, pace.required, pace.bounds, pace.doc) == (
        "integer",
        None,
        True,
        "1..10",
        "How many at once.",
    )
    assert docs["UNEVENTFUL_DATABASE_URL"].type == "secret"
    assert docs["UNEVENTFUL_BUS"].type == "auto | none"
    assert docs["UNEVENTFUL_BUS"].default == "auto"
    assert docs["UNEVENTFUL_STRICT"].default == "true"
    assert docs["UNEVENTFUL_NAMES"].type == "text, ... (comma-separated)"
    assert docs["UNEVENTFUL_NAMES"].default == "a,b"
    assert docs["UNEVENTFUL_SUFFIX"].bounds == "length ..8, matches ^[a-z]*$"
    assert docs["UNEVENTFUL_LIMIT"].default is None
    assert docs["UNEVENTFUL_STORE"].type == "path"


def test_every_common_setting_has_a_sentence():
    """The reference has no blank line."""
    assert all(doc.doc.endswith(".") for doc in describe(ServiceSettings))


def test_settings_are_frozen():
    """What was read once stays."""
    with pytest.raises(AttributeError):
        read().port = 3  # type: ignore[misc]


def test_a_default_factory_counts_as_a_default():
    """Lists, which msgspec copies for each instance, are described too."""

    class Lists(msgspec.Struct, frozen=True, kw_only=True):
        names: list[str] = msgspec.field(default_factory=lambda: ["a"])

    assert load(Lists, {}).names == ["a"]
    assert describe(Lists)[0].default == "a"


def test_a_type_that_has_no_form_in_text_is_a_bug():
    """It is no fault of the environment."""

    class Odd(msgspec.Struct, frozen=True, kw_only=True):
        clock: object = None
        thing: complex = 0j

    with pytest.raises(NotImplementedError):
        load(Odd, {"UNEVENTFUL_THING": "1"})


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from([doc.name for doc in describe(Settings)]), st.text(max_size=20)))
def test_no_text_breaks_the_reading(environ):
    """Whatever the variables hold, they are read or refused by name; nothing else is raised."""
    try:
        found = load(Settings, environ)
    except SettingsInvalid as error:
        assert all(fault.startswith("UNEVENTFUL_") for fault in error.faults)  # noqa: PT017  # both ways are right
    else:
        assert 1 <= found.pace <= 10
