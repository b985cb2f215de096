"""Parse XML so that each element's line can be named."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from tokenizer_tools.errors import UserError


def parse_xml(content: bytes, path: Path) -> tuple[Element, dict[Element, int]]:
    """Parse an XML file that has no document type, and so no entities that could expand.

    Args:
        content: the file's bytes. Line ends become newlines, as XML says.
        path: the file, for messages.

    Returns:
        The root, and the line in which each element begins.

    Raises:
        UserError: it isn't well-formed, or has a document type.
    """
    builder, lines = TreeBuilder(), {}
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(tag: str, attributes: dict[str, str]) -> None:
        lines[builder.start(tag, attributes)] = parser.CurrentLineNumber

    def refuse(*_: object) -> None:
        raise UserError(f"{path}, line {parser.CurrentLineNumber}: has a document type (<!DOCTYPE>); delete it")

    parser.StartElementHandler, parser.EndElementHandler = start, builder.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    try:
        parser.Parse(content, True)
    except UserError:
        raise
    except expat.ExpatError as error:
        fault = expat.ErrorString(error.code)
        raise UserError(f"{path}, line {error.lineno}: malformed XML ({fault}); copy the data set again") from None
    except (LookupError, ValueError):  # expat knows none, or none of several bytes but UTF-8 and UTF-16
        raise UserError(f"{path}, line 1: unknown encoding; convert the file to UTF-8") from None
    return builder.close(), lines
