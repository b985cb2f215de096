"""Reading classes and labels: tables, MedNLI, PubMedQA, chest X-rays."""

import gzip
import json
import tarfile

import pytest

from clinical_pretrain.tasks.readers.chest_xray import FINDINGS, read_chest_xray, read_mimic_cxr, read_openi
from clinical_pretrain.tasks.readers.mednli import FILES, read_mednli
from clinical_pretrain.tasks.readers.pubmedqa import read_pubmedqa
from clinical_pretrain.tasks.readers.tables import LabelRule, TableColumns, read_table
from tokenizer_tools.errors import UserError

SECRET = "Janeroe"
"""Stands in every text that a reader might quote by mistake."""


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refused(message, read, *arguments):
    """The message of the UserError that a reader raises: one line without a text."""
    with pytest.raises(UserError, match=message) as error:
        read(*arguments)
    assert SECRET not in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


# Tables -------------------------------------------------------------------------------------------------------------


def test_a_csv_file_with_all_columns(tmp_path):
    (tmp_path / "t.csv").write_text(
        'ID,Note,Label,Hypothesis,Patient,Split\n1,"a, b\nc",x ,h,7,train\n2,d,y,,8,valid\n3,e,x,h,7,TEST\n'
    )
    columns = TableColumns("note", "label", "id", "hypothesis", "patient", "split")
    data = read_table(tmp_path / "t.csv", columns)
    assert (data.kind, data.labels, list(data.splits)) == ("class", ("x", "y"), ["train", "development", "test"])
    (document,) = data.splits["train"]
    assert (document.id, document.text, document.second_text) == ("1", "a, b\nc", "h")
    assert (document.patient, document.labels) == ("7", ("x",))
    assert data.splits["development"][0].second_text == ""


def test_a_compressed_jsonl_file_with_lists_of_labels(tmp_path):
    with gzip.open(tmp_path / "t.jsonl.gz", "wt") as stream:
        for row in (
            {"t": "a", "l": ["y", "x", "y"]},
            {"t": "b", "l": []},
            {"t": "c", "l": None},
            {"t": " ", "l": ["x"]},
        ):
            stream.write(json.dumps(row) + "\n")
    data = read_table(tmp_path / "t.jsonl.gz", TableColumns("t", "l"), LabelRule("labels"))
    assert [(document.id, document.labels) for document in data.splits["train"]] == [
        ("1", ("y", "x")),
        ("2", ()),
        ("3", ()),
    ]
    assert data.splits["train"][0].second_text is None and data.splits["train"][0].patient == ""
    assert data.labels == ("x", "y") and data.report.left_out == {"row without a text": 1}


def test_labels_with_a_separator(tmp_path):
    path = jsonl(tmp_path / "t.jsonl", {"t": "a", "l": "x; y;;x"}, {"t": "b", "l": ""}, {"t": "c", "l": 3})
    data = read_table(path, TableColumns("t", "l"), LabelRule("labels", separator=";"))
    assert [document.labels for document in data.splits["train"]] == [("x", "y"), (), ("3",)]
    data = read_table(path, TableColumns("t", "l"))
    assert [document.labels for document in data.splits["train"]] == [("x; y;;x",), ("3",)]


def test_a_class_is_one_label(tmp_path):
    path = jsonl(tmp_path / "t.jsonl", {"t": "a", "l": ["x", "y"]}, {"t": "b", "l": ["z"]}, {"t": "c", "l": ["y"]})
    data = read_table(path, TableColumns("t", "l"))
    assert [document.id for document in data.splits["train"]] == ["2", "3"] and data.labels == ("y", "z")
    assert data.report.left_out == {"row with several labels": 1}
    assert data.report.places == {"row with several labels": [f"{path}:1"]}
    data = read_table(path, TableColumns("t", "l"), LabelRule(only=("y", "x2")))
    assert [(document.id, document.labels) for document in data.splits["train"]] == [("1", ("y",)), ("3", ("y",))]
    assert data.labels == ("y", "x2") and data.report.left_out == {"row whose label isn't one of the task's": 1}
    with pytest.raises(UserError, match=r"no row has one of the labels Y, X2 \(case counts\); check the column 'l'"):
        read_table(path, TableColumns("t", "l"), LabelRule(only=("Y", "X2")))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "t,x\nJaneroe,1\n", "doesn't have exactly one column l"),
        ("t.csv", "t,l,L\nJaneroe,1,2\n", "doesn't have exactly one column l"),
        ("t.csv", "t,l\nJaneroe,1,2\n", r"row 1: 3 fields where the header has 2"),
        ("t.csv", 't,l\na,b\n"Jane"roe,1\n', r"after row 1: not a CSV file .*stray quote"),
        ("t.csv", "", r"t\.csv: is empty; copy the file again"),
        ("t.csv", "t,l\nJaneroe,\n", "no row has a label; check the column 'l'"),
        ("t.txt", "Janeroe", "neither .csv nor .jsonl"),
        ("t.jsonl", '{"t": "Janeroe"}\n', r"t\.jsonl:1: no key 'l'; it has: t"),
        ("t.jsonl", '\n{"t": 1.5, "l": "x"}\n', r"t\.jsonl:2: 't' isn't a text"),
        ("t.jsonl", '{"t": "Janeroe", "l": [1]}\n', "its labels aren't texts"),
        ("t.jsonl", '["Janeroe"]\n', "not a JSON object"),
        ("t.jsonl", '{"t": "Janeroe", "t": "Janeroe"}\n', "not JSON with each key once"),
        ("t.jsonl.gz", "Janeroe", "broken or cut-off gzip file"),
    ],
)
def test_other_tables_are_refused(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    assert str(tmp_path / name) in refused(message, read_table, tmp_path / name, TableColumns("t", "l"))


@pytest.mark.parametrize(("name", "place"), [("t.csv", "after row 0"), ("t.jsonl", "after line 0")])
def test_other_encodings_are_named(name, place, tmp_path):
    content = "t,l\nJaneroé,x\n" if name == "t.csv" else '{"t": "Janeroé", "l": "x"}\n'
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    refused(f"{name}, {place}: not UTF-8", read_table, tmp_path / name, TableColumns("t", "l"))


def test_unknown_splits_and_repeated_identifiers_are_refused(tmp_path):
    path = jsonl(
        tmp_path / "t.jsonl", *({"t": SECRET, "l": "x", "i": 1, "s": split} for split in ("train", "hold-out"))
    )
    refused(
        r"document 2 \(split train\) has the identifier of document 1", read_table, path, TableColumns("t", "l", "i")
    )
    refused(r"t\.jsonl:2: its split is none of train,", read_table, path, TableColumns("t", "l", split="s"))
    path = jsonl(path, {"t": SECRET, "l": "x", "s": ""})
    refused(r"t\.jsonl:1: its split is none of train,", read_table, path, TableColumns("t", "l", split="s"))


# MedNLI -------------------------------------------------------------------------------------------------------------


def mednli(folder, *pairs):
    """Write the three files; a pair is (file, identifier, label)."""
    for name in FILES.values():
        jsonl(folder / name, *(
            {"sentence1": "He has Janeroe's disease.", "pairID": identifier, "gold_label": label,
             "sentence1_parse": "(ROOT", "sentence1_binary_parse": "( He", "sentence2": "He is ill.",
             "sentence2_parse": "(ROOT", "sentence2_binary_parse": "( He"}
            for file, identifier, label in pairs
            if file in name
        ))  # fmt: skip


def test_mednli(tmp_path):
    mednli(tmp_path, ("train", "a", "entailment"), ("dev", "b", "neutral"), ("test", "c", "contradiction"))
    data = read_mednli(tmp_path)
    assert (data.kind, data.labels) == ("class", ("entailment", "neutral", "contradiction"))
    assert {split: [(d.id, d.labels) for d in documents] for split, documents in data.splits.items()} == {
        "train": [("a", ("entailment",))], "development": [("b", ("neutral",))], "test": [("c", ("contradiction",))],
    }  # fmt: skip
    (document,) = data.splits["test"]
    assert (document.text, document.second_text) == ("He has Janeroe's disease.", "He is ill.")


def test_other_forms_of_mednli_are_refused(tmp_path):
    mednli(tmp_path, ("train", "a", "entailment"), ("train", "b", "-"))
    refused(
        r"mli_train_v1\.jsonl:2: its gold_label is none of entailment, neutral, contradiction", read_mednli, tmp_path
    )
    mednli(tmp_path, ("train", "a", "neutral"), ("test", "a", "neutral"))
    refused(r"document 2 \(split test\) has the identifier of document 1 \(split train\)", read_mednli, tmp_path)
    (tmp_path / "mli_dev_v1.jsonl").unlink()
    refused(r"mli_dev_v1\.jsonl: cannot be read", read_mednli, tmp_path)


# PubMedQA -----------------------------------------------------------------------------------------------------------


def pubmedqa(path, **labels):
    records = {
        identifier: {"QUESTION": "Is it?", "CONTEXTS": ["First.", "Second."], "LABELS": ["A", "B"], "MESHES": ["C"],
                     "YEAR": "2011", "reasoning_required_pred": "yes", "reasoning_free_pred": "yes",
                     "final_decision": label, "LONG_ANSWER": "Janeroe concludes yes."}
        for identifier, label in labels.items()
    }  # fmt: skip
    path.write_text(json.dumps(records))
    return path


def test_pubmedqa_with_its_official_test_split(tmp_path):
    pubmedqa(tmp_path / "ori_pqal.json", a="yes", b="maybe", c="no")
    (tmp_path / "test_ground_truth.json").write_text('{"b": "maybe"}')
    data = read_pubmedqa(tmp_path)
    assert (data.kind, data.labels) == ("class", ("yes", "no", "maybe"))
    assert {split: [d.id for d in documents] for split, documents in data.splits.items()} == {
        "train": ["a", "c"],
        "test": ["b"],
    }
    assert len(read_pubmedqa(tmp_path / "ori_pqal.json").splits["train"]) == 3


def test_the_conclusion_of_an_abstract_is_no_input(tmp_path):
    """It holds the answer."""
    data = read_pubmedqa(pubmedqa(tmp_path / "ori_pqal.json", a="yes"))
    (document,) = data.splits["train"]
    assert (document.text, document.second_text, document.labels) == ("First.\nSecond.", "Is it?", ("yes",))
    assert SECRET not in repr(data)


@pytest.mark.parametrize("truth", ['{"a": "no"}', '{"z": "yes"}'])
def test_pubmedqa_with_another_ground_truth_is_refused(truth, tmp_path):
    pubmedqa(tmp_path / "ori_pqal.json", a="yes")
    (tmp_path / "test_ground_truth.json").write_text(truth)
    refused(r"test_ground_truth\.json: . isn't in ori_pqal\.json, or has another label", read_pubmedqa, tmp_path)


def test_pubmedqa_without_a_label_is_refused(tmp_path):
    refused(r"ori_pqal\.json, a: needs CONTEXTS", read_pubmedqa, pubmedqa(tmp_path / "ori_pqal.json", a="unknown"))


# Chest X-rays -------------------------------------------------------------------------------------------------------

XML = """<?xml version="1.0" encoding="utf-8"?><eCitation>
   <meta type="rr"/><uId id="CXR{number}"/><pmcId id="{number}"/>
   <MedlineCitation Owner="Indiana University" Status="supplied by publisher"><Article PubModel="Electronic"><Abstract>
      <AbstractText Label="COMPARISON">None.</AbstractText>
      <AbstractText Label="INDICATION">rule out pneumonia &amp; XXXX, Janeroe</AbstractText>
      <AbstractText Label="FINDINGS">{findings}</AbstractText>
      <AbstractText Label="IMPRESSION">{impression}</AbstractText>
   </Abstract></Article></MedlineCitation>
   <MeSH>{headings}</MeSH>
</eCitation>"""
OPENI = {
    2: ("Borderline heart &lt;XXXX&gt;.", "No effusion.", ["Cardiomegaly/borderline ", "Pulmonary Artery/enlarged"]),
    10: ("Effusion.", "", ["Pleural Effusion/right/small", "Pleural Effusion/left", "Pneumonia",
                             "Pulmonary Atelectasis"]),
    1: ("", "Normal chest x-XXXX.", ["normal"]),
    7: ("Clear.", "", ["No Indexing"]),
    8: ("Clear.", "", []),
    16: ("", "", ["normal"]),
    18: ("Hazy.", "", ["Cardiac Shadow/enlarged", "Infiltrate/lung", "Lung, Hyperlucent", "Pulmonary Edema",
                       "Consolidation", "Pneumothorax"]),
}  # fmt: skip
EXPECTED = {
    "CXR1": (),
    "CXR2": ("Cardiomegaly",),
    "CXR10": ("Pneumonia", "Atelectasis", "Pleural Effusion"),
    "CXR18": ("Edema", "Consolidation", "Pneumothorax"),
}


def openi_folder(folder):
    (folder / "ecgen-radiology").mkdir(parents=True)
    for number, (findings, impression, headings) in OPENI.items():
        majors = "".join(f"<major>{heading}</major>" for heading in headings) + "<automatic>pneumothorax</automatic>"
        content = XML.format(number=number, findings=findings, impression=impression, headings=majors)
        (folder / "ecgen-radiology" / f"{number}.xml").write_text(content)
    return folder


def openi_archive(folder):
    openi_folder(folder / "unpacked")
    with tarfile.open(folder / "NLMCXR_reports.tgz", "w:gz") as archive:
        archive.add(folder / "unpacked" / "ecgen-radiology", "ecgen-radiology")
    return folder / "NLMCXR_reports.tgz"


def openi_csv(folder):
    lines = ["uid,MeSH,Problems,image,indication,comparison,findings,impression"]
    for number, (findings, impression, headings) in OPENI.items():
        findings = findings.replace("&lt;", "<").replace("&gt;", ">")
        problems = ";".join(heading.split("/")[0] for heading in headings)
        lines.append(f'{number},"{";".join(headings)}","{problems}",Chest,Janeroe,None.,{findings},{impression}')
    (folder / "indiana_reports.csv").write_text("\n".join(lines) + "\n")
    return folder / "indiana_reports.csv"


@pytest.mark.parametrize("form", [openi_folder, openi_archive, openi_csv])
def test_openi_in_its_three_forms(form, tmp_path):
    """Qualified headings count, automatic ones don't; the indication, which names the suspicion, is no input."""
    data = read_openi(form(tmp_path))
    documents = data.splits["train"]
    assert {document.id: document.labels for document in documents} == EXPECTED
    assert (data.kind, data.labels) == ("labels", FINDINGS)
    texts = {document.id: document.text for document in documents}
    assert texts["CXR2"] == "FINDINGS: Borderline heart <XXXX>.\n\nIMPRESSION: No effusion."
    assert texts["CXR1"] == "IMPRESSION: Normal chest x-XXXX." and texts["CXR10"] == "FINDINGS: Effusion."
    assert not any(document.unknown_labels or document.patient for document in documents)
    assert data.report.left_out == {"report that wasn't indexed": 2, "report without findings and impression": 1}
    if form is openi_folder:
        assert [document.id for document in documents] == ["CXR1", "CXR2", "CXR10", "CXR18"]


def test_other_forms_of_openi_are_refused(tmp_path):
    refused("holds no ecgen-radiology/N.xml", read_openi, tmp_path)
    refused("holds no ecgen-radiology/N.xml", read_openi, tmp_path / "none")
    (tmp_path / "a.tgz").write_bytes(openi_archive(tmp_path).read_bytes()[:200])
    refused(r"a\.tgz: broken or cut-off \.tgz file", read_openi, tmp_path / "a.tgz")
    folder = tmp_path / "unpacked" / "ecgen-radiology"
    (folder / "2.xml").write_text("<a>Janeroe</b>")
    refused(r"2\.xml, line 1: malformed XML", read_openi, folder)
    (folder / "2.xml").write_text('<!DOCTYPE a [<!ENTITY b "Janeroe">]><a>&b;</a>')
    refused(r"2\.xml, line 1: has a document type", read_openi, folder)
    (folder / "2.xml").write_text("<a>Janeroe</a>")
    refused(r"2\.xml: has no <uId id=\.\.\.>", read_openi, folder)
    (folder / "2.xml").write_text((folder / "10.xml").read_text())
    refused("document 3 .* has the identifier of document 2", read_openi, folder)


REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ with new onset ascites, Janeroe  // eval for pneumonia

 FINDINGS:

 AP VIEW OF THE CHEST:  There is no focal consolidation.

 IMPRESSION:

 No acute process.
"""
CHEXPERT = ["subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,"
            "Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,"
            "Support Devices"]  # fmt: skip


def mimic(folder, *rows, reports=None, compressed=True):
    """Write the labels and a report for each row; a row is (patient, study, values of the 14 findings)."""
    lines = CHEXPERT + [f"{patient},{study},{values}" for patient, study, values in rows]
    name, content = "mimic-cxr-2.0.0-chexpert.csv", ("\n".join(lines) + "\n").encode()
    (folder / (name + ".gz" * compressed)).write_bytes(gzip.compress(content) if compressed else content)
    for patient, study, _ in rows:
        path = folder / "files" / f"p{patient[:2]}" / f"p{patient}" / f"s{study}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((reports or {}).get(study, REPORT))
    return folder


@pytest.mark.parametrize("compressed", [True, False])
def test_mimic_cxr(compressed, tmp_path):
    """Blank is absent, -1 is unknown, and both are counted; the patient is that of the folder."""
    rows = [("50414267", ",,,,,,,,1.0,,,,,"), ("53189527", "1.0,-1.0,,0.0,1.0,,,,,-1,,1,,")]
    mimic(tmp_path, *(("10000032", study, values) for study, values in rows), compressed=compressed)
    data = read_mimic_cxr(tmp_path)
    first, second = data.splits["train"]
    assert (first.id, first.patient, first.labels, first.unknown_labels) == ("s50414267", "10000032", (), ())
    assert (second.labels, second.unknown_labels) == (
        ("Pneumonia", "Atelectasis"),
        ("Cardiomegaly", "Pleural Effusion"),
    )
    assert data.report.mended == {"finding that isn't mentioned taken as absent": 7 + 2}
    assert data.report.left_out == {"uncertain finding": 2}
    assert (
        data.report.places["uncertain finding"]
        == [f"{tmp_path}/mimic-cxr-2.0.0-chexpert.csv{'.gz' * compressed}, row 2"] * 2
    )


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (REPORT, REPORT[REPORT.index("FINDINGS") :].strip()),
        (" INDICATION: Janeroe\n FINDINGS AND IMPRESSION:  Clear.\n", "FINDINGS AND IMPRESSION:  Clear."),
        (" INDICATION: Janeroe\n CONCLUSION/IMPRESSION: Clear.\n", "CONCLUSION/IMPRESSION: Clear."),
        (" INDICATION: Janeroe, FINDINGS: none\n IMPRESSION: Clear.\n", "IMPRESSION: Clear."),
        (" PA AND LATERAL CHEST\n\n The findings: clear.\n", "PA AND LATERAL CHEST\n\n The findings: clear."),
    ],
)
def test_the_indication_of_a_report_is_no_input(report, text, tmp_path):
    data = read_mimic_cxr(mimic(tmp_path, ("10000032", "1", "0," * 13 + "0"), reports={"1": report}))
    assert [document.text for document in data.splits["train"]] == [text]
    rule = "report without the heading FINDINGS or IMPRESSION taken whole"
    assert data.report.mended == ({rule: 1} if "clear" in report else {})


def test_studies_without_a_text_are_left_out(tmp_path):
    rows = [("10000032", study, "0," * 13 + "0") for study in ("1", "2", "3")]
    mimic(tmp_path, *rows, reports={"2": " \n"})
    (tmp_path / "files" / "p10" / "p10000032" / "s3.txt").unlink()
    data = read_mimic_cxr(tmp_path)
    assert [document.id for document in data.splits["train"]] == ["s1"]
    assert data.report.left_out == {"report without text": 1, "study without a report": 1}


def test_other_forms_of_mimic_cxr_are_refused(tmp_path):
    refused(r"mimic-cxr-2\.0\.0-chexpert\.csv\.gz: cannot be read", read_mimic_cxr, tmp_path)
    mimic(tmp_path, ("10000032", "1", "2.0" + ",0" * 13))
    refused("row 1: a finding is none of 1, 0, -1 and blank", read_mimic_cxr, tmp_path)
    mimic(tmp_path, *[("10000032", "1", "0," * 13 + "0")] * 2)
    refused("document 2 .* has the identifier of document 1", read_mimic_cxr, tmp_path)
    mimic(tmp_path, ("10000032", "1", "0," * 13 + "0"))
    (tmp_path / "files" / "p10" / "p10000032" / "s1.txt").unlink()
    refused("holds no report like p10/p10000032/s50414267.txt", read_mimic_cxr, tmp_path)


def test_the_task_trains_on_mimic_cxr_and_tests_on_openi(tmp_path):
    (tmp_path / "mimic").mkdir()
    mimic(tmp_path / "mimic", ("10000032", "1", "-1," * 13 + "0"))
    data = read_chest_xray(tmp_path / "mimic", openi_folder(tmp_path / "openi"))
    assert {split: len(documents) for split, documents in data.splits.items()} == {"train": 1, "test": 4}
    assert data.report.left_out["uncertain finding"] == 7 and data.report.left_out["report that wasn't indexed"] == 2
