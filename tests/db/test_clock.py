"""The database's clock in statements."""

from sqlalchemy import select

from db.sql.clock import after, now
from db.sql.database import Database


def test_statements_with_the_clock_are_compiled_once_for_each_number_of_seconds() -> None:
    keys = [select(time)._generate_cache_key() for time in (now(), now(), after(5), after(-5))]

    assert None not in keys
    assert keys[0] == keys[1]
    assert len({str(key) for key in keys}) == 3


def test_so_many_seconds_later_is_later_by_so_many(database: Database) -> None:
    with database.transaction() as transaction:
        for seconds in (5.0, -7.5, 5.0):
            there, then = transaction.execute(select(now(), after(seconds))).one()

            assert (then - there).total_seconds() == seconds
