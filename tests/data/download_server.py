"""A real HTTP server on 127.0.0.1 that misbehaves as told."""

import http.server
import re
import threading
from collections import deque
from contextlib import contextmanager


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.requests = []  # (path, first byte asked for)
        self.sent = 0  # bytes of bodies
        self.ranges = True
        self.cuts = deque()  # each answer with a body of some size takes one: close after that many bytes
        self.always_cut = None
        self.errors = deque()  # each request takes one: answer with that status
        self.claim = 0  # add that to the length the headers tell
        self.shift = 0  # start a range that many bytes late
        self.block = 1 << 16
        self.pause = 0.0  # seconds between two blocks

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def handle_error(self, request, client_address):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *arguments):
        pass

    def do_GET(self):
        server = self.server
        name = self.path.lstrip("/")
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        server.requests.append((name, int(asked[1]) if asked else 0))
        if server.errors:
            return self.send_error(server.errors.popleft())
        if name.startswith("moved/"):
            self.send_response(302)
            self.send_header("Location", "/" + name.removeprefix("moved/"))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if name not in server.files:
            return self.send_error(404)
        body = server.files[name]
        total = len(body) + server.claim
        if asked and server.ranges:
            first, last = int(asked[1]) + server.shift, min(int(asked[2]), total - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
            length = last + 1 - first
        else:
            first, length = 0, total
            self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self._send(body[first : first + length], length)

    def _send(self, body, length):
        server, limit = self.server, len(body)
        if length > 1:  # not the first look
            limit = server.cuts.popleft() if server.cuts else limit if server.always_cut is None else server.always_cut
        body = body[:limit]
        try:
            for start in range(0, len(body), server.block):
                block = body[start : start + server.block]
                server.sent += len(block)  # before it is sent: the test may look as soon as it has come
                self.wfile.write(block)
                if server.pause:
                    threading.Event().wait(server.pause)
        except OSError:
            pass
        if len(body) < length:
            self.close_connection = True


@contextmanager
def serve(files):
    with Server(files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
