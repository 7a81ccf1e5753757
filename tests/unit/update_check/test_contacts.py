"""Naming nodes quickly, where every poll is named."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from services.update_check.contacts import quick_node_id
from shared.domain.identity import node_id_for


@given(st.uuids(), st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=40))
def test_the_quick_way_names_a_node_as_everybody_does(application_id: uuid.UUID, machine_id: str) -> None:
    """Contacts must go to the row that reports made."""
    quick = quick_node_id(application_id, machine_id)
    assert quick == node_id_for(application_id, machine_id)
    assert hash(quick) == hash(node_id_for(application_id, machine_id))
