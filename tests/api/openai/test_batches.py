"""Files and batches through the official client: contract, mistakes, every end of a batch."""

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types import Batch, FileObject
from sqlalchemy import Connection
from sqlalchemy import text as sql

from db.openai import batches, files
from db.queue.spools import SpoolWriter
from db.sql.database import Database
from db.vocabulary.errors import EngineError, ImageUnreadable
from tests.played import Played
from tests.served import Serve

ENDPOINT = "/v1/chat/completions"
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.jpg"}}
Line = dict[str, Any]


def line(custom_id: str = "a", **body: Any) -> Line:
    content = [{"type": "text", "text": f"What is {custom_id}?"}, IMAGE]
    messages = [{"role": "user", "content": content}]
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": ENDPOINT,
        "body": {"model": "echo", "messages": messages, **body},
    }


def upload(client: openai.OpenAI, lines: Iterable[Any]) -> str:
    body = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines)
    return client.files.create(file=("in.jsonl", body.encode()), purpose="batch").id


def create(client: openai.OpenAI, file_id: str, **fields: Any) -> Batch:
    return client.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", **fields
    )


def check(client: openai.OpenAI, played: Played, lines: Iterable[Any], **fields: Any) -> Batch:
    """Create a batch of some lines, and return it when they are checked."""
    batch = create(client, upload(client, lines), **fields)
    played.upkeep.run_once()
    return client.batches.retrieve(batch.id)


def read(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id
    lines = client.files.content(file_id).text.splitlines()
    return {found["custom_id"]: found for found in map(json.loads, lines)}


class TestFiles:
    def test_a_file_is_kept_byte_for_byte_until_it_is_deleted(self, client: openai.OpenAI) -> None:
        data = "{}\r\n\n\N{SNOWMAN}".encode()

        file = client.files.create(file=("a b.jsonl", data), purpose="batch")
        content = client.files.content(file.id).read()
        listed = client.files.list().data
        deleted = client.files.delete(file.id)

        assert (file.filename, file.bytes, file.purpose, file.status) == (
            "a b.jsonl",
            len(data),
            "batch",
            "processed",
        )
        assert (content, listed) == (data, [file])
        assert (deleted.id, deleted.deleted) == (file.id, True)
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)

    def test_every_required_field_is_present(self, http: httpx2.Client) -> None:
        made = http.post("/v1/files", data={"purpose": "batch"}, files={"file": b"{}"}).json()

        assert FileObject.model_validate(made, strict=True)
        assert made["object"] == "file"

    def test_lists_go_in_pages_both_ways(self, client: openai.OpenAI) -> None:
        ids = [upload(client, [line(str(n))]) for n in range(3)]

        newest = client.files.list(limit=2, purpose="batch")
        oldest = [file.id for file in client.files.list(order="asc", limit=1)]

        assert [file.id for file in newest.data] == [ids[2], ids[1]]
        assert newest.has_more
        assert [file.id for file in newest] == ids[::-1]
        assert oldest == ids

    @pytest.mark.parametrize(
        ("data", "files", "param"),
        [
            ({"purpose": "fine-tune"}, {"file": b"x"}, "purpose"),
            ({}, {"file": b"x"}, "purpose"),
            ({"purpose": "batch"}, {"file": b""}, "file"),
            ({"purpose": "batch"}, {"other": b"x"}, "file"),
            (
                {"purpose": "batch", "expires_after[seconds]": "1"},
                {"file": b"x"},
                "expires_after[seconds]",
            ),
        ],
    )
    def test_what_is_no_input_of_a_batch_is_refused(
        self, http: httpx2.Client, data: dict[str, str], files: dict[str, bytes], param: str
    ) -> None:
        response = http.post("/v1/files", data=data, files=files)

        assert response.status_code == 400
        assert response.json()["error"]["param"] == param

    def test_a_file_goes_when_its_time_is_over(
        self, client: openai.OpenAI, offered: Database, played: Played
    ) -> None:
        made = client.files.create(
            file=("in.jsonl", b"{}"),
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert made.expires_at == made.created_at + 3600

        _make_past(offered, "files")
        played.upkeep.run_once()

        assert client.files.list().data == []


def _make_past(record: Database, table: str) -> None:
    with record.transaction() as transaction:
        transaction.execute(
            sql(f"UPDATE {table} SET expires_at = '2000-01-01 00:00:00.000000+00:00'")
        )


class TestLife:
    def test_answers_come_out_under_their_custom_ids(
        self, client: openai.OpenAI, http: httpx2.Client, played: Played
    ) -> None:
        file_id = upload(client, [line("a"), "", line("b"), line("c")])

        created = create(client, file_id, metadata={"for": "ada"})
        played.upkeep.run_once()
        batch = client.batches.retrieve(created.id)
        [bad, *good] = played.claim()
        played.fail([bad], ImageUnreadable("no image"))
        played.complete(good, "two kittens")
        between = client.batches.retrieve(batch.id)
        played.upkeep.run_once()
        ended = client.batches.retrieve(batch.id)

        assert (created.status, created.model, created.in_progress_at) == ("validating", None, None)
        assert (batch.status, between.status) == ("in_progress", "finalizing")
        assert ended.status == "completed"
        assert ended.metadata == {"for": "ada"}
        assert ended.request_counts
        assert ended.request_counts.to_dict() == {"total": 3, "completed": 2, "failed": 1}
        assert ended.usage
        assert (ended.usage.input_tokens, ended.usage.output_tokens) == (20, 4)
        answers, mistakes = read(client, ended.output_file_id), read(client, ended.error_file_id)
        assert answers.keys() == {"b", "c"}
        body = answers["b"]["response"]["body"]
        assert body["choices"][0]["message"]["content"] == "two kittens"
        assert openai.types.chat.ChatCompletion.model_validate(body, strict=False)
        assert mistakes.keys() == {"a"}
        assert mistakes["a"]["response"]["status_code"] == 400
        assert mistakes["a"]["response"]["body"]["error"]["code"] == "image_unreadable"
        assert Batch.model_validate(http.get(f"/v1/batches/{batch.id}").json())

    def test_a_clean_batch_has_no_error_file(self, client: openai.OpenAI, played: Played) -> None:
        batch = create(client, upload(client, [line()]))
        played.step()

        ended = client.batches.retrieve(batch.id)

        assert ended.error_file_id is None
        assert [file.id for file in client.files.list(purpose="batch_output")] == [
            ended.output_file_id
        ]

    def test_output_can_be_read_while_it_runs(
        self, client: openai.OpenAI, http: httpx2.Client, played: Played
    ) -> None:
        batch = create(client, upload(client, [line(str(n)) for n in range(4)]))
        played.step(limit=1)
        [failing] = played.claim(limit=1)
        played.fail([failing], EngineError("it broke"))

        output, mistakes = (batch.to_dict()[f"x_{part}_file_id"] for part in ("output", "error"))
        answers, failed = read(client, str(output)), read(client, str(mistakes))

        growing = client.files.retrieve(str(output))
        assert (growing.id, growing.purpose) == (output, "batch_output")
        assert FileObject.model_validate(growing.to_dict(), strict=True)
        assert client.batches.retrieve(batch.id).output_file_id is None
        assert [*answers, *failed] == ["0", "1"]
        assert failed["1"]["response"]["status_code"] == 500
        assert http.get(f"/v1/files/{output}/content").headers["x-incomplete"] == "true"

    def test_output_can_be_read_at_the_moment_the_batch_ends(
        self,
        client: openai.OpenAI,
        http: httpx2.Client,
        played: Played,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        batch = create(client, upload(client, [line()]))
        output = batch.to_dict()["x_output_file_id"]
        find = files.get

        def find_then_end(transaction: Connection, owner_id: int, file_id: str) -> files.File:
            try:
                return find(transaction, owner_id, file_id)
            finally:
                monkeypatch.undo()
                played.step()

        monkeypatch.setattr(files, "get", find_then_end)

        assert http.get(f"/v1/files/{output}/content").status_code == 200
        assert client.batches.retrieve(batch.id).output_file_id == output

    def test_a_cancelled_batch_keeps_what_was_answered(
        self, client: openai.OpenAI, http: httpx2.Client, played: Played
    ) -> None:
        batch = create(client, upload(client, [line(str(n)) for n in range(3)]))
        played.step(limit=1)

        first = client.batches.cancel(batch.id)
        empty = http.post(
            f"/v1/batches/{batch.id}/cancel", headers={"content-type": "application/json"}
        )
        played.upkeep.run_once()
        played.upkeep.run_once()
        ended = client.batches.retrieve(batch.id)

        assert (first.status, empty.status_code) == ("cancelling", 200)
        assert ended.status == "cancelled"
        assert read(client, ended.output_file_id).keys() == {"0"}
        mistakes = read(client, ended.error_file_id)
        assert {mistakes[name]["error"]["code"] for name in ("1", "2")} == {"batch_cancelled"}

    def test_every_line_of_a_batch_cancelled_at_once_has_an_outcome(
        self, client: openai.OpenAI, played: Played
    ) -> None:
        batch = check(client, played, [line(str(n)) for n in range(3)])
        client.batches.cancel(batch.id)

        for _ in range(3):
            played.upkeep.run_once()
        ended = client.batches.retrieve(batch.id)

        assert (ended.status, ended.output_file_id) == ("cancelled", None)
        assert read(client, ended.error_file_id).keys() == {"0", "1", "2"}

    def test_a_batch_that_has_finished_does_not_expire(
        self, client: openai.OpenAI, offered: Database, played: Played
    ) -> None:
        batch = create(client, upload(client, [line()]))
        with offered.snapshot() as transaction:
            seen = batches.get(transaction, 1, batch.id)
        played.complete(played.claim())

        with offered.transaction() as transaction:
            batches.expire(transaction, seen)
        played.upkeep.run_once()

        assert client.batches.retrieve(batch.id).status == "completed"

    def test_an_expired_batch_keeps_what_was_answered(
        self, client: openai.OpenAI, offered: Database, played: Played
    ) -> None:
        batch = create(client, upload(client, [line("a"), line("b")]))
        played.step(limit=1)

        _make_past(offered, "batches")
        for _ in range(3):
            played.upkeep.run_once()
        ended = client.batches.retrieve(batch.id)

        assert (ended.status, ended.expired_at is not None) == ("expired", True)
        assert read(client, ended.output_file_id).keys() == {"a"}
        assert read(client, ended.error_file_id)["b"]["error"]["code"] == "batch_expired"

    def test_output_files_expire_at_the_requested_time(
        self, client: openai.OpenAI, played: Played
    ) -> None:
        after = {"anchor": "created_at", "seconds": 3600}
        batch = create(client, upload(client, [line()]), output_expires_after=after)
        played.step()

        output = client.files.retrieve(str(client.batches.retrieve(batch.id).output_file_id))

        assert output.expires_at == output.created_at + 3600

    def test_batches_are_listed_newest_first_in_pages(self, client: openai.OpenAI) -> None:
        ids = [create(client, upload(client, [line(str(n))])).id for n in range(3)]

        page = client.batches.list(limit=2)

        assert [batch.id for batch in page.data] == [ids[2], ids[1]]
        assert (page.has_more, [batch.id for batch in page]) == (True, ids[::-1])

    def test_a_batch_is_a_job_too(
        self, client: openai.OpenAI, http: httpx2.Client, played: Played
    ) -> None:
        batch = check(client, played, [line("a")])
        played.step()

        found = http.get(f"/v1/jobs/{batch.to_dict()['x_job_id']}/results").json()

        assert [item["custom_id"] for item in found["data"]] == ["a"]

    def test_a_batch_goes_on_when_its_input_file_is_deleted(
        self, client: openai.OpenAI, played: Played
    ) -> None:
        batch = check(client, played, [line("a")])
        client.files.delete(batch.input_file_id)

        played.step()

        assert client.batches.retrieve(batch.id).status == "completed"


class TestAskedAgain:
    def test_the_same_request_is_the_same_batch_while_it_runs(
        self, client: openai.OpenAI, played: Played
    ) -> None:
        file_id = upload(client, [line()])

        first, second = create(client, file_id), create(client, file_id)
        other = create(client, file_id, metadata={"run": "2"})
        while played.step():
            pass
        anew = create(client, file_id)

        assert first.id == second.id
        assert len({first.id, other.id, anew.id}) == 3

    def test_a_retry_of_the_client_is_the_same_batch_even_after_its_end(
        self, client: openai.OpenAI, played: Played
    ) -> None:
        file_id = upload(client, [line()])
        first = create(client, file_id)
        played.step()

        retried = create(client, file_id, extra_headers={"x-stainless-retry-count": "1"})
        keyed = [
            create(client, file_id, extra_headers={"Idempotency-Key": "august"}).id
            for _ in range(2)
        ]

        with pytest.raises(openai.BadRequestError, match="with another body"):
            create(
                client, upload(client, [line("other")]), extra_headers={"Idempotency-Key": "august"}
            )
        assert retried.id == first.id
        assert keyed[0] == keyed[1] != first.id


def mistakes_of(batch: Batch) -> list[tuple[Any, Any, Any]]:
    assert batch.errors
    return [(each.code, each.line, each.message) for each in batch.errors.data or ()]


class TestWhileItIsChecked:
    def test_a_batch_can_be_cancelled(
        self, client: openai.OpenAI, http: httpx2.Client, played: Played
    ) -> None:
        batch = create(client, upload(client, [line()]))

        cancelled = client.batches.cancel(batch.id)
        played.upkeep.run_once()
        ended = client.batches.retrieve(batch.id)

        assert (cancelled.status, ended) == ("cancelled", cancelled)
        assert (ended.cancelled_at, ended.output_file_id) == (ended.cancelling_at, None)
        assert http.get("/v1/jobs").json()["data"] == []

    def test_a_batch_cancelled_between_the_check_and_its_job_stays_cancelled(
        self,
        client: openai.OpenAI,
        http: httpx2.Client,
        played: Played,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        batch = create(client, upload(client, [line()]))
        store = SpoolWriter.store

        def store_then_cancel(*given: Any) -> str:
            key = store(*given)
            client.batches.cancel(batch.id)
            return key

        monkeypatch.setattr(SpoolWriter, "store", store_then_cancel)
        played.upkeep.run_once()

        assert client.batches.retrieve(batch.id).status == "cancelled"
        assert http.get("/v1/jobs").json()["data"] == []
        assert not list(tmp_path.rglob("spool/*"))

    def test_a_batch_whose_window_is_over_expires(
        self, client: openai.OpenAI, offered: Database, played: Played
    ) -> None:
        batch = create(client, upload(client, [line()]))
        _make_past(offered, "batches")
        with offered.snapshot() as transaction:
            [seen] = batches.to_expire(transaction, 10)
        with offered.transaction() as transaction:
            batches.expire(transaction, seen)

        played.upkeep.run_once()

        assert client.batches.retrieve(batch.id).status == "expired"

    def test_its_output_is_still_empty(self, client: openai.OpenAI, http: httpx2.Client) -> None:
        batch = create(client, upload(client, [line()])).to_dict()

        output = http.get(f"/v1/files/{batch['x_output_file_id']}/content")

        assert (output.status_code, output.content) == (200, b"")
        assert output.headers["x-incomplete"] == "true"

    def test_the_same_request_is_the_same_batch(
        self, client: openai.OpenAI, played: Played
    ) -> None:
        file_id = upload(client, [line()])

        first, second = create(client, file_id), create(client, file_id)

        assert first.id == second.id


class TestMistakes:
    def test_every_mistake_is_reported_at_once_with_its_line(
        self, client: openai.OpenAI, http: httpx2.Client, played: Played
    ) -> None:
        lines = [
            line("a"),
            "not json",
            line("a"),
            {**line("c"), "url": "/v1/embeddings"},
            line("d", model="other"),
            {**line("f"), "method": "GET"},
            line("g", model=None),
        ]

        batch = check(client, played, lines)

        assert batch.status == "failed"
        assert batch.failed_at
        assert batch.errors
        assert batch.errors.data
        assert [(error.line, error.param) for error in batch.errors.data] == [
            (2, None),
            (3, "custom_id"),
            (4, "url"),
            (5, "body.model"),
            (6, "method"),
            (7, "body.model"),
        ]
        assert all(error.message and error.code for error in batch.errors.data)
        assert client.batches.retrieve(batch.id) == batch
        assert http.get("/v1/jobs").json()["data"] == []

    def test_what_is_wrong_within_a_line_fails_this_line_alone(
        self, client: openai.OpenAI, played: Played
    ) -> None:
        text, url = {"type": "text", "text": "What?"}, "https://example.com/a.jpg"
        image = {"type": "image_url", "image_url": {"url": url}}
        cut = {"type": "image_url", "image_url": "data:image/png;base64,AAAAA"}
        user = {"role": "user"}
        wrong: dict[str, dict[str, Any]] = {
            "n: not allowed in a batch": {"n": 2},
            "stream: not allowed in a batch": {"stream": True},
            "max_tokens: Input should be greater than": {"max_tokens": 0},
            "stop[0]: String should have at most": {"stop": ["x" * 300]},
            "messages: the last message must have": {
                "messages": [{"role": "assistant", "content": "x"}]
            },
            "messages[0].content[1].image_url: a data: image is not base64": {
                "messages": [{**user, "content": [text, cut]}]
            },
            "messages[1].content[2].image_url: invalid image reference: 'ftp://a'": {
                "messages": [
                    {**user, "content": [image]},
                    {**user, "content": [text, image, {**image, "image_url": "ftp://a"}]},
                ]
            },
            "messages: 9 different images; a conversation may have 8": {
                "messages": [
                    {
                        **user,
                        "content": [{**image, "image_url": f"{url}?{n}"} for n in range(9)],
                    }
                ]
            },
            "messages[0].content[0].image_url.detail: Input should be": {
                "messages": [
                    {**user, "content": [{**image, "image_url": {"url": url, "detail": "huge"}}]}
                ]
            },
            "messages[0].content: expected a text or a list of parts": {
                "messages": [{**user, "content": {"text": "x"}}]
            },
            "messages[0].content[0].image_url: invalid image reference: '": {
                "messages": [{**user, "content": [{**image, "image_url": "a\0b" + "x" * 99}]}]
            },
            "messages[0].content[0]: expected a part of the type 'text' or 'image_url'": {
                "messages": [{**user, "content": [{"type": "\0".join("x" * 50_000)}]}]
            },
            "messages[0].content[0].image_url: expected an object with a url": {
                "messages": [{**user, "content": [{**image, "image_url": None}]}]
            },
            "messages[0].content[0].image_url.url: Field required": {
                "messages": [{**user, "content": [{**image, "image_url": {"image_url": url}}]}]
            },
            "stop: ": {"stop": [0] * 50_000},
            "metadata: at most 16 pairs are taken, not 50000": {
                "metadata": {str(n): 0 for n in range(50_000)}
            },
            "the body has 50002 fields; there are not so many": {f"x{n}": 0 for n in range(50_000)},
            "messages[0].content[0].text: Field required": {
                "messages": [{**user, "content": [{"type": "text"}]}]
            },
        }

        lines = [line("good"), *(line(said, **body) for said, body in wrong.items())]
        batch = check(client, played, lines)
        taken = played.step()
        played.upkeep.run_once()
        ended = client.batches.retrieve(batch.id)

        assert (batch.status, taken, ended.status) == ("in_progress", 1, "completed")
        assert read(client, ended.output_file_id).keys() == {"good"}
        failed = read(client, ended.error_file_id)
        assert failed.keys() == wrong.keys()
        for said, found in failed.items():
            error = found["response"]["body"]["error"]
            assert found["response"]["status_code"] == 400
            assert error["type"] == "invalid_request_error"
            assert error["message"].startswith(said)
            assert len(error["message"]) < 600

    @pytest.mark.parametrize(
        ("wrong", "code", "said"),
        [
            ({**line(), "a\0b": 1}, "invalid_request", "unknown field"),
            (line("z", model="e\0cho"), "invalid_request", "'e"),
            ({**line(), "url": "/" + "u" * 5_000}, "invalid_request", "'/uuu"),
            (json.dumps(line(user="x" * 9_000)), "too_large", "the line has more than 8000 bytes"),
            (json.dumps(line("b")).ljust(8_001), "too_large", "the line has more than 8000 bytes"),
            (json.dumps(line("c")) + " " * 9_000 + "{", "too_large", "the line has more than 8000"),
        ],
    )
    def test_a_mistake_of_form_is_told_in_few_words_on_either_database(
        self,
        wrong: Any,
        code: str,
        said: str,
        client: openai.OpenAI,
        offered: Database,
        tmp_path: Path,
    ) -> None:
        played = Played(offered, tmp_path, max_line_bytes=8_000)

        batch = check(client, played, [line(), wrong])

        [(found, number, message)] = mistakes_of(batch)
        assert (batch.status, found, number) == ("failed", code, 2)
        assert message.startswith(said)
        assert len(json.dumps(batch.to_dict())) < 3_000

    def test_an_unknown_model_that_no_database_can_store_fails_the_batch(
        self, client: openai.OpenAI, played: Played
    ) -> None:
        batch = check(client, played, [line(model="e\0cho" + "x" * 5_000)])

        [(code, _, message)] = mistakes_of(batch)
        assert (batch.status, code) == ("failed", "unknown_model")
        assert len(message) < 600

    def test_a_line_may_be_as_long_as_the_operator_allows_and_begin_with_a_mark(
        self, client: openai.OpenAI, offered: Database, tmp_path: Path
    ) -> None:
        played = Played(offered, tmp_path, max_line_bytes=8_000)
        longest = [json.dumps(line(name)).ljust(8_000) for name in "ab"]
        longer = "\ufeff" + json.dumps(line("a")).ljust(8_001)

        good = check(client, played, ["\ufeff" + longest[0], longest[1]])
        bad = check(client, played, [longer, "not json"])

        assert good.status == "in_progress"
        assert [(code, number) for code, number, _ in mistakes_of(bad)] == [
            ("too_large", 1),
            ("invalid_request", 2),
        ]

    def test_lines_may_call_one_model_by_different_names(
        self, client: openai.OpenAI, offered: Database, tmp_path: Path
    ) -> None:
        played = Played(offered, tmp_path, model_aliases={"gpt-4o-mini": "echo"})

        batch = check(client, played, [line("a"), line("b", model="gpt-4o-mini")])

        assert (batch.status, batch.model) == ("in_progress", "echo")

    def test_a_batch_with_a_refused_line_is_retried_with_other_options(
        self, client: openai.OpenAI, http: httpx2.Client, played: Played
    ) -> None:
        batch = check(client, played, [line("a", n=2), line("b")])
        played.fail(played.claim(), EngineError("it broke"))
        job_id = batch.to_dict()["x_job_id"]

        retried = http.post(f"/v1/jobs/{job_id}/retry", json={"options": {"max_new_tokens": 5}})

        assert retried.status_code == 202
        assert retried.json()["counts"]["total"] == 2

    @pytest.mark.parametrize(
        ("encode", "said"),
        [
            (gzip.compress, "the file is compressed with gzip"),
            (lambda data: data.decode().encode("utf-16"), "the file is UTF-16"),
        ],
    )
    def test_a_file_that_is_no_text_is_named(
        self,
        encode: Callable[[bytes], bytes],
        said: str,
        client: openai.OpenAI,
        played: Played,
    ) -> None:
        data = encode(json.dumps(line()).encode())
        file = client.files.create(file=("in.jsonl", data), purpose="batch")
        batch = create(client, file.id)
        played.upkeep.run_once()

        assert mistakes_of(client.batches.retrieve(batch.id)) == [
            ("invalid_request", None, f"{said}; send lines of JSON as UTF-8")
        ]

    def test_a_mark_of_utf_8_at_the_beginning_is_skipped(
        self, client: openai.OpenAI, played: Played
    ) -> None:
        batch = check(client, played, ["\ufeff" + json.dumps(line())])

        assert batch.status == "in_progress"

    def test_a_mistake_in_the_last_of_many_lines_is_found_before_any_work(
        self, client: openai.OpenAI, played: Played
    ) -> None:
        lines = [json.dumps(line(str(n))) for n in range(51_000)]

        made = [create(client, upload(client, sent)).id for sent in ([*lines, "{"], lines)]
        while client.batches.retrieve(made[1]).status == "validating":
            played.upkeep.run_once()
        bad, good = map(client.batches.retrieve, made)

        assert bad.errors
        assert bad.errors.data
        assert [error.line for error in bad.errors.data] == [51_001]
        assert good.request_counts
        assert (good.status, good.request_counts.total) == ("in_progress", 51_000)

    def test_more_lines_than_the_operator_allows_fail_the_batch(
        self, client: openai.OpenAI, offered: Database, tmp_path: Path
    ) -> None:
        played = Played(offered, tmp_path, max_lines=3)

        batch = check(client, played, [line(str(n)) for n in range(4)])

        assert mistakes_of(batch) == [("too_large", None, "the file has more than 3 lines")]

    def test_more_items_than_may_wait_fail_the_batch(
        self, client: openai.OpenAI, offered: Database, tmp_path: Path, http: httpx2.Client
    ) -> None:
        played = Played(offered, tmp_path, max_queued_items=3)

        batch = check(client, played, [line(str(n)) for n in range(4)])

        [(code, number, message)] = mistakes_of(batch)
        assert (batch.status, code, number) == ("failed", "quota_exceeded", None)
        assert "4 more would pass the 3 that this owner may have" in message
        assert http.get("/v1/jobs").json()["data"] == []
        assert not list(tmp_path.rglob("spool/*"))

    def test_an_unknown_model_an_empty_file_and_a_deleted_one_fail_the_batch(
        self, client: openai.OpenAI, played: Played
    ) -> None:
        unknown = check(client, played, [line("a", model="gpt-9")])
        empty = check(client, played, ["", ""])
        file_id = upload(client, [line()])
        gone = create(client, file_id)
        client.files.delete(file_id)
        played.upkeep.run_once()

        for batch, said in (
            (unknown, "no such model: 'gpt-9'"),
            (empty, "has no lines"),
            (client.batches.retrieve(gone.id), "was deleted before it was checked"),
        ):
            [(_, _, message)] = mistakes_of(batch)
            assert said in message

    @pytest.mark.parametrize(
        ("fields", "error", "param"),
        [
            ({"input_file_id": "file-none"}, openai.NotFoundError, None),
            ({"endpoint": "/v1/embeddings"}, openai.BadRequestError, "endpoint"),
            ({"completion_window": "soon"}, openai.BadRequestError, "completion_window"),
            ({"metadata": {"a" * 65: "b"}}, openai.BadRequestError, "metadata"),
        ],
    )
    def test_a_batch_that_cannot_be_is_refused_in_the_envelope(
        self,
        client: openai.OpenAI,
        fields: dict[str, Any],
        error: type[openai.APIStatusError],
        param: str | None,
    ) -> None:
        whole = {
            "input_file_id": upload(client, [line()]),
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            **fields,
        }

        with pytest.raises(error) as caught:
            client.batches.create(**whole)

        assert (caught.value.param or "").startswith(param or "")
        assert caught.value.request_id
        assert caught.value.code in ("not_found", "invalid_request")
        assert caught.value.type == "invalid_request_error"
        assert param is None or param in str(caught.value)


def test_a_script_may_call_a_model_by_a_name_that_the_operator_gave_it(
    serve: Serve, offered: Database, tmp_path: Path
) -> None:
    aliases = {"gpt-4o-mini": "echo"}
    http = serve(offered.url, model_aliases=aliases)
    played = Played(offered, tmp_path, model_aliases=aliases)
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none") as client:
        batch = check(client, played, [line(model="gpt-4o-mini")])

        listed = client.models.list().data
        alias = client.models.retrieve("gpt-4o-mini")
    job = http.post("/v1/jobs", json={"model": "gpt-4o-mini", "items": [{"images": []}]})
    jobs = http.get("/v1/jobs", params={"model": "gpt-4o-mini"}).json()["data"]

    assert (batch.status, batch.model) == ("in_progress", "echo")
    assert [model.id for model in listed] == ["echo", "gpt-4o-mini"]
    assert alias == listed[1]
    assert [found["id"] for found in jobs] == [batch.to_dict()["x_job_id"]]
    assert job.json()["errors"][0]["message"] == "kind 'caption' takes 1 image(s), not 0"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/completions", "there is POST /v1/chat/completions"),
        ("/v1/uploads", "files of any size go to POST /v1/files"),
        ("/chat/completions", "the base URL ends with /v1: there is /v1/chat/completions"),
    ],
)
def test_a_route_that_is_not_there_says_which_one_is(
    path: str, said: str, http_sqlite: httpx2.Client
) -> None:
    answer = http_sqlite.post(path, json={}, headers={"x-stainless-lang": "python"})

    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == f"no such route: {path}; {said}"


def test_models_are_read_by_both_kinds_of_clients(client: openai.OpenAI) -> None:
    [listed] = client.models.list().data

    assert (listed.id, listed.object, listed.owned_by) == ("echo", "model", "idefiq")
    assert client.models.retrieve("echo") == listed
    with pytest.raises(openai.NotFoundError, match="no such model: 'nope'"):
        client.models.retrieve("nope")
    assert listed.to_dict()["state"] == "offline"
