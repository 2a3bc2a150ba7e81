"""Asks a service for the detections of images, in a program that needs neither effedge nor an engine.

effedge serve build/d0-digits/int8-cpu
python examples/service.py http://127.0.0.1:8000 photo.jpg other.jpg
"""

import json
import sys
import time
import urllib.error
import urllib.request
from typing import Any, Dict

TOO_MANY_REQUESTS = 429  # all places of the service are taken


def detect(url: str, path: str) -> Dict[str, Any]:
    """Returns the detections of an image's file, as `effedge predict --json` writes them."""
    with open(path, "rb") as file:
        request = urllib.request.Request(f"{url}/detect?threshold=0.5", file.read(), {"Content-Type": "image/*"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != TOO_MANY_REQUESTS:
                sys.exit(f"{path}: {json.load(error)['error']}")
            time.sleep(float(error.headers["Retry-After"]))


if __name__ == "__main__":
    service, *paths = sys.argv[1:]
    for name in paths:
        for detection in detect(service, name)["detections"]:
            print(name, detection["label"], detection["score"], *detection["box"])
