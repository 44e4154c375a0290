"""A small service to try rei with: it keeps notes in memory.

It serves on the socket that it inherits (LISTEN_FDS, as under systemd). Without one it serves on a port:
    python3 notes.py 8080
"""

import json
import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FIRST_INHERITED = 3  # descriptors 0, 1 and 2 are input, output and errors
NOTES_MAX = 1000


class Notes:
    """Notes by number, from 1."""

    def __init__(self):
        self.notes = []
        self.lock = threading.Lock()

    def add(self, text):
        with self.lock:
            if len(self.notes) >= NOTES_MAX:
                raise ValueError("the list of notes is full")
            self.notes.append(text)
            return len(self.notes)

    def get(self, number):
        with self.lock:
            return self.notes[number - 1] if 1 <= number <= len(self.notes) else None


class Handler(BaseHTTPRequestHandler):
    """GET /healthz, POST /notes with a text, GET /notes/1."""

    protocol_version = "HTTP/1.1"
    notes = Notes()

    def do_GET(self):
        if self.path == "/healthz":
            return self.answer(200, {"status": "ok"})
        head, _, number = self.path.rpartition("/")
        text = self.notes.get(int(number)) if head == "/notes" and number.isdigit() else None
        if text is None:
            return self.answer(404, {"error": "there is no such page"})
        return self.answer(200, {"note": text})

    def do_POST(self):
        length = int(self.headers.get("content-length", 0))
        text = self.rfile.read(min(length, 1 << 16)).decode("utf-8", "replace")
        if self.path != "/notes":
            return self.answer(404, {"error": "there is no such page"})
        try:
            return self.answer(201, {"number": self.notes.add(text)})
        except ValueError as full:
            return self.answer(507, {"error": str(full)})

    def answer(self, status, value):
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def inherited():
    """The socket from the supervisor, or None."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return socket.socket(fileno=FIRST_INHERITED)


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    listening = inherited()
    if listening is not None:
        server.socket.close()
        server.socket = listening
        server.server_address = listening.getsockname()
        server.server_name, server.server_port = server.server_address[:2]
    else:
        server.server_address = ("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
        server.server_bind()
        server.server_activate()
    # Requests in progress are finished. The serving thread itself must not call shutdown().
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.daemon_threads = False
    server.block_on_close = False
    server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
