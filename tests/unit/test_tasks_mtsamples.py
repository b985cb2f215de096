"""Reading MTSamples: a text is one document, whatever the file."""

import json

import pytest
from conftest import SHARED

from clinical_pretrain.tasks.readers.mtsamples import LABELS, REPEATED, read_mtsamples
from clinical_pretrain.tasks.readers.tables import LabelRule, TableColumns, read_table
from tokenizer_tools.errors import UserError

CSV = """,description,medical_specialty,sample_name,transcription,keywords
0,d, Surgery,s,"A, text",k
1,d, Urology,s," A, text ",k
2,d, Letters,s,Other,k
3,d, Surgery,s,,k
"""


def read(folder):
    data = read_mtsamples(folder)
    return [(document.text, document.labels) for document in data.splits["train"]], data


def test_rows_of_one_text_are_one_document(tmp_path):
    (tmp_path / "mtsamples.csv").write_text(CSV)
    documents, data = read(tmp_path)
    assert documents == [("A, text", ("Surgery", "Urology")), ("Other", ())]
    assert data.labels == LABELS and data.kind == "labels" and list(data.splits) == ["train"]
    assert data.report.mended == {REPEATED: 1} and data.report.left_out == {"row without a text": 1}
    assert data.report.places[REPEATED] == [f"{tmp_path}/mtsamples.csv, row 2"]


def test_both_files_give_the_same_documents(tmp_path):
    for name in ("csv", "jsonl"):
        (tmp_path / name).mkdir()
    (tmp_path / "csv" / "mtsamples.csv").write_text(CSV)
    rows = [{"text": "A, text", "specialties": ["Urology ", "Surgery"]}, {"text": "Other", "specialties": ["Letters"]}]
    (tmp_path / "jsonl" / "mtsamples_unique.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    both = [read_mtsamples(tmp_path / name) for name in ("csv", "jsonl")]
    assert both[0].splits == both[1].splits and len({document.id for document in both[0].splits["train"]}) == 2


def test_another_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds none of mtsamples\.csv, mtsamples_unique\.jsonl\.gz"):
        read_mtsamples(tmp_path)
    (tmp_path / "mtsamples_unique.jsonl").write_text('{"text": "secret", "specialties": "Surgery"}\n')
    with pytest.raises(UserError, match=r"mtsamples_unique\.jsonl:1: no list 'specialties'") as error:
        read_mtsamples(tmp_path)
    assert "secret" not in str(error.value)


@pytest.mark.shared
def test_the_whole_of_mtsamples():
    """Why it is a task of labels, of these labels: what a class of one specialty would leave is 209 notes."""
    path = SHARED / "notes" / "mtsamples_unique.jsonl.gz"
    whole = read_table(path, TableColumns("text", "specialties", "note_id"), LabelRule("labels"))
    counts = {label: sum(label in document.labels for document in whole.splits["train"]) for label in whole.labels}
    assert len(counts) == 40 and counts["Surgery"] == 1088
    assert tuple(label for label, count in counts.items() if count >= 100) == LABELS
    one = read_table(path, TableColumns("text", "specialties", "note_id"))
    assert len(one.splits["train"]) == 209 and one.report.left_out == {"row with several labels": 2148}
    documents, data = read(SHARED / "notes")
    assert len(documents) == 2357 and not data.report.left_out and not data.report.mended
    assert sum(not labels for _, labels in documents) == 121
