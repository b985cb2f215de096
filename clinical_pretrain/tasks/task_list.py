"""The tasks: those of the paper (Li et al., Clinical-Longformer and Clinical-BigBird), MedConceptsQA, and open ones.

What `paper` says of the authors' settings is read from luoyuanlab/Clinical-Longformer and the preprocessing that it
points to (EmilyAlsentzer/clinicalBERT, sunlab-osu/CliniRC).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

from clinical_pretrain.tasks.readers.brat import read_brat
from clinical_pretrain.tasks.readers.chest_xray import read_chest_xray
from clinical_pretrain.tasks.readers.common import find_one
from clinical_pretrain.tasks.readers.emrqa import Part, read_emrqa
from clinical_pretrain.tasks.readers.i2b2_2006 import FILES as I2B2_2006_FILES
from clinical_pretrain.tasks.readers.i2b2_2006 import read_i2b2_2006
from clinical_pretrain.tasks.readers.i2b2_2010 import read_i2b2_2010
from clinical_pretrain.tasks.readers.i2b2_xml import read_i2b2_2012, read_i2b2_2014
from clinical_pretrain.tasks.readers.iob import read_iob
from clinical_pretrain.tasks.readers.kidney_injury import read_kidney_injury
from clinical_pretrain.tasks.readers.medconceptsqa import FILES as MEDCONCEPTSQA_FILES
from clinical_pretrain.tasks.readers.medconceptsqa import as_task_data, read_medconceptsqa
from clinical_pretrain.tasks.readers.mednli import FILES as MEDNLI_FILES
from clinical_pretrain.tasks.readers.mednli import read_mednli
from clinical_pretrain.tasks.readers.mtsamples import FILES as MTSAMPLES_FILES
from clinical_pretrain.tasks.readers.mtsamples import read_mtsamples
from clinical_pretrain.tasks.readers.pubmedqa import read_pubmedqa
from clinical_pretrain.tasks.readers.squad import read_squad
from clinical_pretrain.tasks.records import TaskData
from clinical_pretrain.tasks.task import ChoiceMethod, Method, PaperProtocol, Task

N2C2 = "https://portal.dbmi.hms.harvard.edu/projects/n2c2-nlp/ (n2c2 data use agreement)"
BIOMEDICAL_IOB = "https://github.com/cambridgeltl/MTL-Bioinformatics-2016, folder data/"
OPENI_FILES = ("NLMCXR_reports.tgz", "ecgen-radiology", "indiana_reports.csv")
CLINIRC_WORDS = 20
"""CliniRC leaves out answers of this many words or more."""
MEDNLI = PaperProtocol(
    learning_rate=2e-5,
    epochs=3,
    batch_size=16,
    deviations=(
        "No code or setting of the authors was published for MedNLI: learning rate, batch size and epochs are the "
        "lowest, and the length is that, of clinicalBERT's grid (2e-5, 3e-5, 5e-5; 16, 32; 3 to 5; 150 tokens).",
    ),
    max_length=150,
)
OPENI = PaperProtocol(
    learning_rate=2e-5,
    epochs=10,
    batch_size=4,
    deviations=(
        "The last epoch is scored, and the test split once; the authors' notebook scores it after every epoch.",
        "Uncertain findings are neither trained on nor scored; what the authors do with them isn't said.",
        "Texts keep their case; the authors' sample of MIMIC-CXR is lower-case, that of OpenI is not.",
        "The development split, which has no influence under this protocol, is taken out of MIMIC-CXR.",
    ),
    max_length=1024,
)
KIDNEY_INJURY = replace(
    OPENI,
    deviations=(
        "No code or setting of the authors was published for this task: patients and labels follow our definition "
        "(KDIGO creatinine), and the settings are those of their other classification of documents, OpenI.",
    ),
    max_length=0,
)


def _entities_of_the_paper(*deviations: str, is_tokenised: bool) -> PaperProtocol:
    """run_ner.py: learning rate 2e-5, 4 epochs, batches of 4 on each of 4 GPUs."""
    common = (
        "A line of a text is a sentence; the authors divide sentences by clinicalBERT's preprocessing.",
        "Scores compare entities on characters; the authors use seqeval's default mode on the tags of words.",
        "Each model has its own maximum length; the authors cut BigBird at 512 tokens by mistake, and give RoBERTa "
        "4,096, which sentences don't reach.",
        "The precision is that of --precision; the authors train in fp16.",
    )
    whole_texts = (
        "A word ends at white space and at each sign that is neither letter nor digit; the authors' words end at white "
        "space and at the borders of gold entities, in the test set, too.",
    )
    return PaperProtocol(
        2e-5,
        4,
        16,
        (*deviations, *common, *(() if is_tokenised else whole_texts)),
        sentences=True,
        first_subword=True,
        punctuation_divides=not is_tokenised,
    )


def _read_emrqa(folder: Path, part: Part) -> TaskData:
    return read_emrqa(find_one(folder, "data.json"), part, "evidence", CLINIRC_WORDS)


def _answers_of_the_paper(train_share: float, *deviations: str) -> PaperProtocol:
    common = (
        "Notes are divided by a hash; CliniRC divides them 7:1:2 by a shuffle with seed 55.",
        "Answers at a note's beginning are kept; CliniRC's code drops them by mistake.",
        "A predicted answer may be longer than the 30 tokens of the authors' script, which cut correct ones.",
    )
    return PaperProtocol(3e-5, 4, 4, (*deviations, *common), max_length=4096, train_share=train_share)


def _emrqa(name: str, title: str, part: Part, paper: PaperProtocol) -> Task:
    return Task(
        name,
        title,
        kind="answers",
        metric="f1",
        read=partial(_read_emrqa, part=part),
        source="https://portal.dbmi.hms.harvard.edu/projects/n2c2-nlp/, emrQA (n2c2 data use agreement)",
        files=("**/data.json",),
        suites=("paper",),
        data_name="emrqa",
        paper=paper,
    )


def _read_openi(folder: Path) -> TaskData:
    openi = folder / "openi"
    found = next((openi / name for name in OPENI_FILES if (openi / name).exists()), openi)
    return read_chest_xray(folder / "mimic_cxr", found)


def _read_covid_qa(folder: Path) -> TaskData:
    return read_squad(find_one(folder, "200423_covidQA.json", "COVID-QA.json"))


def _read_choices(folder: Path) -> TaskData:
    return as_task_data(read_medconceptsqa(folder))


def _choices(how: ChoiceMethod) -> Task:
    short, what = {
        "prompt": ("prompt", "letter in place of a mask"),
        "pseudo_log_likelihood": ("pll", "pseudo-log-likelihood of the options"),
    }[how.method]
    return Task(
        f"medconceptsqa_{short}_{how.shots}",
        f"MedConceptsQA: medical codes, multiple choice by {what}, {how.shots} examples",
        kind="class",
        metric="accuracy",
        read=_read_choices,
        source="https://huggingface.co/datasets/ofir408/MedConceptsQA",
        files=tuple(f"all/{name}" for name in MEDCONCEPTSQA_FILES.values()),
        suites=("paper",),
        data_name="medconceptsqa",
        choices=how,
    )


def _i2b2(
    name: str,
    title: str,
    read: Callable[[Path], TaskData],
    files: tuple[str, ...],
    development: str,
    is_tokenised: bool = True,
) -> Task:
    drawn = f"The development split is drawn by a hash; clinicalBERT's is {development}."
    paper = _entities_of_the_paper(drawn, is_tokenised=is_tokenised)
    return Task(
        name, title, "entities", "f1", read, N2C2, tuple(f"**/{file}" for file in files), ("paper",), paper=paper
    )


def _i2b2_tasks() -> list[Task]:
    of_patients = "10 % of patients, drawn without a seed in the order of a directory listing, and can't be reproduced"
    return [
        _i2b2(
            "i2b2_2006",
            "i2b2 2006: identifiers in discharge summaries",
            read_i2b2_2006,
            tuple(I2B2_2006_FILES.values()),
            "the last 30 % of sentences",
        ),
        _i2b2(
            "i2b2_2010",
            "i2b2/VA 2010: problems, tests and treatments",
            read_i2b2_2010,
            (
                "beth/txt",
                "beth/concept",
                "partners/txt",
                "partners/concept",
                "test_data",
                "reference_standard_for_test_data/concepts",
            ),
            "10 % of the documents of each hospital",
        ),
        _i2b2(
            "i2b2_2012",
            "i2b2 2012: clinical events of six types",
            read_i2b2_2012,
            (
                "2012-07-15.original-annotation.release",
                "2012-08-08.test-data.event-timex-groundtruth/xml or **/ground_truth/merged_xml",
            ),
            of_patients,
        ),
        _i2b2(
            "i2b2_2014",
            "i2b2/UTHealth 2014: identifiers in notes of several years",
            read_i2b2_2014,
            ("training-PHI-Gold-Set1", "training-PHI-Gold-Set2", "testing-PHI-Gold-fixed"),
            of_patients,
            is_tokenised=False,
        ),
    ]


def _emrqa_tasks() -> list[Task]:
    return [
        _emrqa(
            "emrqa_medication",
            "emrQA: the line of a note that answers a question about medications",
            "medication",
            _answers_of_the_paper(0.2, "Another fifth of the questions is drawn: the authors' sample isn't published."),
        ),
        _emrqa(
            "emrqa_relation",
            "emrQA: the line of a note that answers a question about relations of concepts",
            "relations",
            _answers_of_the_paper(0.05, "Other 5 % of the questions are drawn: the authors' sample isn't published."),
        ),
        _emrqa(
            "emrqa_risk",
            "emrQA: the line of a patient's notes that answers a question about heart disease risks",
            "risk",
            _answers_of_the_paper(
                1.0,
                "The authors' preprocessing of this part isn't known, as CliniRC's code skips it: it is treated like "
                "the other parts, without sampling.",
            ),
        ),
    ]


def _other_tasks_of_the_paper() -> list[Task]:
    physionet = "https://physionet.org/content/{} (PhysioNet credentialed access)".format
    return [
        Task(
            "mednli",
            "MedNLI: does a hypothesis follow from a sentence of a note?",
            kind="class",
            metric="accuracy",
            read=read_mednli,
            source=physionet("mednli"),
            files=tuple(MEDNLI_FILES.values()),
            suites=("paper",),
            paper=MEDNLI,
        ),
        Task(
            "openi",
            "OpenI: seven findings in reports of chest X-rays, trained on MIMIC-CXR",
            kind="labels",
            metric="auc",
            read=_read_openi,
            source=f"{physionet('mimic-cxr')}, mimic-cxr-2.0.0-chexpert.csv.gz of "
            "https://physionet.org/content/mimic-cxr-jpg, and https://openi.nlm.nih.gov/faq (open)",
            files=(
                "mimic_cxr/mimic-cxr-2.0.0-chexpert.csv.gz or mimic_cxr/mimic-cxr-2.0.0-chexpert.csv",
                "mimic_cxr/files or mimic_cxr/p1*",
                " or ".join(f"openi/{name}" for name in OPENI_FILES),
            ),
            suites=("paper",),
            paper=OPENI,
        ),
        Task(
            "mimic_aki",
            "MIMIC-III: acute kidney injury on the second or third day in intensive care, from the first day's notes",
            kind="labels",
            metric="auc",
            read=read_kidney_injury,
            source=physionet("mimiciii"),
            files=tuple(f"{name}.csv.gz or {name}.csv" for name in ("ICUSTAYS", "PATIENTS", "LABEVENTS", "NOTEEVENTS")),
            suites=("paper",),
            paper=KIDNEY_INJURY,
        ),
    ]


def _open_tasks() -> list[Task]:
    common = Task("", "", "entities", "f1", read_iob, "", ("train.tsv", "devel.tsv", "test.tsv"), ("open",))
    return [
        replace(
            common,
            name="bc5cdr",
            title="BC5CDR: chemicals and diseases in sentences of abstracts",
            source=f"{BIOMEDICAL_IOB}BC5CDR-IOB (CC BY 4.0)",
        ),
        replace(
            common,
            name="ncbi_disease",
            title="NCBI disease: diseases in sentences of abstracts",
            source=f"{BIOMEDICAL_IOB}NCBI-disease-IOB (its licence is in the repository)",
        ),
        replace(
            common,
            name="maccrobat",
            title="MACCROBAT 2020: 41 types of clinical entities in whole case reports",
            read=read_brat,
            source="https://doi.org/10.6084/m9.figshare.9764942 (CC BY 4.0)",
            files=("*.txt or train", "*.ann or train"),
        ),
        replace(
            common,
            name="covid_qa",
            title="COVID-QA: questions about whole scientific articles",
            kind="answers",
            read=_read_covid_qa,
            source="https://github.com/deepset-ai/COVID-QA (Apache-2.0)",
            files=("**/200423_covidQA.json or **/COVID-QA.json",),
        ),
        replace(
            common,
            name="pubmedqa",
            title="PubMedQA: does an abstract answer its question by yes, no or maybe?",
            kind="class",
            metric="accuracy",
            read=read_pubmedqa,
            source="https://github.com/pubmedqa/pubmedqa, folder data/ (MIT)",
            files=("ori_pqal.json", "test_ground_truth.json"),
        ),
        replace(
            common,
            name="mtsamples",
            title="MTSamples: the specialties of transcribed notes",
            kind="labels",
            metric="auc",
            read=read_mtsamples,
            source="https://www.kaggle.com/datasets/tboyle10/medicaltranscriptions (CC0 by its uploader's word)",
            files=(" or ".join(MTSAMPLES_FILES),),
        ),
    ]


def _all_tasks() -> list[Task]:
    choices = [_choices(ChoiceMethod(shots, method)) for method in get_args(Method) for shots in (0, 4)]
    return [*_i2b2_tasks(), *_emrqa_tasks(), *_other_tasks_of_the_paper(), *choices, *_open_tasks()]


TASKS: dict[str, Task] = {task.name: task for task in _all_tasks()}
"""By name."""
