"""Planning migrations: a pure function of what is shipped and what the database has."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.db.migrate import Applied, Phase, fit, in_order, newest_pre, parse_migration, plan, shipped
from shared.errors import MigrationFailed, SchemaMismatch


def files(*names: str):
    return in_order(parse_migration(f"{name}.sql", f"SELECT '{name}'") for name in names)


def applied(*migrations):
    return [
        Applied(
            number=file.number,
            phase=file.phase,
            name=file.name,
            sha256=file.sha256,
            applied_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        )
        for file in migrations
    ]


FOUR = files("0001_pre_one", "0002_pre_two", "0003_post_three", "0004_post_four")


def test_an_empty_database_gets_all_files_in_order():
    """From the first to the last."""
    assert [file.number for file in plan(FOUR, [])] == [1, 2, 3, 4]


def test_what_was_applied_is_left_alone():
    """Only the rest is planned; nothing where nothing is left."""
    assert [file.number for file in plan(FOUR, applied(*FOUR[:3]))] == [4]
    assert plan(FOUR, applied(*FOUR)) == []


def test_a_target_stops_the_plan():
    """At that number; one that is behind already plans nothing."""
    assert [file.number for file in plan(FOUR, applied(FOUR[0]), target=3)] == [2, 3]
    assert plan(FOUR, applied(*FOUR[:3]), target=2) == []
    with pytest.raises(MigrationFailed, match="no migration 0005; the newest is 0004"):
        plan(FOUR, [], target=5)


def test_what_newer_code_applied_is_left_alone():
    """An old release's `migrate` does nothing to a newer database."""
    newer = files("0001_pre_one", "0002_pre_two", "0003_post_three", "0004_post_four", "0005_pre_five")

    assert plan(FOUR, applied(*newer)) == []


def test_a_changed_file_is_refused_by_name():
    """Its checksum tells."""
    changed = [parse_migration("0001_pre_one.sql", "SELECT 'other'"), *FOUR[1:]]

    with pytest.raises(MigrationFailed, match=r"0001_pre_one\.sql was changed after .* 2026-01-02 03:04 UTC"):
        plan(changed, applied(FOUR[0]))


def test_a_renamed_file_is_refused_by_both_names():
    """Renaming hides what a database has."""
    renamed = [parse_migration("0001_pre_uno.sql", FOUR[0].sql), *FOUR[1:]]

    with pytest.raises(MigrationFailed, match=r"0001_pre_uno\.sql was applied under the name 0001_pre_one\.sql"):
        plan(renamed, applied(FOUR[0]))


def test_a_hole_in_the_database_is_refused():
    """What was skipped cannot be made up for behind what came after."""
    with pytest.raises(MigrationFailed, match=r"0002_pre_two\.sql was never applied, though 0003 was"):
        plan(FOUR, applied(FOUR[0], FOUR[2]))


@pytest.mark.parametrize(
    "name",
    [
        "1_pre_x.sql",
        "0001_x.sql",
        "0001_mid_x.sql",
        "0001_pre_.sql",
        "0001_pre_X.sql",
        "0001_pre_a__b.sql",
        "0001_pre_x.txt",
    ],
)
def test_other_names_are_refused(name):
    """By the name, with an example of a right one."""
    with pytest.raises(MigrationFailed, match=f"{name} is no migration's name; it must look like"):
        parse_migration(name, "")


def test_numbers_are_used_once_and_without_gaps():
    """Two branches that took one number see it at once."""
    with pytest.raises(MigrationFailed, match=r"0002_pre_a\.sql and 0002_pre_b\.sql share a number"):
        files("0001_pre_x", "0002_pre_b", "0002_pre_a")
    with pytest.raises(MigrationFailed, match=r"0003_pre_b\.sql comes where number 0002 should"):
        files("0001_pre_x", "0003_pre_b")
    with pytest.raises(MigrationFailed, match=r"0000_pre_b\.sql comes where number 0001 should"):
        files("0000_pre_b")
    with pytest.raises(MigrationFailed, match=r"0002_pre_b\.sql comes where number 0001 should"):
        files("0002_pre_b")


def test_a_compat_header_is_read():
    """The highest counts; words and numbers beyond the file's own are refused."""
    assert parse_migration("0005_post_x.sql", "-- compat: 3\nSELECT 1").compat == 3
    assert parse_migration("0005_post_x.sql", "SELECT 1").compat == 0
    for wrong in ("six", "6", "0", ""):
        with pytest.raises(MigrationFailed, match="must be a number from 1 to 5"):
            parse_migration("0005_post_x.sql", f"-- compat: {wrong}\n")


@pytest.mark.parametrize("statement", ["BEGIN;", "  commit ;", "Begin Transaction;", "START TRANSACTION;", "ROLLBACK;"])
def test_files_that_end_transactions_are_refused(statement):
    """Half a migration must not be committed."""
    with pytest.raises(MigrationFailed, match="in one transaction itself"):
        parse_migration("0001_pre_x.sql", f"SELECT 1;\n{statement}\nSELECT 2;")


def test_blocks_of_plpgsql_are_no_transactions():
    """Their BEGIN has no semicolon."""
    parse_migration(
        "0001_pre_x.sql", "CREATE FUNCTION f() RETURNS void AS $$\nBEGIN\n  RETURN;\nEND;\n$$ LANGUAGE plpgsql;"
    )


def test_code_needs_its_newest_pre_file():
    """What comes after the old code is gone may still be missing."""
    assert newest_pre(FOUR) == 2
    fit(FOUR, version=2, compat_version=0)
    fit(FOUR, version=4, compat_version=4)
    with pytest.raises(SchemaMismatch, match=r"at schema 1, this version needs 2; run `uneventful migrate`"):
        fit(FOUR, version=1, compat_version=0)


def test_old_code_refuses_a_database_that_is_too_new():
    """By the compat version, not by the version."""
    fit(FOUR, version=9, compat_version=4)
    with pytest.raises(SchemaMismatch, match="needs code of schema 5 or newer, this version has 4"):
        fit(FOUR, version=9, compat_version=5)


def test_the_shipped_migrations_are_well_formed():
    """Dense numbers, right names, the first one before the code starts."""
    found = shipped()

    assert [file.number for file in found] == list(range(1, len(found) + 1))
    assert found[0].phase is Phase.PRE


@given(st.integers(0, 4), st.none() | st.integers(0, 4))
def test_planning_twice_ends(done, target):
    """After what was planned is applied, the same plan is empty; together they are a prefix of the files."""
    before = applied(*FOUR[:done])

    todo = plan(FOUR, before, target=target)

    after = [*before, *applied(*todo)]
    assert plan(FOUR, after, target=target) == []
    assert [row.number for row in after] == list(range(1, len(after) + 1))
