"""Counts what a camera sees, a line for each frame that is taken, until Ctrl-C.

    python examples/camera.py build/d0-digits/int8-cpu /dev/video0

A file or a stream (rtsp://...) works as well. Needs OpenCV: the extra `video`, or a Jetson's own. Of what is live the
newest frame is taken, so the counts are never older than one run of the engine.
"""

import sys
from collections import Counter

from effedge import Detector, UserError
from effedge.deploy.video.frame_reader import FrameReader
from effedge.deploy.video.source import open_video


def main(engine: str, source: str) -> None:
    detector = Detector(engine)
    with FrameReader(open_video(source)) as frames:
        for frame in frames:
            counts = Counter(detector(frame.pixels).labels).most_common()
            text = ", ".join(f"{count} x {label}" for label, count in counts)
            print(f"frame {frame.number}: {text or 'nothing'}", flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        pass
