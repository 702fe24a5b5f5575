"""One thing at a time on the device, less of it when it does not fit, and whose fault it was."""

import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.vocabulary.errors import EngineError, IdefiqError, OutOfMemory
from tests.servers import PATIENCE_SECONDS
from tests.workers.engine.device_parts import Run, SmallFamily, SmallSlots, ends, loaded
from workers.engine.schedule import ScheduledItem
from workers.families.base import Answer, Prepared, SlotFull


class TestGenerate:
    def test_a_batch_that_does_not_fit_is_halved_until_it_does(self) -> None:
        family = SmallFamily(fits=2)

        assert ends(family, *(loaded(1) for _ in range(8))) == ["1"] * 8
        assert family.ran == [8, 4, 2, 2, 2, 2]

    def test_a_size_that_did_not_fit_is_not_tried_again(self) -> None:
        family = SmallFamily(fits=20)
        run = Run(family)

        for _ in range(3):
            batch = [loaded(8) for _ in range(4)]
            run.put(batch)
            run.ends(batch)
        run.device.close()

        assert family.ran == [4, 2, 2, 2, 2, 2, 2]

    def test_a_batch_begins_when_the_last_item_that_it_could_wait_for_has_failed(self) -> None:
        family = SmallFamily(fits=9)
        run = Run(family)
        failing, *others = (loaded(1) for _ in range(3))

        run.prepare([failing])
        run.put(others)
        run.fail([failing])

        assert run.ends(others) == ["1", "1"]
        assert family.ran == [2]
        run.device.close()

    def test_an_item_that_does_not_fit_even_alone_fails_alone(self) -> None:
        said = ends(SmallFamily(fits=4), loaded(1), loaded(9), loaded(2))

        assert said == ["1", OutOfMemory.code, "2"]

    @pytest.mark.parametrize("error", [EngineError("broken"), ZeroDivisionError()])
    def test_an_item_that_breaks_the_batch_is_found_and_its_neighbours_are_answered(
        self, error: Exception
    ) -> None:
        said = ends(SmallFamily(fits=99), loaded(1), loaded(2, breaks=error), loaded(3))

        assert said == ["1", EngineError.code, "3"]

    def test_an_answer_that_grows_is_not_stuck_however_long_it_takes(self) -> None:
        stuck: list[bool] = []

        class Slow(SmallFamily):
            def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
                assert batch[0].on_step
                while not run.device.is_stuck():
                    time.sleep(0.01)
                batch[0].on_step()
                stuck.append(run.device.is_stuck())
                return super().generate(batch)

        run = Run(Slow(fits=9), stuck_seconds=2)
        batch = [loaded(1)]
        run.put(batch)
        run.ends(batch)
        run.device.close()

        assert stuck == [False]

    def test_the_longest_comes_first_so_that_what_does_not_fit_is_known_at_once(self) -> None:
        seen: list[int] = []

        class Looks(SmallFamily):
            def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
                seen.extend(item.tokens for item in batch)
                return super().generate(batch)

        ends(Looks(fits=99), loaded(3), loaded(9), loaded(4))

        assert seen == [9, 4, 3]


class TestSlots:
    def test_a_short_answer_does_not_wait_for_a_long_one(self) -> None:
        run = Run(SmallFamily(fits=99, slots=2))
        long, *short = (
            loaded(1, says=1000, in_slot=True),
            *(loaded(2, says=2, in_slot=True) for _ in range(20)),
        )
        run.put([long, *short])

        first = run.ended.get(timeout=PATIENCE_SECONDS)[0]
        run.device.close()

        assert first in short

    def test_an_answer_that_outgrows_its_slot_is_finished_by_generate_and_delays_no_other(
        self,
    ) -> None:
        class Short(SmallSlots):
            def _said(self) -> list[tuple[Prepared, Answer | IdefiqError]]:
                return [
                    (item, SlotFull("full") if item.tokens == 7 else said)
                    for item, said in super()._said()
                ]

        family = SmallFamily(fits=99, slots=2)
        family.slot_engine = Short(99, 2)

        said = ends(family, *(loaded(tokens, says=2, in_slot=True) for tokens in (7, 1, 7, 2)))

        assert said == ["7", "1", "7", "2"]
        assert sum(family.ran) == 2

    def test_items_that_do_not_fit_together_are_begun_in_smaller_groups(self) -> None:
        family = SmallFamily(fits=4, slots=8)

        said = ends(family, *(loaded(2, says=3, in_slot=True) for _ in range(8)))

        assert said == ["2"] * 8
        assert family.slot_engine
        assert family.slot_engine.admitted[0] == 8
        assert max(family.slot_engine.admitted[4:]) <= 2

    def test_an_item_that_does_not_fit_beside_others_waits_until_they_have_gone(self) -> None:
        said = ends(
            SmallFamily(fits=10, slots=4),
            loaded(5, says=9, in_slot=True),
            loaded(8, says=2, in_slot=True),
        )

        assert said == ["5", "8"]

    def test_an_item_that_does_not_fit_even_alone_fails_alone(self) -> None:
        said = ends(
            SmallFamily(fits=10, slots=4),
            *(loaded(tokens, says=3, in_slot=True) for tokens in (3, 11, 4)),
        )

        assert said == ["3", OutOfMemory.code, "4"]

    def test_a_streamed_answer_that_outgrows_its_slot_is_finished_by_generate(self) -> None:
        family = SmallFamily(fits=6, slots=4)

        said = ends(family, *(loaded(2, says=n, in_slot=True) for n in (9, 2, 3)))

        assert said == ["2", "2", "2"]
        assert family.ran == [1]
        assert family.slot_engine
        assert len(family.slot_engine.admitted) < 10

    @pytest.mark.parametrize("error", [EngineError("broken"), ZeroDivisionError()])
    def test_an_item_that_cannot_be_begun_is_found_and_its_neighbours_are_answered(
        self, error: Exception
    ) -> None:
        said = ends(
            SmallFamily(fits=99, slots=4),
            loaded(1, says=2, in_slot=True),
            loaded(2, says=2, in_slot=True, breaks=error),
            loaded(3, says=2, in_slot=True),
        )

        assert said == ["1", EngineError.code, "3"]

    def test_an_item_that_breaks_a_step_is_found_by_running_each_alone(self) -> None:
        family = SmallFamily(fits=99, slots=4)
        assert family.slot_engine
        said = family.slot_engine.decode_step

        def step() -> list[tuple[Prepared, Answer | IdefiqError]]:
            assert family.slot_engine
            if any(item.tokens == 2 for item, _ in family.slot_engine.held.values()):
                raise ZeroDivisionError
            return said()

        family.slot_engine.decode_step = step  # type: ignore[method-assign]

        found = ends(family, *(loaded(tokens, says=3, in_slot=True) for tokens in (1, 2, 3)))

        assert found == ["1", EngineError.code, "3"]

    @given(
        st.lists(
            st.builds(
                loaded,
                st.integers(1, 12),
                says=st.integers(1, 5),
                options=st.sampled_from("ab"),
                alone=st.booleans(),
                chat=st.booleans(),
                in_slot=st.booleans(),
                breaks=st.one_of(st.none(), st.none(), st.just(ZeroDivisionError())),
            ),
            max_size=30,
        ),
        st.integers(1, 6),
        st.integers(2, 20),
    )
    def test_whatever_comes_each_item_ends_once_with_its_own_answer_or_error(
        self, items: list[ScheduledItem], slots: int, budget: int
    ) -> None:
        said = ends(SmallFamily(fits=10, slots=slots), *items, budget=budget, batch_items=4)

        for one, end in zip(items, said, strict=True):
            if one.item.tokens > 10:
                assert end == OutOfMemory.code
            else:
                assert end == (EngineError.code if one.item.inputs else str(one.item.tokens))


class TestTheThread:
    def test_a_device_that_answers_nothing_any_more_ends_the_process(self) -> None:
        ended = threading.Event()

        def probe() -> None:
            raise RuntimeError("device-side assert")

        lost = [loaded(1, breaks=EngineError("lost")) for _ in range(4)]
        ends(SmallFamily(fits=99), *lost, probe=probe, on_broken=ended.set)

        assert ended.is_set()

    def test_what_may_not_start_any_more_is_given_back(self) -> None:
        family = SmallFamily(fits=9, slots=1)
        gone = loaded(2), loaded(3, in_slot=True)

        said = ends(family, *gone, loaded(4), may_start=lambda one: one not in gone)

        assert said == ["back", "back", "4"]
        assert family.ran == [1]

    def test_when_it_is_closed_what_is_begun_is_finished_and_what_waits_is_given_back(self) -> None:
        begun, goes_on = threading.Event(), threading.Event()

        class Slow(SmallFamily):
            def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
                begun.set()
                goes_on.wait(PATIENCE_SECONDS)
                return super().generate(batch)

        run = Run(Slow(fits=9))
        first, second = loaded(1), loaded(2, options="other")
        run.put([first])
        begun.wait(PATIENCE_SECONDS)
        run.put([second])
        closing = threading.Thread(target=run.device.close)
        closing.start()
        goes_on.set()
        closing.join()

        assert run.ends([first, second])[0] == "1"

    def test_a_batch_that_hangs_is_noticed_and_named(self) -> None:
        begun, end = threading.Event(), threading.Event()

        class Hangs(SmallFamily):
            def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
                begun.set()
                end.wait(PATIENCE_SECONDS)
                return super().generate(batch)

        run = Run(Hangs(fits=1), stuck_seconds=0.0)
        item = loaded(1)
        before = run.device.is_stuck()
        run.put([item])
        begun.wait(PATIENCE_SECONDS)
        during, running = run.device.is_stuck(), run.device.running
        end.set()
        run.ends([item])
        run.device.close()

        assert (before, during, run.device.is_stuck()) == (False, True, False)
        assert list(running) == [item]
