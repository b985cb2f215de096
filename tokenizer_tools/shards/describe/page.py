"""The report as one HTML page: everything inline, no script, nothing loaded from elsewhere."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from html import escape

from tokenizer_tools.pages.html import details, figure, page, table, tiles
from tokenizer_tools.pages.wording import decimal, percent, shown
from tokenizer_tools.shards.describe.content import Row, ShardReport, Unknown
from tokenizer_tools.shards.describe.picture import draw_panel
from tokenizer_tools.shards.describe.wording import group_name, placeholders, reason
from tokenizer_tools.small_counts import NOT_SMALL, SMALL, SMALLEST
from tokenizer_tools.tokenizer.words import MANY_PIECES


def make_page(report: ShardReport) -> str:
    """The page as HTML. All names are escaped, and its Content-Security-Policy forbids scripts."""
    sections = {
        "Splits": _splits(report),
        "Notes kept and removed": _removed(report),
        "Length of notes": _lengths(report),
        "Categories": _categories(report),
        "Sources": _table("Notes and tokens by source", "source", report.sources, report),
        "Unknown tokens": _unknown(report.unknown),
        "Settings": _settings(report),
        "What is hidden": _hidden(report),
    }
    title = f"Shards {report.fingerprint[:12]}: what they hold"
    return page(title, "What the shards hold", _lead(report), sections)


def _lead(report: ShardReport) -> str:
    total, rows = report.total, report.rows
    split_by, tokenizer = escape(str(report.settings["split"]["by"])), escape(report.tokenizer["name"])
    figures = {
        "notes": shown(total.notes),
        **({"patients": shown(total.patients)} if total.patients is not None else {}),
        "tokens": shown(total.tokens),
        f"rows of {rows.length:,}": shown(rows.count),
        **({"tokens per word": decimal(total.tokens_per_word, 2)} if total.tokens_per_word else {}),
        "tokens unknown": percent(report.unknown.share),
    }
    fingerprint = f"<code>{escape(report.fingerprint[:16])}</code>"
    return (
        f"{tiles(figures)}<p>Of <b>{escape(shown(report.read))}</b> notes read, "
        f"<b>{escape(shown(total.notes))}</b> were kept, split by {split_by}, tokenised with <b>{tokenizer}</b> and "
        f"packed into rows. This page is made from the shards with fingerprint {fingerprint} alone. Shards carry no "
        "date, and neither does it.</p>"
    )


def _splits(report: ShardReport) -> str:
    rows = report.rows
    return (
        _table("Notes and tokens by split", "split", report.splits, report)
        + f"<p>{_patients_sentence(report)} {shown(rows.begin_within_note)} of {shown(rows.count)} rows "
        f"({percent(rows.begin_within_note / max(rows.count, 1))}) begin with the rest of a note that the row before "
        f"could not hold; nothing is dropped. {percent(rows.padding_share)} of all positions are padding.</p>"
    )


def _patients_sentence(report: ShardReport) -> str:
    if report.total.patients is None:
        return "No note names a patient."
    return f"Counted as patients: {report.patients_are}." if report.patients_are != "patients" else ""


def _removed(report: ShardReport) -> str:
    rows = [(reason(name).capitalize(), shown(count)) for name, count in report.removed.items() if count]
    rows = [("Read", shown(report.read)), *rows, ("Kept", shown(report.total.notes))]
    apart = [
        f"{escape(shown(count))} {name.replace('_', ' ')}" for name, count in report.kept_although.items() if count
    ]
    rules = ", ".join(f"<code>{escape(str(rule))}</code>" for rule in report.settings["cleaning_rules"]) or "none"
    return (
        '<div class="pair">'
        + _figure("removed", "Notes kept, and removed by reason", report)
        + table("Notes by what became of them", ("notes", "count"), rows)
        + "</div>"
        + (f"<p>Of the notes that were kept: {'; '.join(apart)}.</p>" if apart else "")
        + f"<p>Near-duplicates: {_near(report)}. Copied paragraphs: {_copied(report)}. Cleaning rules, in order: "
        f"{rules}. What they change in texts isn't recorded; <code>clinical-pretrain clean</code> counts it.</p>"
    )


def _near(report: ShardReport) -> str:
    rules = report.settings["duplicates"]
    if rules.get("near") == "off":
        return "not looked for"
    became = {"drop": "dropped", "keep": "kept, but not across splits"}.get(str(rules.get("near")), "see the settings")
    return f"{became} ({100 * rules.get('threshold', 0):g} % of runs of {rules.get('ngram')} words in common)"


def _copied(report: ShardReport) -> str:
    copied = report.copied
    if copied is None:
        return "they stay"
    words = report.settings["duplicates"]["copied_words"]
    most = "at most " if "withdrawn" in report.removed else ""
    text = f"{most}{shown(copied.paragraphs)} of {words} words and more ({most}{shown(copied.tokens)} tokens) were "
    text += f"left out of {most}{escape(shown(copied.notes))} notes, as an earlier note of the patient has them"
    text += f"; {most}{shown(copied.cannot_be_cut)} more couldn't be cut out" if copied.cannot_be_cut else ""
    return text + (" (counted before the withdrawal)" if most else "")


def _lengths(report: ShardReport) -> str:
    lengths = report.lengths
    percentiles = [(f"{percent} % of notes have at most", shown(n)) for percent, n in lengths.percentiles.items()]
    longer = [(f"Notes of {int(limit):,} or more", shown(count)) for limit, count in lengths.at_least.items()]
    bins = [(f"{each.first:,} to {each.last:,}", shown(each.notes)) for each in lengths.bins]
    return (
        '<div class="pair">'
        + _figure("lengths", "Notes by their number of tokens", report)
        + table("Tokens per note, those that begin and end it included", ("", "value"), percentiles + longer)
        + "</div>"
        + details("The bins of the plot", table("Notes by number of tokens", ("tokens", "notes"), bins))
    )


def _categories(report: ShardReport) -> str:
    words = (
        f"A word is a run of letters; its pieces are told by the token ids ({report.word_kind})."
        if report.word_kind
        else "Tokens per word aren't computed: this tokenizer's entries don't show where words begin."
    )
    drawn = _figure("tokens", "Tokens by category, and their share of all tokens", report)
    if report.word_kind:
        caption = f"Tokens per word by category, and the share of words in {MANY_PIECES} or more pieces"
        drawn += _figure("words", caption, report)
    counts = _table("Notes, tokens and words by category", "category", report.categories, report)
    return f'<div class="pair">{drawn}</div>{counts}<p>{words}</p>'


def _unknown(unknown: Unknown) -> str:
    counted = f"{shown(unknown.tokens)} tokens ({percent(unknown.share)}) are" if unknown.tokens else "No token is"
    text = f"<p>{counted} unknown to the tokenizer."
    spaces = ", ".join(unknown.written_as_spaces[:8]) + (", …" if len(unknown.written_as_spaces) > 8 else "")
    text += f" White space that it doesn't know ({spaces}) was written as spaces." if spaces else ""
    if unknown.lost_word_starts:
        text += f" {shown(unknown.lost_word_starts)} words stand right after one, and lose the mark of their start."
    if unknown.rare_characters:
        text += f" {unknown.rare_characters} more characters occur fewer than {SMALLEST} times and aren't named."
    rows = [(_character(each), shown(count)) for each, count in unknown.characters.items()]
    return f"{text}</p>" + (table("Characters behind unknown tokens", ("character", "count"), rows) if rows else "")


def _character(character: str) -> str:
    is_visible = character.isprintable() and not unicodedata.combining(character)
    name = unicodedata.name(character, "").lower()
    return f"{character + ' ' if is_visible else ''}U+{ord(character):04X} {name}".strip()


def _settings(report: ShardReport) -> str:
    tokenizer, settings = report.tokenizer, report.settings
    rows = [
        ("Fingerprint of the shards", report.fingerprint),
        ("Tokenizer", f"{tokenizer['name']}, {tokenizer['vocab_size']:,} entries"),
        ("Tokenizer, sha256", str(tokenizer["sha256"])),
        ("De-identified text becomes", placeholders(settings["placeholders"])),
        ("Tokens per row", f"{settings['sequence_length']:,}"),
        ("A row holds", "notes of one patient, in time order" if settings["pack"] == "timeline" else "any notes"),
        ("Split", ", ".join(f"{name} {value}" for name, value in settings["split"].items())),
        ("Splits with a list of their own", ", ".join(settings["split_lists"]) or "none"),
        ("Near-duplicates and copies", ", ".join(f"{name} {value}" for name, value in settings["duplicates"].items())),
        ("Notes per part", f"{settings['notes_per_part']:,}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
    ]
    return table("What the shards depend on", ("", "value"), rows, "words")


def _hidden(report: ShardReport) -> str:
    return (
        f"<p>No text of a note and no identifier is on this page. Counts of notes and patients from 1 to "
        f"{SMALLEST - 1} are written {escape(SMALL)}; where a total would give such a count away, another count is "
        f"written {NOT_SMALL}. "
        f"Categories and sources with fewer than {SMALLEST} patients"
        f"{' (or notes)' if report.total.patients is None else ''} are put together and not named. The names of the "
        "others come from the data: look through them before you share this page.</p>"
    )


def _figure(panel: str, caption: str, report: ShardReport) -> str:
    """A plot. Screen readers get its caption, and the table that follows."""
    return figure(draw_panel(panel, report), caption)


def _table(caption: str, what: str, rows: Sequence[Row], report: ShardReport) -> str:
    has_patients, has_words = report.total.patients is not None, report.word_kind is not None
    header = [what, "notes", *(["patients"] if has_patients else []), "tokens", "share", "tokens/note"]
    header += ["tokens/word", f"in {MANY_PIECES}+ pieces"] if has_words else []
    all_tokens = max(report.total.tokens, 1)
    total = [report.total] if len(rows) > 1 else []
    lines = []
    for row in [*rows, *total]:
        cells = [group_name(row), shown(row.notes), *([shown(row.patients)] if has_patients else [])]
        cells += [shown(row.tokens), percent(row.tokens / all_tokens), decimal(row.tokens_per_note, 0)]
        cells += [decimal(row.tokens_per_word, 2), percent(row.broken_share)] if has_words else []
        lines.append(cells)
    return table(caption, header, lines, "total" if total else "")
