"""What the readers of entities share: finding and reading files, and comparing an entity with its text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import unescape

from clinical_pretrain.tasks.records import Document, ReadingReport, Span, TaskData
from tokenizer_tools.errors import UserError

SPLITS = {
    "train": ("train", "training"),
    "development": ("dev", "devel", "development", "val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""The names of files or folders that mean a split."""
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
"""The split by each of these names."""
UNDIVIDED = "train"
"""The only split of a data set that has none of its own."""


def find_one(folder: Path, *names: str) -> Path:
    """Find a file or folder by its name, in a folder or below it.

    Args:
        folder: where to look.
        names: its names, the preferred one first; each may begin with names of folders above it.

    Raises:
        UserError: it isn't there, or is there more than once.
    """
    for name in names:
        found = sorted(folder.rglob(name))
        if len(found) > 1:
            raise UserError(f"{folder}: holds {name} more than once ({found[0]}, {found[1]}); keep one")
        if found:
            return found[0]
    raise UserError(f"{folder}: no {' or '.join(names)} in it or below it; unpack the data set's archives there")


def files_of(folder: Path, suffix: str) -> list[Path]:
    """A folder's files with this suffix, sorted; without the hidden ones that macOS leaves in archives.

    Raises:
        UserError: there are none.
    """
    found = sorted(path for path in folder.glob(f"*{suffix}") if not path.name.startswith("."))
    if not found:
        raise UserError(f"{folder}: no {suffix} files; name the folder that holds the data set")
    return found


def paired(texts: list[Path], annotations: list[Path]) -> list[tuple[Path, Path]]:
    """Texts with their annotations: files of the same name but for the suffix.

    Raises:
        UserError: a text has no annotations, or annotations have no text.
    """
    by_name = {path.stem: path for path in annotations}
    if alone := {path.stem for path in texts} ^ set(by_name):
        path = next(path for path in (*texts, *annotations) if path.stem in alone)
        raise UserError(
            f"{path}: no {'annotations' if path in texts else 'text'} of this name; copy the data set again"
        )
    return [(path, by_name[path.stem]) for path in texts]


def by_split(paths: Iterable[Path]) -> dict[str, Path]:
    """Files or folders by the split that their name means. Those with other names are ignored.

    Raises:
        UserError: two of them mean the same split.
    """
    found: dict[str, Path] = {}
    for path in sorted(paths):
        if (split := SPLIT_OF.get(path.stem)) is None:
            continue
        if split in found:
            raise UserError(f"{path}: the split {split}, as is {found[split]}; keep one")
        found[split] = path
    return {split: found[split] for split in SPLITS if split in found}


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        UserError: it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """A file's text with its line ends as they are.

    Raises:
        UserError: it can't be read, or isn't UTF-8.
    """
    content = read_bytes(path)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8; convert the file") from None


def agree(found: str, stated: str) -> bool:
    """Whether a piece of a text is what an annotation states, but for white space and XML's escapes in either."""
    return _plain(found) == _plain(stated) != ""


def _plain(text: str) -> str:
    return " ".join(unescape(text, {"&apos;": "'", "&quot;": '"'}).split())


class Entities:
    """Collects the entities of one text, and counts those that can't be used."""

    def __init__(self, text: str, report: ReadingReport, types: tuple[str, ...] = ()) -> None:
        """
        Args:
            text: the document's text.
            report: where to count what is mended or left out.
            types: the only types that the data set has; empty: any.
        """
        self.text, self.report, self.types = text, report, types
        self._spans: set[Span] = set()

    @property
    def spans(self) -> tuple[Span, ...]:
        """Those that can be used, in the text's order."""
        return tuple(sorted(self._spans))

    def add(self, span: Span, place: str) -> None:
        """Add an entity; one without a text, without a known type or a second time is left out.

        Args:
            span: an entity within the text.
            place: file and line, for the report.
        """
        covered = self.text[span.start : span.end]
        if stripped := covered.strip():  # no prediction has white space at its ends
            start = span.start + covered.index(stripped)
            if stripped != covered:
                self.report.mend("white space at an entity's ends", place)
            span = span._replace(start=start, end=start + len(stripped))
        if not stripped:
            self.report.leave_out("entity without a text", place)
        elif not span.type:
            self.report.leave_out("entity without a type", place)
        elif self.types and span.type not in self.types:
            self.report.leave_out("entity of an unknown type", place)
        elif span in self._spans:
            self.report.leave_out("repeated entity", place)
        else:
            self._spans.add(span)

    def add_stated(self, span: Span, stated: str, place: str) -> None:
        """Add an entity if its text is the one that the data set states; else it is left out.

        Two differences are mended: an ampersand that is stated as `and` (i2b2 2014, 188-05), and an offset that counts
        the bytes of UTF-8 (180-03).
        """
        found = self.text[span.start : span.end] if 0 <= span.start < span.end <= len(self.text) else ""
        if agree(found, stated):
            self.add(span, place)
        elif agree(found.replace("&", "and"), stated.replace("&", "and")):
            self.report.mend("ampersand stated as 'and'", place)
            self.add(span, place)
        elif (moved := self._from_bytes(span)) and agree(self.text[moved.start : moved.end], stated):
            self.report.mend("offset counts bytes", place)
            self.add(moved, place)
        else:
            self.report.leave_out("stated text isn't at the offset", place)

    def _from_bytes(self, span: Span) -> Span | None:
        """The span in characters, if its offsets count bytes."""
        content = self.text.encode()
        if not 0 <= span.start < span.end <= len(content):
            return None
        try:
            start = len(content[: span.start].decode())
            return Span(start, start + len(content[span.start : span.end].decode()), span.type)
        except UnicodeDecodeError:
            return None


def entity_task(
    folder: Path, splits: dict[str, list[Document]], report: ReadingReport, labels: tuple[str, ...] = ()
) -> TaskData:
    """A task of entities. Without `labels` its types are those that occur, sorted.

    Raises:
        UserError: two documents have one identifier.
    """
    found = {entity.type for documents in splits.values() for document in documents for entity in document.entities}
    return check_ids(TaskData("entities", splits, labels or tuple(sorted(found)), report), folder)


def check_ids(data: TaskData, path: Path) -> TaskData:
    """The data itself, if no two of its documents, and no two questions of it, have one identifier.

    Raises:
        UserError: two have.
    """
    documents = [(split, document) for split, documents in data.splits.items() for document in documents]
    _check_unique([(document.id, split) for split, document in documents], "document", path)
    _check_unique([(question.id, split) for split, d in documents for question in d.questions], "question", path)
    return data


def _check_unique(identifiers: list[tuple[str, str]], kind: str, path: Path) -> None:
    seen: dict[str, str] = {}
    for number, (identifier, split) in enumerate(identifiers, start=1):
        place = f"{kind} {number} (split {split})"
        if identifier in seen:
            raise UserError(f"{path}: {place} has the identifier of {seen[identifier]}; each must have its own")
        seen[identifier] = place
