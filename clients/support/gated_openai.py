"""An OpenAI server whose stream goes on only when the test says so: buffering anywhere shows as a hang."""

import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "gated"
END = object()


def event(text):
    """One server-sent event with one piece of a chat answer."""
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    return f"data: {json.dumps({**chunk, 'choices': [delta]})}\n\n".encode()


class GatedOpenAI:
    """Streams what `send` is given, piece by piece; `requests` holds the bodies that came."""

    def __init__(self):
        self.pieces = queue.Queue()
        self.requests = queue.Queue()
        self.reader_left = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                body = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                owner.requests.put(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                self.relay()

            def relay(self):
                self.connection.settimeout(0.02)
                while not owner.reader_left.is_set():
                    try:
                        piece = owner.pieces.get(timeout=0.02)
                    except queue.Empty:
                        self.notice_a_closed_connection()
                        continue
                    if piece is END:
                        self.write_chunk(b"data: [DONE]\n\n")
                        self.write_chunk(b"")
                        return
                    self.write_chunk(piece)

            def write_chunk(self, data):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()

            def notice_a_closed_connection(self):
                try:
                    gone = self.connection.recv(1) == b""
                except TimeoutError:
                    return
                except ConnectionError:
                    gone = True
                if gone:
                    self.close_connection = True
                    owner.reader_left.set()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.http = f"127.0.0.1:{self.server.server_address[1]}"

    def send(self, piece):
        self.pieces.put(piece)

    def stop(self):
        self.reader_left.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
