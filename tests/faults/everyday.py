"""What users of a service do all day: each round a little of everything, until it is answered."""

import base64
import contextlib
import http.server
import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2

from idefiq import Client
from tests import pictures, servers
from tests.faults.history import History, Pictures

CHAT = "/v1/chat/completions"
JOB_ITEMS = 200
STREAMED_ITEMS = 1_500
BATCH_LINES = 100
DRAFTS = 6
DECISIONS = [("accept", None), ("edit", "Mine"), ("decorative", None), ("reject", None)]


class Everyday:
    """Jobs, streams, conversations, batches, drafts with decisions, uploads and deletions.

    Args:
        history: Judges the answers of jobs.
        images: Uploaded already.
    """

    def __init__(self, url: str, client: Client, history: History, images: Pictures) -> None:
        self._http = httpx2.Client(base_url=url, timeout=120)
        self._client, self._history, self._images = client, history, images
        self._numbers = itertools.count()

    def hear(self, url: str) -> None:
        """Have everything told to a webhook."""
        self._http.post("/v1/webhooks", json={"url": url}).raise_for_status()

    def round(self) -> None:
        """Do each once."""
        for act in (
            self._job,
            self._stream,
            self._conversations,
            self._batch,
            self._drafts,
            self._upload_and_delete,
        ):
            act()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _job(self) -> None:
        references = (list(self._images.paths) * JOB_ITEMS)[:JOB_ITEMS]
        made = self._history.submit(self._client, self._images.ask(references, "soak"))
        self._history.read_along(made)
        self._client.wait(made.job)

    def _stream(self) -> None:
        items = ({"kind": "generate", "prompt": f"{n}"} for n in range(STREAMED_ITEMS))
        self._client.wait(self._client.submit(items))

    def _conversations(self) -> None:
        body: dict[str, Any] = {
            "model": "echo",
            "messages": [{"role": "user", "content": f"again {next(self._numbers)}?"}],
        }
        self._http.post(CHAT, json=body).raise_for_status()
        with self._http.stream("POST", CHAT, json={**body, "stream": True}) as answer:
            assert b"[DONE]" in answer.read()

    def _batch(self) -> None:
        url = "data:image/png;base64," + base64.b64encode(self._new_image()).decode()
        messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
        lines = [
            {
                "custom_id": f"{number}",
                "method": "POST",
                "url": CHAT,
                "body": {"model": "echo", "messages": messages},
            }
            for number in range(BATCH_LINES)
        ]
        sent = self._http.post(
            "/v1/files",
            data={"purpose": "batch"},
            files={"file": ("in.jsonl", "\n".join(map(json.dumps, lines)).encode())},
        ).json()["id"]
        wanted = {"endpoint": CHAT, "completion_window": "24h"}
        batch = self._http.post("/v1/batches", json={"input_file_id": sent, **wanted}).json()

        def output() -> str | None:
            found: str | None = self._http.get(f"/v1/batches/{batch['id']}").json()[
                "output_file_id"
            ]
            return found

        servers.wait_until(lambda: bool(output()), what="a batch's output")
        content = self._http.get(f"/v1/files/{output()}/content").text
        assert len(content.splitlines()) == BATCH_LINES
        for file in (sent, output()):
            self._http.delete(f"/v1/files/{file}").raise_for_status()

    def _drafts(self) -> None:
        images = [each for each in self._images.paths if each != self._images.broken]
        items = [
            {"images": [image], "custom_id": f"{n}"} for n, image in enumerate(images[:DRAFTS])
        ]
        defaults = {"kind": "caption", "alt_text": {"page": f"/{next(self._numbers)}"}}
        job = self._client.wait(self._client.submit(items, defaults=defaults))
        for review, (action, text) in zip(
            self._client.reviews(job), itertools.cycle(DECISIONS), strict=False
        ):
            self._client.decide(review, action, text=text)

    def _upload_and_delete(self) -> None:
        sent = self._http.post("/v1/images", files={"file": ("x.png", self._new_image())}).json()
        reference = sent["data"][0]["image"]
        job = self._client.wait(self._client.submit([{"images": [reference]}]))
        servers.wait_until(
            lambda: self._http.delete(f"/v1/jobs/{job.id}").status_code == 204, what="a deletion"
        )

    def _new_image(self) -> bytes:
        return pictures.plain() + str(next(self._numbers)).encode()


@contextlib.contextmanager
def receiver() -> Iterator[http.server.ThreadingHTTPServer]:
    """Takes webhooks."""

    class Taking(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        made.shutdown()
        made.server_close()
