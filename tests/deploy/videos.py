"""Videos and cameras for the tests: a square that moves, written by OpenCV itself, served, or simulated."""

import contextlib
import http.server
import threading
import time

import numpy as np

SIZE = (160, 120)  # width, height


def square(index, colour=0):
    """Returns frame `index`, RGB: a square of RGB channel `colour`, 40 pixels wide, whose left edge is at 2 * index."""
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    pixels[40:80, 2 * index : 2 * index + 40, colour] = 255
    return pixels


def write_video(path, frames=30, fps=25, codec="mp4v"):
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), fps, SIZE)
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.ascontiguousarray(square(index)[:, :, ::-1]))
    writer.release()
    return path


def read_video(path):
    """Reads (RGB frames, frames a second), as a player does."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    assert capture.isOpened()
    frames = []
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        frames.append(frame[:, :, ::-1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


class FakeCamera:
    """A camera with a frame every `every` seconds, whose red is its number; after `last` frames it is unplugged."""

    def __init__(self, every=0.005, last=10**9):
        self.every, self.last, self.given, self.released = every, last, 0, False

    def read(self):
        time.sleep(self.every)
        if self.given >= self.last:
            return False, None
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[..., 2] = self.given % 256
        self.given += 1
        return True, frame

    def get(self, _property):
        return 0.0

    def release(self):
        self.released = True


class Handler(http.server.BaseHTTPRequestHandler):
    """/clip.mp4 is the server's `clip` as a file; /live is an MJPEG stream of `frames` frames."""

    def do_GET(self):
        self.server.requests.append(self.path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_clip() if self.path == "/clip.mp4" else self.send_stream()

    def send_clip(self):
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        data = self.server.clip[start:]
        self.send_response(206)
        self.send_header("Accept-Ranges", "bytes")
        size = len(self.server.clip)
        self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_stream(self):
        import cv2

        if len(self.server.requests) > self.server.connections:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace;boundary=frame")
        self.end_headers()
        for index in range(self.server.frames):
            _, jpeg = cv2.imencode(".jpg", np.ascontiguousarray(square(index % 60)[:, :, ::-1]))
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg.tobytes() + b"\r\n")
            time.sleep(0.02)

    def log_message(self, *_):
        pass


class Server:
    """An HTTP server on the loopback within the block; `url` is its address."""

    def __init__(self, clip=b"", frames=40, connections=99):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.clip, self.server.frames, self.server.connections = clip, frames, connections
        self.server.requests = []
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
