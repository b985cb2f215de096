"""The files that validation takes: lists of words, and a general text. Read before anything else is loaded."""

from __future__ import annotations

from clinical_pretrain.resources import find_file
from tokenizer_tools.errors import UserError
from tokenizer_tools.yaml_files import read_yaml

EXAMPLE = "drugs: [aspirin, warfarin]"


def read_words(name: str) -> dict[str, list[str]]:
    """Lists of words by name.

    Args:
        name: a YAML file, or one that comes with the package.

    Raises:
        UserError: it isn't there, or isn't a mapping from names to lists of words; or a word is in two lists.
    """
    path = find_file(name)
    lists = read_yaml(path, EXAMPLE)
    if not all(isinstance(words, list) and words for words in lists.values()):
        raise UserError(f"{path}: must hold lists of words by name, such as '{EXAMPLE}'")
    seen: dict[str, str] = {}
    for group, words in lists.items():
        for word in words:
            if not isinstance(word, str) or not word.strip():
                raise UserError(f"{path}: {group}: {word!r} is not a word; leave it out")
            if seen.setdefault(word.lower(), group) != group:
                raise UserError(f"{path}: {word!r} is in {seen[word.lower()]} and in {group}")
    return {str(group): [word.lower() for word in words] for group, words in lists.items()}


def read_general_text(name: str) -> str:
    """A text, its white space made single blanks.

    Args:
        name: a text file in UTF-8, or one that comes with the package.

    Raises:
        UserError: the file isn't there, is empty, or isn't in UTF-8.
    """
    path = find_file(name)
    try:
        text = " ".join(path.read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        raise UserError(f"{path}: not a text file in UTF-8") from None
    if not text:
        raise UserError(f"{path}: empty; give a text of some pages")
    return text
