"""Shows engines in a page of the local browser: images, webcam, boxes, and the latency of each step.

    effedge demo ENGINE [ENGINE ...]

Several engines are shown side by side, such as FP32 beside INT8, and take turns, so that their latencies compare. The
page loads nothing from the network. The images on offer are a few of effedge's own, or those of --samples FOLDER.

It is the service of `effedge serve` with a page, at most --rate requests a second; a browser lets a page use the webcam
only at localhost, or by HTTPS. Ctrl-C ends it. Needs the extra `serve`.
"""

import argparse
from pathlib import Path

from effedge.deploy.common.cli import Parser
from effedge.deploy.common.messages import log
from effedge.deploy.serving.serve import add_arguments, check_packages, make_service, positive

RATE = 60.0


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add_arguments(parser)
    help = "most requests a second, of all pages and engines together (default 60)"
    parser.add_argument("--rate", metavar="N", type=positive, default=RATE, help=help)
    parser.add_argument("--samples", metavar="FOLDER", type=Path, help="images to choose from (default: effedge's own)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_packages()
    from effedge.deploy.serving.models.load import facts, load_models
    from effedge.deploy.serving.pages import find_samples, page_routes
    from effedge.deploy.serving.server import address_of, listen, run_service

    samples = find_samples(args.samples)
    listener = listen(args.host, args.port)
    models = load_models(args.engines, batch_seconds=0.0, images_only=True)
    service = make_service(models, args)
    described = [facts(folder, model) for folder, model in zip(args.engines, models.values())]
    app = service.app(page_routes(described, samples, service.limits.body_bytes), args.allow_host)
    log.info(f"open {address_of(listener)} in a browser; Ctrl-C ends it")
    run_service(service, app, listener)


if __name__ == "__main__":
    from effedge.deploy.common.cli import run

    run(main)
