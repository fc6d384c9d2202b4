"""Data sets in shards for tests, and a web server that can be told to fail."""

import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

from elucid.preparation.shards import ShardReport, shard

CLASSES = ("cat", "dog")


def pictures(folder: Path, count: int = 60, side: int = 8) -> Path:
    """Pictures in two folders, all different: the first pixels are the number of the picture."""
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / CLASSES[index % 2] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (side, side), dtype=np.uint8)
        pixels[0, 0] = index
        Image.fromarray(pixels).save(path)
    return folder


def write(source: Path, destination: Path, **options) -> ShardReport:
    """Shards of four small labelled pictures each, with a header and a block of 512 bytes for both of their files."""
    return shard(str(source), destination, shard_mb=0.01024, progress=False, **options)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; `server.fault(name, number)` may say "status", "cut" or "wrong" of a file's request number."""

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        server = self.server
        with server.lock:
            server.requests.append(name)
            fault = server.fault(name, server.requests.count(name))
        if isinstance(fault, int):
            self.send_error(fault)
        elif fault is None:
            super().do_GET()
        else:
            data = Path(self.directory, name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if fault == "cut" else data[:-1] + b"x")

    def log_message(self, *args):
        pass


@contextmanager
def served(folder: Path, fault=lambda name, number: None):
    """A web server of a folder: yields its address, and the server, whose `requests` are the files asked for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    server.lock, server.requests, server.fault, server.daemon_threads = threading.Lock(), [], fault, True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
