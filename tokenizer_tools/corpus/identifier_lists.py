"""Read files with an identifier on each line, of a patient or of an admission, spelt as in notes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizer_tools.corpus.columns import KNOWN_COLUMNS
from tokenizer_tools.corpus.compressed_files import open_file
from tokenizer_tools.corpus.identifiers import LostDigitsError, identifier_of
from tokenizer_tools.errors import UserError

_LONGEST = 1000
"""Characters of a line. A longer one is no identifier, but perhaps a note."""
_COLUMNS = (*KNOWN_COLUMNS["patient"], *KNOWN_COLUMNS["admission"])


def read_identifiers(path: Path, option: str) -> Iterator[tuple[str, str]]:
    """Yield the place of each line that isn't empty, and its identifier.

    Args:
        path: a text file in UTF-8, also as .gz or .zst.
        option: that names it, for messages.

    Raises:
        UserError: the file can't be read or holds none, or a line is no identifier.
    """
    count = 0
    try:
        with open_file(path) as stream:
            for number, line in enumerate(stream, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text:
                    count += 1
                    yield f"{path}, line {number}", _of_line(text, f"{path}, line {number}", is_first=count == 1)
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 ({option}); it must hold an identifier on each line") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror} ({option})") from None
    if not count:
        raise UserError(f"{path}: holds no identifier ({option}); leave the option out, or write one on each line")


def _of_line(text: str, place: str, is_first: bool) -> str:
    if len(text) > _LONGEST or any(separator in text for separator in ",;\t|"):
        raise UserError(f"{place}: more than an identifier; write one on each line, and nothing else")
    if is_first and text.lower() in _COLUMNS:
        raise UserError(f"{place}: the name of a column; delete this line, so that each holds an identifier")
    return given_identifier(text, place)


def given_identifier(text: str, place: str) -> str:
    """An identifier that a user gives, spelt as `identifier_of` does.

    Args:
        text: as it was given.
        place: where, for messages, which never repeat the identifier.

    Raises:
        UserError: it has lost digits, or stands for a missing one.
    """
    try:
        identifier = identifier_of(text)
    except LostDigitsError:
        raise UserError(f"{place}: a number that has lost digits, as spreadsheets write it; give all of them") from None
    if not identifier:
        raise UserError(f"{place}: stands for a missing identifier (empty, or a word for an unknown one); leave it out")
    return identifier
