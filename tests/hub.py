"""A Hugging Face hub of one model on this machine: as much of its interface as a download asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(name: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(address, files that were fetched) of a hub whose model `name` is `folder`; another name is not there."""
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
            headers, content, status = {"X-Repo-Commit": COMMIT}, b"", 200
            if path.startswith(f"/api/models/{name}/tree/"):
                rows = [{"type": "file", "path": f, "size": (folder / f).stat().st_size, "oid": "0"} for f in files]
                content = json.dumps(rows).encode()
            elif path.startswith(f"/api/models/{name}"):
                content = json.dumps(
                    {"id": name, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
                ).encode()
            elif path.startswith(f"/{name}/resolve/{COMMIT}/"):
                file = path.removeprefix(f"/{name}/resolve/{COMMIT}/")
                content = (folder / file).read_bytes()
                headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
                if body:
                    fetched.append(file)
            else:
                status = 404
                headers = {"X-Error-Code": "RepoNotFound"}
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
