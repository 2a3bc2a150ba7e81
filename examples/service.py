"""Serves a detector over HTTP: an image in a POST request, its detections as JSON in the answer.

python examples/service.py build/d0-digits/int8-cpu 8000 &
curl --data-binary @photo.jpg http://localhost:8000
"""

import io
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
from PIL import Image

from effedge import Detector


class Service(BaseHTTPRequestHandler):
    detector: Detector

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        except OSError:
            return self.send_error(400, "expected an image")
        [detections] = self.detector([image])
        rows = zip(detections.boxes.tolist(), detections.scores.tolist(), detections.names)
        answer = json.dumps([{"box": box, "score": score, "name": name} for box, score, name in rows]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


if __name__ == "__main__":
    Service.detector = Detector(sys.argv[1], threshold=0.4)
    HTTPServer(("localhost", int(sys.argv[2])), Service).serve_forever()
