"""Ready sources, to print and edit: tables and folders of notes that many have, each as a file for --sources.

The columns are those that the owners of the data publish:

- MIMIC-III 1.4, NOTEEVENTS: https://mimic.mit.edu/docs/iii/tables/noteevents/
- MIMIC-IV-Note 2.2, discharge and radiology: https://mimic.mit.edu/docs/iv/modules/note/
- MIMIC-CXR 2.0, reports: https://physionet.org/content/mimic-cxr/
- n2c2 (i2b2) 2014: https://portal.dbmi.hms.harvard.edu/projects/n2c2-nlp/
- OMOP Common Data Model 5.4, NOTE: https://ohdsi.github.io/CommonDataModel/cdm54.html#note
- eICU 2.0, note: https://eicu-crd.mit.edu/eicutables/note/
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A file for --sources."""

    title: str
    """What it describes, in one line."""
    text: str
    """The file."""


PRESETS = {
    "mimic3": Preset(
        "MIMIC-III NOTEEVENTS",
        """\
# MIMIC-III 1.4: one table of all notes. Notes entered in error (ISERROR = 1) are dropped.
sources:
  - name: mimic3
    path: NOTEEVENTS.csv.gz
    format: csv
    columns:
      text: TEXT
      patient: SUBJECT_ID
      admission: HADM_ID
      category: CATEGORY
      time: [CHARTTIME, CHARTDATE]   # discharge summaries, ECG and echo reports have a date alone
      error: ISERROR
    # filters:                       # some of the notes only
    #   CATEGORY: [Discharge summary, Nursing, Physician]
""",
    ),
    "mimic4": Preset(
        "MIMIC-IV-Note: discharge summaries and radiology reports",
        """\
# MIMIC-IV-Note 2.2: a table of discharge summaries and one of radiology reports. note_type says DS and AD, RR and AR
# (reports and their addenda); here the table's name is the category.
sources:
  - name: mimic4-discharge
    path: note/discharge.csv.gz
    format: csv
    columns: {text: text, patient: subject_id, admission: hadm_id, time: charttime}
    category: Discharge summary
  - name: mimic4-radiology
    path: note/radiology.csv.gz
    format: csv
    columns: {text: text, patient: subject_id, admission: hadm_id, time: charttime}
    category: Radiology
    # filters: {note_type: not AR}   # without addenda
""",
    ),
    "mimic-cxr": Preset(
        "MIMIC-CXR: a folder per patient, a file per report",
        """\
# MIMIC-CXR: mimic-cxr-reports.zip, unpacked: files/p10/p10000032/s50414267.txt. The patient is the number behind the p
# of the folder, which is MIMIC-IV's subject_id: next to mimic4 a patient's reports and notes stay together.
sources:
  - name: mimic-cxr
    path: files
    format: txt
    patient_from: p{patient}/s*.txt
    category: Chest X-ray
""",
    ),
    "i2b2": Preset(
        "i2b2 and n2c2: an XML file per note, named after its patient",
        """\
# i2b2/n2c2 2014 (de-identification, heart disease): 220-01.xml is the first record of patient 220. The text is that in
# <TEXT>; annotations aren't read. Both tracks of 2014 are on the same records: name the folders of one.
sources:
  - name: i2b2
    path: [training-PHI-Gold-Set1, training-PHI-Gold-Set2, testing-PHI-Gold-fixed]
    format: xml
    patient_from: "{patient}-*.xml"
    category: i2b2
""",
    ),
    "omop": Preset(
        "OMOP: the table NOTE",
        """\
# OMOP Common Data Model 5.4. The class of a note is a concept's number; name note_title or note_source_value instead if
# they hold kinds of notes in your database. 4180186 is English.
sources:
  - name: omop
    path: note.csv.gz                # or a folder of Parquet files
    format: csv
    columns:
      text: note_text
      patient: person_id
      admission: visit_occurrence_id
      category: note_class_concept_id
      time: [note_datetime, note_date]
    # filters: {language_concept_id: 4180186}
""",
    ),
    "eicu": Preset(
        "eICU: the table note, with the patients of the table patient",
        """\
# eICU 2.0. Its table note names a stay in an ICU, not a patient: join the table patient first, which has the patient of
# each stay (uniquepid), or leave the line `patient` out and split by --split.by admission. Offsets are minutes since
# the stay began, no dates, so notes stand in the table's order.
sources:
  - name: eicu
    path: note_with_patient.csv.gz
    format: csv
    columns:
      text: notetext
      patient: uniquepid
      admission: patientunitstayid
      category: notetype
""",
    ),
    "patient-folders": Preset(
        "a folder per patient, with a text file for each note",
        """\
# notes/PATIENT/any-name.txt. Deeper: patient_from: "{patient}/*/*.txt" for notes/PATIENT/ADMISSION/any-name.txt.
sources:
  - name: notes
    path: notes
    format: txt
    patient_from: "{patient}/*.txt"
""",
    ),
    "csv": Preset(
        "any CSV or TSV file",
        """\
# Comma, tab, semicolon or bar between the columns; .csv, .tsv, also .gz and .zst. Leave out what your table hasn't.
sources:
  - name: notes
    path: notes.csv
    format: csv
    columns:
      text: note_text
      patient: patient_id
      admission: admission_id
      category: note_type
      time: note_datetime
    # date_order: day_first          # what 03/04/2101 means
    # filters:
    #   status: final                # one value
    #   note_type: [Progress, Consult]
    #   site: {not: [A, B]}          # or: site: not A
""",
    ),
    "jsonl": Preset(
        "any JSONL file: an object on each line",
        """\
# .jsonl, .ndjson, .json, also .gz and .zst, or a folder of them, such as Spark's. Every line needs all of the keys.
sources:
  - name: notes
    path: notes.jsonl
    format: jsonl
    columns:
      text: note_text
      patient: patient_id
      admission: admission_id
      category: note_type
      time: note_datetime
""",
    ),
    "parquet": Preset(
        "any Parquet file, or a folder of them",
        """\
# A file, or a folder such as Spark's. Other columns aren't read.
sources:
  - name: notes
    path: notes.parquet
    format: parquet
    columns:
      text: note_text
      patient: patient_id
      admission: admission_id
      category: note_type
      time: note_datetime
""",
    ),
}
