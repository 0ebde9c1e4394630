"""A server on this machine that takes what huggingface_hub uploads to the Hub."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class HubThatTakes:
    """Keeps uploaded files by name; asks for all of them inside the commit, as for small ones."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.tokens: set[str] = set()
        self.repositories: list[str] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                stand_in.take(self)

            def do_GET(self) -> None:
                stand_in.answer(self, {})

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path
        self.asked.append(path)
        self.tokens.add(request.headers.get("authorization", ""))
        body = self.body(request)
        if path.endswith("/repos/create"):
            given = json.loads(body)
            self.repositories.append(f"{given.get('organization')}/{given['name']}")
            name = self.repositories[-1]
            self.answer(request, {"url": f"{self.address}/{name}", "name": name})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            kinds = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
            self.answer(request, {"files": kinds})
        elif "/commit/" in path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            address = f"{self.address}/owner/name/commit/0123456789"
            self.answer(request, {"success": True, "commitUrl": address, "commitOid": "0123456789"})
        else:
            self.answer(request, {"errors": [], "warnings": []})

    @staticmethod
    def body(request: BaseHTTPRequestHandler) -> bytes:
        if request.headers.get("Transfer-Encoding") != "chunked":
            return request.rfile.read(int(request.headers.get("Content-Length", 0)))
        parts = []
        while size := int(request.rfile.readline(), 16):
            parts.append(request.rfile.read(size))
            request.rfile.readline()
        request.rfile.readline()
        return b"".join(parts)

    @staticmethod
    def answer(request: BaseHTTPRequestHandler, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
