"""No file of the corpus, which holds the cases that fuzzing has found, is more than one line of error."""

import warnings
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, run_one

CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CORPUS).as_posix())
def test_a_case_that_was_found_stays_mended(tmp_path, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_one(path.parent.name, tmp_path, path.read_bytes())


def test_every_folder_of_the_corpus_has_a_target():
    assert {path.name for path in CORPUS.iterdir()} == TARGETS.keys()
