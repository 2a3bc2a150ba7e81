"""Fuzzes one reader of foreign files by coverage: `pip install atheris` (Python 3.11), then from the checkout

    python -m tests.fuzz.atheris_target images FOUND tests/fuzz/corpus/images -max_total_time=600 -rss_limit_mb=1024

The targets are those of tests/fuzz/targets.py; FOUND is a folder for the inputs that reach new code. What ends it is a
crash, an error that is no UserError, a UserError of more than one line, or memory; the input is left in a file crash-*,
which belongs into the corpus once its cause is mended: tests/fuzz/test_corpus.py runs every file there.
"""

import sys
import tempfile
import warnings
from pathlib import Path


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["effedge", "PIL"]):
        from tests.fuzz.targets import run_one

    target, words = sys.argv[1], [sys.argv[0], *sys.argv[2:]]
    warnings.simplefilter("ignore")
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    atheris.Setup(words, lambda content: run_one(target, folder, content))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
