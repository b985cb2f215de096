"""The cleaning rules that need nothing but the text: one pure function each. Those on placeholders stand in
placeholders.py; which rules run, and in which order, clean_notes.py says.

Every function takes linear time (squeeze_whitespace n log n), also on a hostile text.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from tokenizer_tools.corpus.placeholders import placeholder_spans

if TYPE_CHECKING:
    import ftfy

# Signs of clinical text after ASCII. After another character they may be half of a mojibake: ó becomes Ã³.
_SIGN_IN_PLACE = re.compile(r"(?<![^\x00-\x7f])[≥≤≠≈±°²³¹¼½¾×÷µμ‰Ω]|(?<=[ \d])Å")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ufeff\ufffe\uffff]+")
_CONTROL_BYTES = bytes((*range(9), *range(0x0E, 0x20), 0x7F))
_SEPARATOR_LINE = re.compile(r"^[ \t]*(?:_{4,}|={4,}|-{4,}|\*{4,}|~{4,}|#{4,})[ \t]*$", re.MULTILINE)
_SEPARATORS = tuple(4 * character for character in "_=-*~#")
_OTHER_SPACES = "\t\v\f\u00a0"
_EMPTY_LINES = re.compile(r"\n\n\n+")
_LINE_BREAK = re.compile(r"(?<!\s)[^\S\n]*\n\s*")
_SQUARE_BRACKETS = re.compile(r"\[(?:[^\[\]\n]|\n(?![ \t]*\n))*+\]")
_LIST_NUMBER = re.compile(r"^[ \t]*+[0-9]{1,2}\.[ \t]+(?=[^\W\d_])", re.MULTILINE)
_DOCTOR = re.compile(r"\bdr\.", re.IGNORECASE)
_MD = re.compile(r"\bm\.d\.", re.IGNORECASE)
_DATE_HEADING = re.compile(r"\b(?:admission|discharge) date:", re.IGNORECASE)
_DOUBLE_MARKS = re.compile(r"(?<![-0-9<>+])--++(?![0-9<>+.])|__++|(?<![=0-9<>!])==++(?![0-9<>.])")


def repair_mojibake(text: str) -> str:
    """Repair UTF-8 that was read as another encoding, by ftfy, line by line. A line stays as it is where the repair
    would change an ASCII character, or lose a sign that can be read now.

    >>> repair_mojibake("5 Âµg/min, SpO2 â‰¥ 92 %, 37 Â°C, Â½ tablet, SjÃ¶gren")
    '5 µg/min, SpO2 ≥ 92 %, 37 °C, ½ tablet, Sjögren'
    >>> repair_mojibake("5 µg, ≥ 92 %, 37 °C, ½ tablet, 10², &lt;5")
    '5 µg, ≥ 92 %, 37 °C, ½ tablet, 10², &lt;5'
    """
    if text.isascii():
        return text
    return "\n".join(line if line.isascii() else _repair_line(line) for line in text.split("\n"))


def _repair_line(line: str) -> str:
    import ftfy

    repaired = ftfy.fix_text_segment(line, _mojibake_alone())
    if repaired == line or _ascii(repaired) != _ascii(line):
        return line
    remaining = iter(repaired)
    keeps_signs = all(sign in remaining for sign in _SIGN_IN_PLACE.findall(line))  # in this order
    return repaired if keeps_signs else line


def _ascii(text: str) -> str:
    return "".join(filter(str.isascii, text))


@cache
def _mojibake_alone() -> ftfy.TextFixerConfig:
    """ftfy's settings, without all that rewrites text which was read rightly: character widths, ligatures, quotes,
    HTML entities, NFC (which changes the signs of ohm and kelvin), and repairs by guess of lost bytes."""
    import ftfy

    return ftfy.TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_encoding=True,
        restore_byte_a0=False,
        replace_lossy_sequences=False,
        decode_inconsistent_utf8=True,
        fix_c1_controls=True,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        normalization=None,
    )


def unify_line_endings(text: str) -> str:
    r"""Replace every line ending by a newline.

    >>> unify_line_endings("BP 120/80\r\nHR 70\rno fever")
    'BP 120/80\nHR 70\nno fever'
    """
    return text.replace("\r\n", "\n").replace("\r", "\n")


def replace_control_characters(text: str) -> str:
    r"""Replace each run of control characters and byte-order marks by a space, so that no numbers are joined.

    >>> replace_control_characters("WBC 5\x00\x0110 K")
    'WBC 5 10 K'
    """
    if text.isascii() and len(text.encode().translate(None, _CONTROL_BYTES)) == len(text):
        return text  # as nearly all are, found ten times as fast
    return _CONTROL.sub(" ", text)


def lower_case(text: str) -> str:
    """Lower the case of all letters. Units lose what their case says: Mg is magnesium, mg isn't.

    >>> lower_case("Mg 2.0 mEq/L, Denies Pain")
    'mg 2.0 meq/l, denies pain'
    """
    return text.lower()


def drop_brackets(text: str) -> str:
    """Replace what stands in square brackets within a paragraph by a space, placeholders `[**...**]` included.

    >>> drop_brackets("seen by [**Name [**1**] **] today [see note], pain [ 5/10")
    'seen by   today  , pain [ 5/10'
    """
    pieces, end = [], 0
    for start, stop in placeholder_spans(text):
        if text[start] == "[":
            pieces += [text[end:start], " "]
            end = stop
    return _SQUARE_BRACKETS.sub(" ", "".join([*pieces, text[end:]]))


def drop_list_numbers(text: str) -> str:
    r"""Drop the numbers of lists: one or two digits and a dot, at the start of a line and before a word. A number that
    ends a sentence stays, except at the start of a line.

    >>> drop_list_numbers("1. Metoprolol 25 mg\n 2. digoxin 0.125 mg\n7.35 was the pH, WBC 5. Stable")
    'Metoprolol 25 mg\ndigoxin 0.125 mg\n7.35 was the pH, WBC 5. Stable'
    """
    return _LIST_NUMBER.sub("", text)


def expand_titles(text: str) -> str:
    """Write Dr. as doctor, and M.D. as md.

    >>> expand_titles("Dr. A, M.D., saw dr. B")
    'doctor A, md, saw doctor B'
    """
    return _MD.sub("md", _DOCTOR.sub("doctor", text))


def drop_date_headings(text: str) -> str:
    """Drop the words `Admission Date:` and `Discharge Date:`. The dates stay.

    >>> drop_date_headings("Admission Date: 2151-07-16 Discharge Date: 2151-07-20")
    ' 2151-07-16  2151-07-20'
    """
    return _DATE_HEADING.sub("", text)


def drop_double_marks(text: str) -> str:
    """Replace runs of two or more of the characters - _ = by a space, but not those of - or = next to a number, a plus,
    an arrow or a comparison sign.

    >>> drop_double_marks("stable -- continue, Name: ____, pain 5--7, K 3.1 --> 4.2")
    'stable   continue, Name:  , pain 5--7, K 3.1 --> 4.2'
    """
    return _DOUBLE_MARKS.sub(" ", text)


def empty_separator_lines(text: str) -> str:
    r"""Empty the lines that consist of four or more of one of the characters _ = - * ~ #.

    >>> empty_separator_lines("Labs\n=====\nK 4.2\n--- no edema")
    'Labs\n\nK 4.2\n--- no edema'
    """
    return _SEPARATOR_LINE.sub("", text) if any(marks in text for marks in _SEPARATORS) else text


def squeeze_whitespace(text: str) -> str:
    r"""Reduce runs of spaces and of empty lines to one, and remove both at the ends.

    >>> squeeze_whitespace("  WBC   5 \n\n\n\n10 mg ")
    'WBC 5\n\n10 mg'
    """
    for character in _OTHER_SPACES:
        text = text.replace(character, " ")
    while "  " in text:  # halves the runs: n log n at worst
        text = text.replace("  ", " ")
    text = text.replace(" \n", "\n")
    return (_EMPTY_LINES.sub("\n\n", text) if "\n\n\n" in text else text).strip()


def join_lines(text: str) -> str:
    r"""Replace newlines, and the white space around them, by a space.

    >>> join_lines("no fever,\n  no chills\n\nBP 120/80")
    'no fever, no chills BP 120/80'
    """
    return _LINE_BREAK.sub(" ", text)
