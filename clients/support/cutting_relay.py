"""A relay that cuts connections once it has read a request and before anything has come back."""

import contextlib
import socket
import struct
import threading

RESET_WHEN_CLOSED = struct.pack("ii", 1, 0)


class CuttingRelay:
    """Cuts the next `cuts` connections with a TCP reset; passes the bytes of all others to `address` and back."""

    def __init__(self, address):
        host, port = address.split(":")
        self.target, self.cuts, self.connections = (host, int(port)), 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.http = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self.serve, args=(caller,), daemon=True).start()

    def serve(self, caller):
        with caller, contextlib.suppress(OSError):
            first = caller.recv(1 << 16)
            if self.cuts > 0:
                self.cuts -= 1
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_WHEN_CLOSED)
                return
            with socket.create_connection(self.target) as server:
                server.sendall(first)
                back = threading.Thread(target=copy, args=(server, caller), daemon=True)
                back.start()
                copy(caller, server)
                back.join()

    def stop(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def copy(source, sink):
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
