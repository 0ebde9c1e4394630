"""A server on this machine that hands out files as the Hugging Face Hub does."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubStandIn:
    """Serves repositories from memory and notes what was asked for.

    Args:
        repositories: Content of each file, by ``OWNER/NAME`` and the file's name.
        revisions: Branches, tags and commits that exist.
    """

    def __init__(
        self, repositories: dict[str, dict[str, bytes]], revisions: tuple[str, ...] = ("main",)
    ) -> None:
        self.repositories, self.revisions = repositories, {*revisions, COMMIT}
        self.asked: list[str] = []
        self.digests: dict[bytes, str] = {}  # what is said of a content instead of its SHA-256
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand_in.answer(self)

            def do_HEAD(self) -> None:
                stand_in.answer(self)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        self.asked.append(f"{request.command} {path}")
        repository, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        files = self.repositories.get(repository)
        if files is None or not rest:
            self.refuse(request, "RepoNotFound")
        elif revision not in self.revisions:
            self.refuse(request, "RevisionNotFound")
        elif file not in files:
            self.refuse(request, "EntryNotFound")
        else:
            data = files[file]
            request.send_response(200)
            digest = self.digests.get(data, hashlib.sha256(data).hexdigest())
            request.send_header("ETag", f'"{digest}"')
            request.send_header("X-Repo-Commit", COMMIT)
            request.send_header("Content-Length", str(len(data)))
            request.end_headers()
            if request.command == "GET":
                request.wfile.write(data)

    @staticmethod
    def refuse(request: BaseHTTPRequestHandler, code: str) -> None:
        request.send_response(404)
        request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        if code == "EntryNotFound":
            request.send_header("X-Repo-Commit", COMMIT)
        request.end_headers()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
