"""The judge itself: what it would have to find, it finds."""

from pathlib import Path

import pytest
from sqlalchemy import text

from db.sql.database import Database
from idefiq import Client
from tests.faults.history import History, Pictures
from tests.faults.surroundings import Surroundings
from tests.faults.world import world
from tests.faults.zygote import Zygote

TAMPERING = {
    "changed": """UPDATE items SET answer = json_set(answer, '$.text', 'something else')
                  WHERE ordinal = 3""",
    "lost": "DELETE FROM items WHERE ordinal = 5",
    "unexpected": """UPDATE items SET state = 'failed', answer = NULL, error_code = 'internal',
                     error_message = 'no reason' WHERE ordinal = 2""",
}


@pytest.mark.parametrize("kind", TAMPERING)
def test_tampering_with_the_database_is_detected(
    kind: str, embedded: Surroundings, forks: Zygote, pictures: Pictures, tmp_path: Path
) -> None:
    with world(forks, embedded, tmp_path / "world", engines=1) as service:
        history = History(service.url)
        with Client(service.url) as client:
            client.upload(list(pictures.paths.values()))
            client.wait(history.submit(client, pictures.ask_all("watched")).job)
            database = Database(embedded.direct_url)
            with database.transaction() as transaction:
                transaction.execute(text(TAMPERING[kind]))
            database.dispose()
        verdict = history.judge()

    numbers = {name: count for name, count in verdict.numbers.items() if count}
    assert numbers == {kind: 1}
