"""Replace an earlier export of the same run, so that a kill at any moment leaves no mix of the two that loads."""

from __future__ import annotations

from pathlib import Path

from clinical_pretrain.release.facts_file import FACTS_NAME, exported_file_sha256, read_facts
from clinical_pretrain.release.model_card import CARD_NAME, is_generated
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import read_json, write_json

CONFIG_NAME = "config.json"
REPLACING_NAME = ".export.json"
"""There while an export takes an earlier one's place: the files of both, with their hashes."""
REPLACING_VERSION = 1
_REMEDY = "delete the folder, or choose another --out"


def check_out(out: Path, run_dir: Path) -> None:
    """Check that a folder may receive an export of this run, which need not have begun yet.

    Raises:
        UserError: the folder holds something other than an export of this run, or an exported file was changed.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / FACTS_NAME).is_file():
        raise UserError(f"{out}: not empty, and not an earlier export; choose another --out")
    run_id, folder = read_facts(out, _REMEDY)["run_id"], RunFolder(run_dir)
    if not folder.exists or run_id != folder.read_run()["run_id"]:
        raise UserError(f"{out}: holds the model of another run; {_REMEDY}")
    changed = [
        name
        for name, hashes in _exported_files(out).items()
        if (out / name).exists() and exported_file_sha256(out / name) not in hashes
    ]
    if changed:
        raise UserError(
            f"{out}: {', '.join(changed)} changed since export made it; move it away, or choose another --out"
        )


def put_in_place(temporary: Path, out: Path) -> list[str]:
    """Move a finished export to its place. Files of an earlier export are replaced or deleted; all others stay.

    The earlier config.json is deleted first and the new one moved last: in between nothing loads the folder, and the
    next export replaces all of it.

    Returns:
        Names of the files that stayed.

    Raises:
        UserError: a file of the new export would overwrite one that no export has made.
    """
    if not out.exists():
        temporary.replace(out)
        return []
    earlier = _exported_files(out) if any(out.iterdir()) else {}
    new = {path.name: exported_file_sha256(path) for path in temporary.iterdir()}
    if foreign := sorted(name for name in new if name not in earlier and (out / name).exists()):
        raise UserError(f"{out}: {', '.join(foreign)} not made by export; move it away, or choose another --out")
    if earlier:
        both = earlier | {name: [*earlier.get(name, []), sha256] for name, sha256 in new.items()}
        write_json(out / REPLACING_NAME, {"format_version": REPLACING_VERSION, "files": both})
        (out / CONFIG_NAME).unlink(missing_ok=True)
    for name in [FACTS_NAME, *sorted(new.keys() - {FACTS_NAME, CONFIG_NAME})]:
        (temporary / name).replace(out / name)
    for name in earlier.keys() - new.keys():
        (out / name).unlink(missing_ok=True)
    if is_generated(out / CARD_NAME):  # describes the earlier model; push generates a new one
        (out / CARD_NAME).unlink()
    (temporary / CONFIG_NAME).replace(out / CONFIG_NAME)
    (out / REPLACING_NAME).unlink(missing_ok=True)
    return sorted(path.name for path in out.iterdir() if path.name not in new)


def _exported_files(out: Path) -> dict[str, list[str]]:
    """The files that exports have made in a folder, each with the hashes that it may have: two if an export was killed
    while it took another's place."""
    if (out / REPLACING_NAME).exists():
        return dict(read_json(out / REPLACING_NAME, REPLACING_VERSION, _REMEDY)["files"])
    return {name: [sha256] for name, sha256 in read_facts(out, _REMEDY)["files"].items()}
