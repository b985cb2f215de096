"""Texts of synthetic notes, one function per category. Every sentence was written for this generator.

The functions draw from the patient's random generator, so the order of the draws is part of the result.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from tokenizer_tools.corpus.synthetic_patients import CONDITIONS, Patient


def _name(rng: random.Random) -> str:
    gap = "\n" if rng.random() < 0.1 else " "
    return f"[**Known{gap}lastname {rng.randrange(1, 999)}**]"


def _date(rng: random.Random) -> str:
    return f"[**{rng.randrange(2101, 2199)}-{rng.randrange(1, 13)}-{rng.randrange(1, 29)}**]"


def discharge_summary(p: Patient) -> str:
    """The longest kind of note, one per admission."""
    course = _hospital_course(p)  # drawn before the rest
    return _history_and_examination(p) + _course_and_discharge(p, course)


def _hospital_course(p: Patient) -> str:
    rng = p.rng
    return "\n\n".join(
        f"# {name.capitalize()}: The patient was admitted with {CONDITIONS[name].complaint}. On examination there was "
        f"{CONDITIONS[name].finding}. Laboratory values were notable for "
        f"{', '.join(f'{lab} {p.value(low, high)} {unit}'.strip() for lab, low, high, unit in CONDITIONS[name].labs)}. "
        f"{p.he} was treated with {' and '.join(p.drugs_for(name)) or 'supportive care'} with good effect. "
        f"{p.denies()} On hospital day "
        f"{rng.randrange(2, 6)} vital signs were {p.vitals()}."
        for name in p.conditions
    )


def _history_and_examination(p: Patient) -> str:
    rng, first = p.rng, p.conditions[0]
    return f"""Admission Date:  {_date(rng)}              Discharge Date:   {_date(rng)}

Date of Birth:  {_date(rng)}             Sex:   {p.sex}

Service: {p.service}

Allergies:
{p.allergy}

Attending:[**First Name3 (LF) {rng.randrange(1, 999)}**]
Chief Complaint:
{CONDITIONS[first].complaint.capitalize()}

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
EXAM: {CONDITIONS[first].finding}
ABDOMEN: soft, non-tender, no rebound or guarding
NEURO: alert and oriented x3

Pertinent Results:
{p.labs()}

"""  # noqa: E501


def _course_and_discharge(p: Patient, course: str) -> str:
    rng, first = p.rng, p.conditions[0]
    return f"""______________________________________________________________

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
You were admitted for {CONDITIONS[first].complaint}. Please take {p.drugs[0]} as prescribed. Weigh yourself every morning and call Dr. {_name(rng)} if your weight goes up more than 3 lbs.

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
        f"RESP: {CONDITIONS[p.conditions[0]].finding}.\nGI:\tabd soft, no n/v.\nPLAN: {rng.choice(p.drugs)}.\n"
    )


def _physician(p: Patient) -> str:
    rng = p.rng
    return (
        f"TITLE: {p.service} PROGRESS NOTE\nChief Complaint: {CONDITIONS[p.conditions[0]].complaint}\n"
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
        f" Reason: {CONDITIONS[p.conditions[0]].complaint}\n{'_' * 66}\n FINAL REPORT\n "
        f"HISTORY: {p.age}-year-old {p.person} with {p.conditions[0]}.\n "
        f"FINDINGS: {'Right lower lobe opacity.' if sick else 'The lungs are clear.'} "
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


class Category(NamedTuple):
    """A category of notes, as NOTEEVENTS names it."""

    write: Callable[[Patient], str]
    description: str
    weight: int
    """How often it is drawn, compared with the others."""


DISCHARGE = "Discharge summary"
CATEGORIES = {
    DISCHARGE: Category(discharge_summary, "Report", 0),
    "Nursing": Category(_nursing, "Nursing Progress Note", 5),
    "Nursing/other": Category(_nursing_other, "Report", 6),
    "Physician ": Category(_physician, "Physician Resident Progress Note", 4),
    "Radiology": Category(_radiology, "CHEST (PORTABLE AP)", 3),
    "ECG": Category(_ecg, "Report", 2),
    "Echo": Category(_echo, "Report", 1),
    "Respiratory ": Category(_respiratory, "Respiratory Care Shift Note", 1),
    "Nutrition": Category(_nutrition, "Clinical Nutrition Note", 1),
    "Social Work": Category(_social_work, "Social Work Progress Note", 1),
}
