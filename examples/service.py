"""Serves a detector over HTTP: an image in a POST request, its detections as JSON in the answer.

python examples/service.py build/d0-digits/int8-cpu 8000 &
curl --data-binary @photo.jpg http://localhost:8000
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from effedge import Detector, UserError


class Service(BaseHTTPRequestHandler):
    detector: Detector

    def do_POST(self) -> None:
        try:
            detections = self.detector(self.rfile.read(int(self.headers["Content-Length"])))
        except UserError as error:
            return self.send_error(400, str(error))
        answer = json.dumps(detections.to_dict()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


if __name__ == "__main__":
    Service.detector = Detector(sys.argv[1])
    HTTPServer(("localhost", int(sys.argv[2])), Service).serve_forever()
