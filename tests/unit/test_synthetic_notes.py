import csv
import gzip
import re
from collections import Counter

import pytest

from tokenizer_tools.corpus.synthetic_notes import COLUMNS, make_notes
from tokenizer_tools.errors import UserError


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("notes") / "n.csv.gz"
    counts = make_notes(path, patients=150)
    with gzip.open(path, "rt", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert counts["notes"] == len(rows) and len({row["SUBJECT_ID"] for row in rows}) == 150
    return rows


def test_shaped_like_noteevents(rows):
    assert tuple(rows[0]) == COLUMNS
    assert len(Counter(row["CATEGORY"] for row in rows)) == 10
    text = "\n".join(row["TEXT"] for row in rows)
    assert len(re.findall(r"\[\*\*[^\]]*\*\*\]", text)) > 1000 and "[**Known\nlastname" in text
    assert "digoxin 0.125 mg" in text and re.search(r"pH 7\.\d\d", text) and "denies" in text


def test_some_notes_repeat_and_some_are_empty(rows):
    # Short notes (ECG) agree by chance; a long one has numbers and dates enough to be a copy if it repeats.
    long = Counter(row["TEXT"] for row in rows if len(row["TEXT"]) > 400)
    copies = sum(n - 1 for n in long.values())
    assert 0.002 < copies / len(rows) < 0.02
    owners = {}
    for row in rows:
        owners.setdefault(row["TEXT"], set()).add(row["SUBJECT_ID"])
    assert {len(owners[text]) > 1 for text, n in long.items() if n > 1} == {True, False}  # across patients and within
    assert any(not row["TEXT"] for row in rows)


def test_a_patients_notes_agree(rows):
    ages = {}
    for row in rows[:400]:
        for age in re.findall(r"(\d\d)(?: year old|yo |-year-old)", row["TEXT"]):
            ages.setdefault(row["SUBJECT_ID"], Counter())[age] += 1
    assert sum(max(c.values()) for c in ages.values()) > 0.95 * sum(sum(c.values()) for c in ages.values())


def test_the_seed_decides(tmp_path):
    contents = []
    for name, seed in (("a.csv.gz", 0), ("b.csv.gz", 0), ("c.csv.gz", 1)):
        make_notes(tmp_path / name, patients=3, seed=seed)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1] != contents[2]
    assert contents[0][3:8] == bytes(5)  # no file name and no time in the gzip header
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv.gz", "b.csv.gz", "c.csv.gz"]


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(UserError, match="must end in"):
        make_notes(tmp_path / "n.txt")
