"""Commands on tokenizers: train one, inspect one, extend one and its model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinical_pretrain.commands.options import (
    add_notes_options,
    make_parser,
    notes_paths,
    notes_settings,
    parse,
    report,
)
from tokenizer_tools.errors import UserError


def train_tokenizer(argv: Sequence[str]) -> dict[str, Any]:
    """Train a byte-level BPE tokenizer on notes, for a model that is trained from scratch."""
    from tokenizer_tools.tokenizer.train import TokenizerSettings
    from tokenizer_tools.tokenizer.train import train_tokenizer as train

    parser = make_parser("train-tokenizer", train_tokenizer.__doc__)
    add_notes_options(parser)
    parser.add_argument("--out", required=True, help="tokenizer folder to create")
    parser.add_settings(TokenizerSettings, skip={"reading"})
    args = parse(parser, argv)
    settings = notes_settings(parser, TokenizerSettings, args)
    result = train(notes_paths(args), Path(args.out), settings)
    skipped = f"; {result['rows_skipped']:,} rows can't be used" if result["rows_skipped"] else ""
    print(
        f"{args.out}: {result['vocab_size']:,} entries, from {result['notes']:,} notes of the training split{skipped}"
    )
    return report(args, result)


def inspect_tokenizer(argv: Sequence[str]) -> dict[str, Any]:
    """Show what a tokenizer makes of notes: tokens per word, unknown characters, what added words would save."""
    from tokenizer_tools.tokenizer.inspect import describe
    from tokenizer_tools.tokenizer.inspect import inspect_tokenizer as inspect
    from tokenizer_tools.tokenizer.settings import InspectSettings

    parser = make_parser("inspect-tokenizer", inspect_tokenizer.__doc__)
    add_notes_options(parser)
    parser.add_argument("--tokenizer", required=True, help="tokenizer folder or Hub id, usually the base model's")
    parser.add_settings(InspectSettings, skip={"reading"})
    args = parse(parser, argv)
    settings = notes_settings(parser, InspectSettings, args)
    inspection = inspect(notes_paths(args), args.tokenizer, settings)
    print("\n".join(describe(inspection, settings)))
    return report(args, inspection.to_json())


def extend_vocabulary(argv: Sequence[str]) -> dict[str, Any]:
    """Add whole clinical words, and placeholder tokens, to a base model's tokenizer, and rows for them to the model."""
    from clinical_pretrain.config.model import refuse_missing_folder
    from tokenizer_tools.files import new_folder, refuse_used_folder
    from tokenizer_tools.tokenizer.extend import describe, extend_tokenizer, save_extension
    from tokenizer_tools.tokenizer.load import load_tokenizer
    from tokenizer_tools.tokenizer.settings import ExtensionSettings
    from tokenizer_tools.tokenizer.training_notes import find_notes

    parser = make_parser("extend-vocabulary", extend_vocabulary.__doc__)
    add_notes_options(parser)
    parser.add_argument("--tokenizer", required=True, help="tokenizer folder or Hub id, usually the base model's")
    parser.add_argument("--model", help="model folder or Hub id to extend, too: it is saved next to the tokenizer")
    parser.add_argument("--out", required=True, help="folder to create")
    parser.add_settings(ExtensionSettings, skip={"reading"})
    args = parse(parser, argv)
    settings = notes_settings(parser, ExtensionSettings, args)
    out, notes = Path(args.out).resolve(), notes_paths(args)
    if settings.size and not (notes or settings.reading.sources):
        raise UserError("missing: --notes or --sources, from which words are learned (--size 0 adds none)")
    refuse_used_folder(out)
    if args.model:
        refuse_missing_folder(args.model)
    inputs = find_notes(notes, settings.reading, settings.split) if settings.size else []
    base = load_tokenizer(args.tokenizer)
    if args.model:
        from clinical_pretrain.models.vocabulary import check_model, extend_model

        model_config = check_model(args.model, base.backend_tokenizer.get_vocab(), args.tokenizer)
    extension = extend_tokenizer(inputs, base, settings, args.tokenizer)
    with new_folder(out) as folder:
        save_extension(extension, folder)
        if args.model:
            extend_model(args.model, model_config, extension.pieces, folder)
    print(
        "\n".join(
            [f"{args.out}: {'tokenizer and model' if args.model else 'tokenizer'}", *describe(extension, settings)]
        )
    )
    return report(args, extension.to_json())
