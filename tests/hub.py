"""A small model hub on loopback: what huggingface_hub asks of the real one, over a folder."""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories by name, each a folder with one commit.

    Attributes:
        gated: Files are shown to nobody whose account has not accepted the terms.
        cut_after: Bytes after which the first download of a file is cut off, by file name.
        asked: Every request, as "METHOD path range".
    """

    repositories: dict[str, Path]
    gated: bool = False
    cut_after: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    @contextlib.contextmanager
    def running(self) -> Iterator["Hub"]:
        """Serve on a free port."""
        hub = self

        class Handler(_Handler):
            serves = hub

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    serves: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        span = self.headers.get("Range", "")
        self.serves.asked.append(f"{self.command} {path} {span}".strip())
        if found := re.fullmatch(r"/api/models/(.+?)/revision/(.+)", path):
            self._revision(*found.groups())
        elif found := re.fullmatch(r"/api/models/(.+?)/tree/(.+)", path):
            self._tree(*found.groups())
        elif found := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            self._file(*found.groups())
        else:
            self._fail("EntryNotFound")

    def _folder(self, name: str, revision: str) -> Path | None:
        folder = self.serves.repositories.get(name)
        if folder is None:
            self._fail("RepoNotFound")
        elif revision not in (COMMIT, "main", "v1"):
            self._fail("RevisionNotFound")
            return None
        return folder

    def _revision(self, name: str, revision: str) -> None:
        if folder := self._folder(name, revision):
            names = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
            self._json({"id": name, "modelId": name, "sha": COMMIT, "siblings": names})

    def _tree(self, name: str, revision: str) -> None:
        if folder := self._folder(name, revision):
            self._json(
                [
                    {
                        "type": "file",
                        "path": file.name,
                        "size": file.stat().st_size,
                        "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
                    }
                    for file in sorted(folder.iterdir())
                ]
            )

    def _file(self, name: str, revision: str, file: str) -> None:
        folder = self._folder(name, revision)
        if folder is None:
            return
        if self.serves.gated:
            self._fail("GatedRepo", 403)
            return
        if not (folder / file).is_file():
            self._fail("EntryNotFound")
            return
        data = (folder / file).read_bytes()
        start = int((re.findall(r"bytes=(\d+)-", self.headers.get("Range", "")) or ["0"])[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut := self.serves.cut_after.pop(file, None):
            self.wfile.write(data[start : start + cut])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(data[start:])

    def _json(self, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _fail(self, code: str, status: int = 404) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: tests read `asked`."""
