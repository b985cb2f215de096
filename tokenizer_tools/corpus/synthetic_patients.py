"""Synthetic patients. A patient's conditions imply drugs, doses, laboratory values and findings."""

from __future__ import annotations

import random
from typing import NamedTuple


class Condition(NamedTuple):
    """What a condition looks like in a note."""

    drugs: tuple[str, ...]
    """Each with dose, route and frequency."""
    labs: tuple[tuple[str, float, float, str], ...]
    """Laboratory values: name, lowest, highest, unit."""
    finding: str
    """On examination."""
    complaint: str
    """What the patient presents with."""


CONDITIONS: dict[str, Condition] = {
    "congestive heart failure": Condition(
        ("furosemide 40 mg PO BID", "carvedilol 12.5 mg PO BID", "lisinopril 10 mg PO DAILY"),
        (("BNP", 400, 2400, "pg/mL"),),
        "bibasilar crackles and 2+ pitting edema of both legs",
        "worsening shortness of breath on exertion and orthopnea",
    ),
    "atrial fibrillation": Condition(
        ("metoprolol tartrate 25 mg PO BID", "warfarin 5 mg PO DAILY", "digoxin 0.125 mg PO DAILY"),
        (("INR", 1.6, 3.4, ""),),
        "irregularly irregular rhythm without murmur",
        "palpitations and lightheadedness",
    ),
    "type 2 diabetes mellitus": Condition(
        ("metformin 1000 mg PO BID", "insulin glargine 20 units SC QHS"),
        (("Hemoglobin A1c", 6.9, 10.8, "%"), ("Glucose", 140, 320, "mg/dL")),
        "decreased sensation to monofilament over both feet",
        "polyuria and high home glucose readings",
    ),
    "pneumonia": Condition(
        ("ceftriaxone 1 g IV Q24H", "azithromycin 500 mg PO DAILY"),
        (("WBC", 11.2, 21.5, "K/uL"), ("Lactate", 1.1, 3.2, "mmol/L")),
        "right lower lobe crackles with egophony",
        "productive cough, fever and pleuritic chest pain",
    ),
    "chronic obstructive pulmonary disease": Condition(
        ("albuterol 2.5 mg NEB Q4H PRN", "tiotropium 18 mcg INH DAILY", "prednisone 40 mg PO DAILY"),
        (("pCO2", 44, 62, "mmHg"),),
        "diffuse expiratory wheezes and prolonged expiration",
        "increased sputum and wheezing",
    ),
    "chronic kidney disease": Condition(
        ("calcium acetate 667 mg PO TID", "sodium bicarbonate 650 mg PO TID"),
        (("Creatinine", 1.8, 4.6, "mg/dL"), ("BUN", 32, 88, "mg/dL")),
        "no asterixis and no pericardial rub",
        "rising creatinine on routine laboratory testing",
    ),
    "hypertension": Condition(
        ("amlodipine 5 mg PO DAILY", "hydrochlorothiazide 25 mg PO DAILY"),
        (("Creatinine", 0.7, 1.2, "mg/dL"),),
        "regular rhythm with a loud second heart sound",
        "headache with high blood pressure readings at home",
    ),
    "gastrointestinal bleed": Condition(
        ("pantoprazole 40 mg IV BID",),
        (("Hemoglobin", 6.4, 9.2, "g/dL"), ("Hematocrit", 19, 28, "%")),
        "mild epigastric tenderness, stool guaiac positive",
        "two days of black stools and fatigue",
    ),
    "urinary tract infection": Condition(
        ("ciprofloxacin 500 mg PO BID",),
        (("WBC", 10.8, 16.9, "K/uL"),),
        "suprapubic tenderness without costovertebral angle tenderness",
        "dysuria, frequency and confusion",
    ),
    "ischemic stroke": Condition(
        ("aspirin 325 mg PO DAILY", "atorvastatin 80 mg PO QHS"),
        (("LDL", 88, 176, "mg/dL"),),
        "right facial droop and 4/5 strength of the right arm",
        "sudden weakness of the right arm and slurred speech",
    ),
    "hypothyroidism": Condition(
        ("levothyroxine 75 mcg PO DAILY",),
        (("TSH", 2.1, 9.8, "uIU/mL"),),
        "thyroid not enlarged, delayed relaxation of reflexes",
        "fatigue and cold intolerance",
    ),
    "depression": Condition(
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
    """A patient whom nobody has met. The same seed and number give the same patient."""

    def __init__(self, seed: int, number: int) -> None:
        rng = self.rng = random.Random(f"clinical-pretrain {seed} {number}")
        self.subject = 10_000 + 7 * number
        self.sex = rng.choice(("M", "F"))
        self.age = rng.randrange(34, 92)
        self.conditions = rng.sample(sorted(CONDITIONS), rng.randrange(2, 5))
        self.drugs = [drug for name in self.conditions for drug in CONDITIONS[name].drugs if rng.random() < 0.8]
        self.drugs = self.drugs or [CONDITIONS[self.conditions[0]].drugs[0]]
        self.allergy, self.living, self.habits = rng.choice(ALLERGIES), rng.choice(LIVING), rng.choice(HABITS)
        self.systolic, self.pulse, self.weight = rng.randrange(102, 168), rng.randrange(58, 108), rng.randrange(52, 118)
        self.service = rng.choice(SERVICES)

    @property
    def person(self) -> str:
        """The noun: man or woman."""
        return "man" if self.sex == "M" else "woman"

    @property
    def he(self) -> str:
        """The pronoun at the start of a sentence: He or She."""
        return "He" if self.sex == "M" else "She"

    def value(self, low: float, high: float) -> str:
        """A number as a laboratory prints it."""
        number = self.rng.uniform(low, high)
        return f"{number:.0f}" if high > 50 else f"{number:.1f}"

    def vitals(self) -> str:
        """A line of vital signs, close to the patient's own values."""
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
                  for condition in self.conditions for name, low, high, unit in CONDITIONS[condition].labs]  # fmt: skip
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
        """The first sentence of a note."""
        return (
            f"This is a {self.age} year old {self.person} with a history of {', '.join(self.conditions[1:])} "
            f"who presents with {CONDITIONS[self.conditions[0]].complaint}."
        )

    def drugs_for(self, condition: str) -> list[str]:
        """The patient's drugs for one condition."""
        return [drug for drug in self.drugs if drug in CONDITIONS[condition].drugs]

    def plan(self) -> str:
        """A paragraph for each condition: its drugs."""
        lines = []
        for name in self.conditions:
            drugs = self.drugs_for(name)
            action = f"continue {' and '.join(drugs)}" if drugs else "hold home medications and monitor"
            lines.append(f"# {name.capitalize()}: {CONDITIONS[name].finding.capitalize()}. Will {action}.")
        return "\n".join(lines)
