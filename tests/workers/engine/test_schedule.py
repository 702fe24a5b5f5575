"""What comes next on the device."""

from hypothesis import given
from hypothesis import strategies as st

from tests.workers.engine.device_parts import loaded
from workers.engine.schedule import (
    ACTIONS_BETWEEN_BATCHES,
    DECODE_STEP,
    MAX_OVERTAKEN,
    Admit,
    DecodeStep,
    Generate,
    Schedule,
    ScheduledItem,
)


def schedule(*items: ScheduledItem, slots: int = 8, budget: int = 100, batch: int = 4) -> Schedule:
    made = Schedule(slots=slots, budget=budget, batch_items=batch)
    made.put(items)
    return made


def slot(tokens: int = 1, *, alone: bool = False, chat: bool = False) -> ScheduledItem:
    return loaded(tokens, alone=alone, chat=chat, in_slot=True)


def test_with_nothing_waiting_active_sequences_go_on() -> None:
    assert schedule().next(0) is None
    assert schedule().next(3) is DECODE_STEP


def test_what_waits_joins_while_others_are_answered() -> None:
    items = [slot() for _ in range(3)]

    assert schedule(*items).next(4) == Admit(items)


def test_no_more_join_than_slots_are_free_or_one_pass_can_take() -> None:
    items = [slot(40) for _ in range(5)]

    assert schedule(*items).next(0) == Admit(items[:2])
    assert schedule(*items, budget=1000).next(5) == Admit(items[:3])


def test_what_costs_more_than_a_pass_should_goes_by_itself() -> None:
    items = [slot(500), slot(1)]

    assert schedule(*items).next(0) == Admit(items[:1])


def test_free_slots_are_refilled_together_if_more_items_are_about_to_arrive() -> None:
    items = [slot() for _ in range(8)]
    made = schedule(*items[:4], slots=32)

    assert made.next(8, expected=5) is DECODE_STEP
    made.put(items[4:])
    assert made.next(30, expected=5) is DECODE_STEP
    assert made.next(8, expected=5) == Admit(items)


def test_the_last_join_as_soon_as_no_more_come() -> None:
    items = [slot() for _ in range(2)]
    made = schedule(*items, slots=32)

    assert made.next(8) == Admit(items)


def test_a_streaming_item_is_scheduled_first_and_at_once() -> None:
    chat = slot(chat=True)
    made = schedule(slot(), slot(), chat, slots=64)

    act = made.next(32, expected=9)

    assert isinstance(act, Admit)
    assert act.items[0] is chat


def test_a_streaming_item_overtakes_items_of_other_owners_a_few_times_only() -> None:
    others = [slot() for _ in range(2)]
    chats = [loaded(1, chat=True, in_slot=True, owner_id=7) for _ in range(MAX_OVERTAKEN + 3)]
    made = schedule(*others, slots=64)

    for chat in chats:
        made.put([chat])

    first, later = chats[:MAX_OVERTAKEN], chats[MAX_OVERTAKEN:]
    assert made.take_all() == [*first, *others, *later]


def test_a_streaming_item_overtakes_all_items_of_its_owner() -> None:
    item, chats = slot(), [slot(chat=True) for _ in range(MAX_OVERTAKEN + 3)]

    assert schedule(item, *chats).take_all() == [*chats, item]


def test_a_suspect_runs_alone_after_all_before_it() -> None:
    before, suspect, after = slot(), slot(alone=True), slot()
    made = schedule(before, suspect, after)

    assert made.next(0) == Admit([before])
    assert made.next(1) is DECODE_STEP
    assert made.next(0) == Admit([suspect])
    assert made.next(1) is DECODE_STEP
    assert made.next(0) == Admit([after])


def test_similar_items_that_no_slot_accepts_share_a_batch() -> None:
    a, b, c = loaded(options="x"), loaded(options="y"), loaded(options="x")
    made = schedule(a, b, c)

    assert made.next(0) == Generate([a, c])
    assert made.next(0) == Generate([b])


def test_batches_and_continuous_batching_take_turns() -> None:
    made = schedule(*(loaded() for _ in range(5)))

    acts = [made.next(3) for _ in range(2 * ACTIONS_BETWEEN_BATCHES + 2)]

    assert [type(act) for act in acts] == 2 * [*[DecodeStep] * ACTIONS_BETWEEN_BATCHES, Generate]


def test_with_no_active_sequences_a_batch_waits_until_it_is_full_or_no_more_items_arrive() -> None:
    made = schedule(*(loaded() for _ in range(3)))

    assert made.next(0, expected=1) is None
    last = loaded()
    made.put([last, loaded()])
    assert isinstance(full := made.next(0, expected=1), Generate)
    assert len(full.items) == 4
    assert made.next(0, expected=1) is None
    assert isinstance(made.next(0), Generate)


def test_streaming_items_keep_their_order_but_wait_for_a_suspect_that_is_due() -> None:
    suspect, first, second = slot(alone=True), slot(chat=True), slot(chat=True)
    made = schedule(suspect)
    made.put([first])
    made.put([second])

    assert made.next(1) is DECODE_STEP
    assert made.next(0) == Admit([suspect])
    assert made.next(0) == Admit([first, second])


def test_the_last_free_slots_are_used_when_no_other_item_waits() -> None:
    items = [slot() for _ in range(2)]

    assert schedule(*items, slots=32).next(30) == Admit(items)


@given(
    st.lists(
        st.builds(
            loaded,
            st.integers(1, 60),
            options=st.sampled_from("ab"),
            alone=st.booleans(),
            chat=st.booleans(),
            in_slot=st.booleans(),
        ),
        max_size=30,
    ),
    st.integers(1, 8),
)
def test_everything_that_waits_has_its_turn_once_and_suspects_have_theirs_alone(
    items: list[ScheduledItem], slots: int
) -> None:
    made = schedule(*items, slots=slots)
    in_slots, turns = list[ScheduledItem](), list[ScheduledItem]()

    for _ in range(10 * len(items) + 1):
        act = made.next(len(in_slots))
        if isinstance(act, Admit | Generate):
            turns += act.items
            assert len({one.lease.options_digest for one in act.items}) == 1 or isinstance(
                act, Admit
            )
            if any(one.runs_alone for one in act.items):
                assert (len(act.items), len(in_slots)) == (1, 0)
        if isinstance(act, Admit):
            in_slots += act.items
        if isinstance(act, DecodeStep):
            in_slots.pop()
        assert len(in_slots) <= slots

    assert sorted(map(id, turns)) == sorted(map(id, items))
    assert len(made) == 0
