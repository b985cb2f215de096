"""Synthetic notes in the form of MIMIC-III's NOTEEVENTS: for the demo and the tests, of nobody.

A patient's conditions imply drugs, doses, laboratory values and findings, and all of a patient's notes agree on them,
so that a model has something to learn, near and far. Every sentence here was written for this generator.
"""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizer_tools.errors import UserError

COLUMNS = (
    "ROW_ID", "SUBJECT_ID", "HADM_ID", "CHARTDATE", "CHARTTIME", "STORETIME",
    "CATEGORY", "DESCRIPTION", "CGID", "ISERROR", "TEXT",
)  # fmt: skip

# Condition: (drugs with dose, route and frequency), (laboratory values with unit), (what is found), (what it came with)
CONDITIONS: dict[str, tuple[tuple[str, ...], tuple[tuple[str, float, float, str], ...], str, str]] = {
    "congestive heart failure": (
        ("furosemide 40 mg PO BID", "carvedilol 12.5 mg PO BID", "lisinopril 10 mg PO DAILY"),
        (("BNP", 400, 2400, "pg/mL"),),
        "bibasilar crackles and 2+ pitting edema of both legs",
        "worsening shortness of breath on exertion and orthopnea",
    ),
    "atrial fibrillation": (
        ("metoprolol tartrate 25 mg PO BID", "warfarin 5 mg PO DAILY", "digoxin 0.125 mg PO DAILY"),
        (("INR", 1.6, 3.4, ""),),
        "irregularly irregular rhythm without murmur",
        "palpitations and lightheadedness",
    ),
    "type 2 diabetes mellitus": (
        ("metformin 1000 mg PO BID", "insulin glargine 20 units SC QHS"),
        (("Hemoglobin A1c", 6.9, 10.8, "%"), ("Glucose", 140, 320, "mg/dL")),
        "decreased sensation to monofilament over both feet",
        "polyuria and high home glucose readings",
    ),
    "pneumonia": (
        ("ceftriaxone 1 g IV Q24H", "azithromycin 500 mg PO DAILY"),
        (("WBC", 11.2, 21.5, "K/uL"), ("Lactate", 1.1, 3.2, "mmol/L")),
        "right lower lobe crackles with egophony",
        "productive cough, fever and pleuritic chest pain",
    ),
    "chronic obstructive pulmonary disease": (
        ("albuterol 2.5 mg NEB Q4H PRN", "tiotropium 18 mcg INH DAILY", "prednisone 40 mg PO DAILY"),
        (("pCO2", 44, 62, "mmHg"),),
        "diffuse expiratory wheezes and prolonged expiration",
        "increased sputum and wheezing",
    ),
    "chronic kidney disease": (
        ("calcium acetate 667 mg PO TID", "sodium bicarbonate 650 mg PO TID"),
        (("Creatinine", 1.8, 4.6, "mg/dL"), ("BUN", 32, 88, "mg/dL")),
        "no asterixis and no pericardial rub",
        "rising creatinine on routine laboratory testing",
    ),
    "hypertension": (
        ("amlodipine 5 mg PO DAILY", "hydrochlorothiazide 25 mg PO DAILY"),
        (("Creatinine", 0.7, 1.2, "mg/dL"),),
        "regular rhythm with a loud second heart sound",
        "headache with high blood pressure readings at home",
    ),
    "gastrointestinal bleed": (
        ("pantoprazole 40 mg IV BID",),
        (("Hemoglobin", 6.4, 9.2, "g/dL"), ("Hematocrit", 19, 28, "%")),
        "mild epigastric tenderness, stool guaiac positive",
        "two days of black stools and fatigue",
    ),
    "urinary tract infection": (
        ("ciprofloxacin 500 mg PO BID",),
        (("WBC", 10.8, 16.9, "K/uL"),),
        "suprapubic tenderness without costovertebral angle tenderness",
        "dysuria, frequency and confusion",
    ),
    "ischemic stroke": (
        ("aspirin 325 mg PO DAILY", "atorvastatin 80 mg PO QHS"),
        (("LDL", 88, 176, "mg/dL"),),
        "right facial droop and 4/5 strength of the right arm",
        "sudden weakness of the right arm and slurred speech",
    ),
    "hypothyroidism": (
        ("levothyroxine 75 mcg PO DAILY",),
        (("TSH", 2.1, 9.8, "uIU/mL"),),
        "thyroid not enlarged, delayed relaxation of reflexes",
        "fatigue and cold intolerance",
    ),
    "depression": (
        ("sertraline 50 mg PO DAILY",),
        (("Sodium", 131, 139, "mEq/L"),),
        "flat affect, no suicidal ideation",
        "low mood and poor appetite",
    ),
}
DENIALS = ("chest pain", "shortness of breath", "fever", "chills", "nausea", "vomiting", "abdominal pain", "headache",
           "dizziness", "dysuria", "palpitations", "diarrhea")  # fmt: skip
ALLERGIES = ("No known drug allergies", "Penicillins", "Sulfa", "Codeine", "Lisinopril (cough)", "Iodine contrast")
SERVICES = ("MEDICINE", "CARDIOLOGY", "NEUROLOGY", "SURGERY")
LIVING = ("with a spouse", "alone in an apartment", "with a daughter", "in a nursing home")
HABITS = ("denies tobacco, alcohol or drug use", "former smoker, quit 10 years ago, no alcohol",
          "smokes 1 pack per day, occasional alcohol", "no tobacco, one glass of wine per week")  # fmt: skip


class Patient:
    """One made-up patient."""

    def __init__(self, seed: int, number: int) -> None:
        rng = self.rng = random.Random(f"clinical-pretrain {seed} {number}")
        self.subject = 10_000 + 7 * number
        self.sex = rng.choice(("M", "F"))
        self.age = rng.randrange(34, 92)
        self.conditions = rng.sample(sorted(CONDITIONS), rng.randrange(2, 5))
        self.drugs = [drug for name in self.conditions for drug in CONDITIONS[name][0] if rng.random() < 0.8]
        self.drugs = self.drugs or [CONDITIONS[self.conditions[0]][0][0]]
        self.allergy, self.living, self.habits = rng.choice(ALLERGIES), rng.choice(LIVING), rng.choice(HABITS)
        self.systolic, self.pulse, self.weight = rng.randrange(102, 168), rng.randrange(58, 108), rng.randrange(52, 118)
        self.service = rng.choice(SERVICES)

    @property
    def person(self) -> str:
        """man or woman."""
        return "man" if self.sex == "M" else "woman"

    @property
    def he(self) -> str:
        """He or She."""
        return "He" if self.sex == "M" else "She"

    def value(self, low: float, high: float) -> str:
        """A number as a laboratory prints it."""
        number = self.rng.uniform(low, high)
        return f"{number:.0f}" if high > 50 else f"{number:.1f}"

    def vitals(self) -> str:
        """A line of vital signs, about the patient's own."""
        rng = self.rng
        return (
            f"T {rng.uniform(97.2, 99.6):.1f} HR {self.pulse + rng.randrange(-6, 7)} BP "
            f"{self.systolic + rng.randrange(-8, 9)}/{self.systolic // 2 + rng.randrange(-4, 5)} RR "
            f"{rng.randrange(14, 22)} O2 sat {rng.randrange(93, 100)}% on "
            f"{rng.choice(('room air', '2L nasal cannula', '4L nasal cannula'))}"
        )

    def labs(self) -> str:
        """A line of laboratory values."""
        values = [f"{name} {self.value(low, high)} {unit}".strip()
                  for condition in self.conditions for name, low, high, unit in CONDITIONS[condition][1]]  # fmt: skip
        values += [f"Na {self.value(133, 144)} mEq/L", f"K {self.value(3.4, 5.1)} mEq/L"]
        if "chronic obstructive pulmonary disease" in self.conditions or "pneumonia" in self.conditions:
            values.append(f"pH {self.rng.uniform(7.30, 7.45):.2f}")
        return ", ".join(values)

    def denies(self) -> str:
        """A negated sentence."""
        return f"{self.he} denies {', '.join(self.rng.sample(DENIALS, 3))}."

    def history(self) -> str:
        """Past medical history, numbered."""
        return "\n".join(f"{i}. {name}" for i, name in enumerate(self.conditions, 1))

    def medications(self) -> str:
        """Medication list, numbered."""
        return "\n".join(f"{i}. {drug}" for i, drug in enumerate(self.drugs, 1))

    def introduction(self) -> str:
        """The sentence that a note begins with."""
        return (
            f"This is a {self.age} year old {self.person} with a history of {', '.join(self.conditions[1:])} "
            f"who presents with {CONDITIONS[self.conditions[0]][3]}."
        )

    def drugs_for(self, condition: str) -> list[str]:
        """The patient's drugs for one condition."""
        return [drug for drug in self.drugs if drug in CONDITIONS[condition][0]]

    def plan(self) -> str:
        """A paragraph for each condition: its drugs."""
        lines = []
        for name in self.conditions:
            mine = self.drugs_for(name)
            action = f"continue {' and '.join(mine)}" if mine else "hold home medications and monitor"
            lines.append(f"# {name.capitalize()}: {CONDITIONS[name][2].capitalize()}. Will {action}.")
        return "\n".join(lines)


def _name(rng: random.Random) -> str:
    gap = "\n" if rng.random() < 0.1 else " "
    return f"[**Known{gap}lastname {rng.randrange(1, 999)}**]"


def _date(rng: random.Random) -> str:
    return f"[**{rng.randrange(2101, 2199)}-{rng.randrange(1, 13)}-{rng.randrange(1, 29)}**]"


def _discharge_summary(p: Patient) -> str:
    rng, first = p.rng, p.conditions[0]
    course = "\n\n".join(
        f"# {name.capitalize()}: The patient was admitted with {CONDITIONS[name][3]}. On examination there was "
        f"{CONDITIONS[name][2]}. Laboratory values were notable for "
        f"{', '.join(f'{lab} {p.value(low, high)} {unit}'.strip() for lab, low, high, unit in CONDITIONS[name][1])}. "
        f"{p.he} was treated with {' and '.join(p.drugs_for(name)) or 'supportive care'} with good effect. "
        f"{p.denies()} On hospital day "
        f"{rng.randrange(2, 6)} vital signs were {p.vitals()}."
        for name in p.conditions
    )
    return f"""Admission Date:  {_date(rng)}              Discharge Date:   {_date(rng)}

Date of Birth:  {_date(rng)}             Sex:   {p.sex}

Service: {p.service}

Allergies:
{p.allergy}

Attending:[**First Name3 (LF) {rng.randrange(1, 999)}**]
Chief Complaint:
{CONDITIONS[first][3].capitalize()}

Major Surgical or Invasive Procedure:
None

History of Present Illness:
{p.introduction()} {p.denies()} {p.he} was seen in the emergency department of [**Hospital1 {rng.randrange(1, 30)}**], where initial vital signs were {p.vitals()}. Labs were notable for {p.labs()}. No recent travel and no sick contacts.

Past Medical History:
{p.history()}

Social History:
The patient lives {p.living}. {p.he} {p.habits}.

Family History:
No family history of early cardiac death.

Physical Exam:
VS: {p.vitals()}
GENERAL: {rng.choice(("well appearing", "tired appearing", "thin"))}, in no acute distress
HEENT: no scleral icterus, mucous membranes {rng.choice(("moist", "dry"))}
NECK: no lymphadenopathy, JVP {"elevated" if "congestive heart failure" in p.conditions else "not elevated"}
EXAM: {CONDITIONS[first][2]}
ABDOMEN: soft, non-tender, no rebound or guarding
NEURO: alert and oriented x3

Pertinent Results:
{p.labs()}

______________________________________________________________

Brief Hospital Course:
{course}

Medications on Admission:
{p.medications()}

Discharge Medications:
{p.medications()}

Discharge Disposition:
{rng.choice(("Home", "Home With Service", "Extended Care"))}

Discharge Diagnosis:
Primary: {first}
Secondary: {", ".join(p.conditions[1:])}

Discharge Condition:
Stable, afebrile, no oxygen requirement.

Discharge Instructions:
You were admitted for {CONDITIONS[first][3]}. Please take {p.drugs[0]} as prescribed. Weigh yourself every morning and call Dr. {_name(rng)} if your weight goes up more than 3 lbs.

Followup Instructions:
Provider: {_name(rng)}, MD Phone:[**Telephone/Fax (1) {rng.randrange(1000, 9999)}**] Date/Time:{_date(rng)} {rng.randrange(8, 17)}:{rng.choice(("00", "15", "30", "45"))}
"""  # noqa: E501


def _nursing(p: Patient) -> str:
    rng = p.rng
    return (
        f"Pt is a {p.age}yo {p.person} with {p.conditions[0]}.\n\nAction:\nVitals: {p.vitals()}. Given "
        f"{rng.choice(p.drugs)} as ordered. {rng.choice(('Foley to gravity.', 'Voiding without difficulty.'))}\n"
        f"Response:\n{p.denies()} UOP {rng.randrange(20, 120)} mL/hr. Pain {rng.randrange(0, 7)}/10.\n"
        f"Plan:\nContinue to monitor.   Labs: {p.labs()}. Family {_name(rng)} updated.\n"
    )


def _nursing_other(p: Patient) -> str:
    rng = p.rng
    return (
        f"NPN 0700-1900\n{rng.choice(('NEURO', 'Neuro'))}: A&Ox3, no deficits noted.\nCV: {p.vitals()}\n"
        f"RESP: {CONDITIONS[p.conditions[0]][2]}.\nGI:\tabd soft, no n/v.\nPLAN: {rng.choice(p.drugs)}.\n"
    )


def _physician(p: Patient) -> str:
    rng = p.rng
    return (
        f"TITLE: {p.service} PROGRESS NOTE\nChief Complaint: {CONDITIONS[p.conditions[0]][3]}\n"
        f"24 Hour Events: No acute events overnight. {p.denies()}\nAllergies: {p.allergy}\n\n"
        f"Vital signs: {p.vitals()}\nWgt: {p.weight} kg\n\nLabs: {p.labs()}\n\nAssessment and Plan\n"
        f"{p.introduction()}\n{p.plan()}\nCode status: {rng.choice(('Full code', 'DNR / DNI'))}\n"
        f"Electronically signed by {_name(rng)}, MD on {_date(rng)}\n"
    )


def _radiology(p: Patient) -> str:
    sick = "pneumonia" in p.conditions
    wet = "congestive heart failure" in p.conditions
    return (
        f"{_date(p.rng)} {p.rng.randrange(1, 13)}:{p.rng.randrange(10, 60)} AM\n CHEST (PORTABLE AP)"
        f"                              Clip # [**Clip Number (Radiology) {p.rng.randrange(100, 9999)}**]\n"
        f" Reason: {CONDITIONS[p.conditions[0]][3]}\n{'_' * 66}\n FINAL REPORT\n HISTORY: {p.age}-year-old {p.person} "
        f"with {p.conditions[0]}.\n FINDINGS: {'Right lower lobe opacity.' if sick else 'The lungs are clear.'} "
        f"{'There is mild pulmonary edema with small effusions.' if wet else 'No pleural effusion or pneumothorax.'} "
        f"The heart is {'enlarged' if wet else 'normal in size'}.\n IMPRESSION: "
        f"{'Right lower lobe pneumonia.' if sick else 'No acute cardiopulmonary process.'}\n"
    )


def _ecg(p: Patient) -> str:
    if "atrial fibrillation" in p.conditions:
        return f"Atrial fibrillation with a ventricular rate of {p.pulse}. No previous tracing available.\n"
    return f"Sinus rhythm, rate {p.pulse}. No diagnostic ST-T wave changes compared to tracing of {_date(p.rng)}.\n"


def _echo(p: Patient) -> str:
    low = "congestive heart failure" in p.conditions
    return (
        f"PATIENT/TEST INFORMATION:\nIndication: {p.conditions[0]}.\nWeight (lb): {round(p.weight * 2.2)}\nBP (mm Hg): "
        f"{p.systolic}/{p.systolic // 2}\nHR (bpm): {p.pulse}\n\nConclusions:\nLVEF "
        f"{p.rng.randrange(20, 40) if low else p.rng.randrange(55, 70)}%. "
        f"{'Severe global left ventricular hypokinesis.' if low else 'Left ventricular wall motion is normal.'} "
        "No aortic stenosis. No pericardial effusion.\n"
    )


def _respiratory(p: Patient) -> str:
    return (
        f"Respiratory Care: {p.vitals()}. Pt on {p.rng.choice(('PSV', 'CPAP', 'SIMV'))} with PEEP "
        f"{p.rng.randrange(5, 13)} cmH2O, FiO2 {p.rng.choice(('40%', '50%', '60%'))}. No distress.\n"
    )


def _nutrition(p: Patient) -> str:
    return (
        f"Clinical Nutrition: Ht {p.rng.randrange(152, 190)} cm, Wt {p.weight} kg. Diet: "
        f"{'diabetic' if 'type 2 diabetes mellitus' in p.conditions else 'regular'}, 2 g sodium. Estimated needs "
        f"{p.weight * 25} kcal/day. No chewing difficulty. Labs: {p.labs()}\n"
    )


def _social_work(p: Patient) -> str:
    return (
        f"Social Work: Met with pt and {_name(p.rng)}. Pt lives {p.living}. {p.he} {p.habits}. "
        f"Coping adequately with {p.conditions[0]}. Will follow.\n"
    )


_KINDS = {
    "Nursing": (_nursing, "Nursing Progress Note", 5),
    "Nursing/other": (_nursing_other, "Report", 6),
    "Physician ": (_physician, "Physician Resident Progress Note", 4),
    "Radiology": (_radiology, "CHEST (PORTABLE AP)", 3),
    "ECG": (_ecg, "Report", 2),
    "Echo": (_echo, "Report", 1),
    "Respiratory ": (_respiratory, "Respiratory Care Shift Note", 1),
    "Nutrition": (_nutrition, "Clinical Nutrition Note", 1),
    "Social Work": (_social_work, "Social Work Progress Note", 1),
}


def notes_of(patients: int, seed: int) -> Iterator[tuple[str, ...]]:
    """Rows of NOTEEVENTS, patient by patient: about 1 % exact copies of an earlier note, and a few empty ones."""
    row, last = 0, ""
    weighted = [kind for kind, (_, _, weight) in _KINDS.items() for _ in range(weight)]
    for number in range(patients):
        p = Patient(seed, number)
        rng = p.rng
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
            admission = rng.randrange(100_000, 200_000)
            day = datetime.datetime(rng.randrange(2101, 2199), rng.randrange(1, 13), rng.randrange(1, 29), 8)
            kinds = [rng.choice(weighted) for _ in range(rng.randrange(3, 8))] + ["Discharge summary"]
            for kind in kinds:
                row += 1
                day += datetime.timedelta(minutes=rng.randrange(60, 1500))
                write, description, _weight = _KINDS.get(kind, (_discharge_summary, "Report", 1))
                text = write(p)
                draw = rng.random()
                if draw < 0.01 and last:
                    text = last
                elif draw < 0.013:
                    text = ""
                last = text or last
                time = "" if kind == "Discharge summary" else day.isoformat(" ")
                yield (str(row), str(p.subject), str(admission), day.date().isoformat(), time, time, kind, description,
                       "", "", text)  # fmt: skip


def make_notes(out: Path, *, patients: int = 400, seed: int = 0) -> dict[str, int]:
    """Write synthetic notes to a CSV or CSV.GZ file; the same arguments give the same bytes.

    Args:
        out: the file; its ending says which.
        patients: how many; 400 give about 4 MB.
        seed: another seed gives other notes.

    Returns:
        Counts: patients, notes, characters.

    Raises:
        UserError: the ending is another one, or there are no patients.
    """
    if not out.name.endswith((".csv", ".csv.gz")):
        raise UserError(f"{out}: the file's name must end in .csv or .csv.gz")
    if patients < 1:
        raise UserError(f"--patients {patients}: must be at least 1")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    notes = characters = 0
    with temporary.open("wb") as raw:
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if out.name.endswith(".gz") else raw
        with io.TextIOWrapper(packed, encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            for row in notes_of(patients, seed):
                writer.writerow(row)
                notes, characters = notes + 1, characters + len(row[-1])
    temporary.replace(out)
    return {"patients": patients, "notes": notes, "characters": characters}
