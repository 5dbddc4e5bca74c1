from __future__ import annotations

import pytest

from llamatelemetry.errors import IntegrityError, InvalidValueError
from llamatelemetry.inference.slots import SlotTable
from llamatelemetry.inference.tokens import pack_tokens


def held(*contents: list[int] | None) -> SlotTable:
    """A table whose slots hold these, slot 0 vacated first."""
    table = SlotTable(len(contents))
    for slot in range(len(contents)):
        table.occupy(slot)
    for slot, content in enumerate(contents):
        table.vacate(slot, None if content is None else pack_tokens(content))
    return table


def test_the_slot_that_holds_the_longest_prefix_is_chosen() -> None:
    table = held([1, 2, 9], [1, 2, 3, 9], [1], [7, 7])
    assert table.choose(pack_tokens([1, 2, 3, 4])) == (1, 3)


def test_of_equal_prefixes_the_slot_used_least_recently_is_chosen() -> None:
    table = held([1, 2, 9], [1, 2, 8], [1, 2, 7])
    table.occupy(0)
    table.vacate(0, pack_tokens([1, 2, 9]))
    assert table.choose(pack_tokens([1, 2, 3])) == (1, 2)


def test_a_prompt_nobody_knows_goes_to_the_slot_used_least_recently() -> None:
    table = held([1], [2], [3])
    assert table.choose(pack_tokens([9])) == (0, 0)
    assert table.choose(None) == (0, 0)
    assert table.choose(pack_tokens([])) == (0, 0)


def test_an_occupied_slot_is_not_on_offer_and_forgets_what_it_held() -> None:
    table = held([1, 2], [5])
    table.occupy(0)
    assert table.busy(0) == 1
    assert table.choose(pack_tokens([1, 2])) == (1, 0)
    table.vacate(0, None)
    assert table.longest_prefix(pack_tokens([1, 2])) == 0


def test_a_slot_may_hold_more_or_less_than_the_prompt() -> None:
    table = held([1, 2, 3, 4, 5], [6])
    assert table.choose(pack_tokens([1, 2])) == (0, 2)
    assert table.choose(pack_tokens([6, 6, 6])) == (1, 1)


def test_a_prefix_that_is_not_longer_than_asked_for_is_none() -> None:
    table = held([1, 2, 3])
    assert table.know_prefixes
    assert table.longest_prefix(pack_tokens([1, 2, 3, 4]), 2) == 3
    assert table.longest_prefix(pack_tokens([1, 2, 3, 4]), 3) == 0


def test_slots_given_or_taken_twice_are_noticed() -> None:
    table = SlotTable(1)
    with pytest.raises(IntegrityError, match="vacated twice"):
        table.vacate(0, None)
    table.occupy(0)
    with pytest.raises(IntegrityError, match="was occupied and is not on offer"):
        table.occupy(0)
    with pytest.raises(IntegrityError, match="none is idle"):
        table.choose(None)
    with pytest.raises(IntegrityError):
        table.vacate(1, None)


def test_a_backend_without_slots_is_refused() -> None:
    with pytest.raises(InvalidValueError):
        SlotTable(0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda table: table._by_content.pop(),
        lambda table: table._by_content.reverse(),
        lambda table: table._offers.pop(),
        lambda table: table._idle[0].pop(0),
        lambda table: table._idle[0].move_to_end(0),
        lambda table: table._idle[0].__setitem__(1, -1),
    ],
)
def test_damaged_books_are_noticed(damage) -> None:
    table = held([1, 2], [5])
    table.check_integrity()
    damage(table)
    with pytest.raises(IntegrityError):
        table.check_integrity()


def test_with_nothing_known_the_least_busy_group_is_chosen() -> None:
    table = SlotTable(4, 2)
    taken = []
    for _ in range(6):
        slot, _ = table.choose(None)
        table.occupy(slot)
        taken.append(table.group_of[slot])
    assert taken == [0, 1, 0, 0, 1, 0]
    assert [table.busy(0), table.busy(1)] == [4, 2]


def test_a_known_prefix_outweighs_a_busier_group_and_load_decides_between_equals() -> None:
    table = SlotTable(2, 2)
    for slot in range(4):
        table.occupy(slot)
    table.vacate(1, pack_tokens([1, 2, 3]))
    table.vacate(3, pack_tokens([1, 2, 4]))
    table.vacate(2, pack_tokens([9]))
    assert table.choose(pack_tokens([1, 2, 3, 5])) == (1, 3)
    assert table.choose(pack_tokens([1, 2, 7])) == (3, 2)


def test_where_a_slot_will_not_do_each_other_group_offers_one_the_least_busy_first() -> None:
    table = SlotTable(2, 4, 3, 1)
    for slot in (2, 6, 7, 9):
        table.occupy(slot)
    assert list(table.others(0)) == [3, 8]
    assert table.choose(None) == (0, 0)


def test_a_table_with_nothing_on_offer_says_so() -> None:
    table = SlotTable(1, 1)
    assert table.idle
    table.withdraw(0)
    table.occupy(1)
    assert not table.idle
    table.restore(0)
    assert table.idle


def test_a_withdrawn_group_is_not_on_offer_and_comes_back_knowing_nothing() -> None:
    table = SlotTable(1, 2)
    table.occupy(1)
    table.occupy(2)
    table.vacate(2, pack_tokens([1, 2, 3]))
    table.withdraw(1)
    table.vacate(1, pack_tokens([1, 2, 3]))
    assert table.choose(pack_tokens([1, 2, 3])) == (0, 0)
    with pytest.raises(IntegrityError):
        table.occupy(1)
    table.check_integrity()
    table.restore(1)
    assert sorted([table.choose(None)[0], *table.others(table.choose(None)[0])]) == [0, 2]
    assert table.longest_prefix(pack_tokens([1, 2, 3])) == 0
    table.check_integrity()
