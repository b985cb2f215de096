"""Reading tags of tokens in columns, with BC5CDR."""

import pytest
from conftest import SHARED
from entity_files import clean, count_types, found, put
from hypothesis import given
from hypothesis import strategies as st

from clinical_pretrain.tasks.readers.iob import read_iob
from tokenizer_tools.errors import UserError


def read_tags(folder, content, name="train.tsv"):
    put(folder / name, content)
    data = read_iob(folder)
    return data.splits["train"], data.report


def test_iob_a_sentence_is_a_document_where_none_is_marked(tmp_path):
    put(tmp_path / "LICENSE.md", "text")
    put(tmp_path / "train_dev.tsv", "not read")
    put(tmp_path / "devel.tsv", "a\tO\n")
    documents, report = read_tags(tmp_path, "low\tB-Disease\nbone\tI-Disease\nin\tO\n\n\ndogs\tB-Species\n\n")
    assert [(d.id, d.text) for d in documents] == [("train-1", "low bone in"), ("train-2", "dogs")]
    assert [found(d) for d in documents] == [[("low bone", "Disease")], [("dogs", "Species")]] and clean(report)
    assert list(read_iob(tmp_path).splits) == ["train", "development"]


def test_iob_documents_of_conll_2003(tmp_path):
    rows = ["-DOCSTART- -X- -X- O", "", "EU NNP B-NP B-ORG", "rejects VBZ B-VP O", "", "Peter  NNP B-NP B-PER ", "",
            "-DOCSTART- -X- -X- O", "-DOCSTART-", "Peter NNP B-NP B-PER"]  # fmt: skip
    documents, report = read_tags(tmp_path, "\ufeff" + "\r\n".join(rows), "train.conll")
    assert [d.text for d in documents] == ["EU rejects\nPeter", "Peter"] and clean(report)
    assert [found(d) for d in documents] == [[("EU", "ORG"), ("Peter", "PER")], [("Peter", "PER")]]
    assert documents[0].entities[1].start == 11


def test_iob_a_token_keeps_its_blanks_between_tabs(tmp_path):
    documents, report = read_tags(tmp_path, "2 1/2\tCD\tB-Dose\nmg\u00a0x\tNN\tI-Dose\n")
    assert found(documents[0]) == [("2 1/2 mg\u00a0x", "Dose")] and clean(report)


@pytest.mark.parametrize(
    ("tags", "entities", "mended"),
    [
        ("B-A I-A B-A O B-B", ["a b", "c", "e"], {}),  # IOB2
        ("I-A I-A B-A O I-B", ["a b", "c", "e"], {}),  # IOB1
        ("B-A E-A S-A O S-B", ["a b", "c", "e"], {}),  # BIOES
        ("B-A O I-B I-B O", ["a", "c d"], {"entity without its first tag": 1}),
        ("B-A I-B O O O", ["a", "b"], {"entity without its first tag": 1}),
        ("B-A I-A O E-A S-A", ["a b", "d", "e"], {"entity without its first tag": 1, "entity without its last tag": 1}),
    ],
)
def test_iob_schemes(tags, entities, mended, tmp_path):
    rows = [f"{token}\t{tag}" for token, tag in zip("abcde", tags.split(), strict=True)]
    documents, report = read_tags(tmp_path, "\n".join(rows))
    assert [text for text, _ in found(documents[0])] == entities
    assert report.mended == mended and not report.left_out


@given(
    lengths=st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["", "A", "B"])), min_size=1, max_size=8),
    scheme=st.sampled_from(["IOB1", "IOB2", "BIOES"]),
)
def test_iob_what_a_scheme_encodes_is_read_back(lengths, scheme, tmp_path_factory):
    tags, expected, before, start = [], [], "", 0
    for length, kind in lengths:
        if not kind:
            tags += ["O"] * length
        else:
            tags += [f"I-{kind}"] * length
            if scheme != "IOB1" or kind == before:
                tags[-length] = f"B-{kind}"
            if scheme == "BIOES":
                tags[-1] = f"{'S' if length == 1 else 'E'}-{kind}"
            expected.append((start, start + 2 * length - 1, kind))
        before, start = kind, start + 2 * length
    documents, report = read_tags(tmp_path_factory.mktemp("iob"), "".join(f"x {tag}\n" for tag in tags))
    assert list(documents[0].entities) == expected and clean(report)


@pytest.mark.parametrize(
    "line", ["secret", "\tO", "secret\tX-A", "secret\tB-", "secret\tB-A\t", "secret 0", "secret o"]
)
def test_iob_another_line_is_refused(line, tmp_path):
    with pytest.raises(UserError, match=r"train\.tsv, line 3: not a token and a tag") as error:
        read_tags(tmp_path, f"a\tO\n\n{line}\n")
    assert "secret" not in str(error.value)


def test_iob_files_of_splits_must_be_there(tmp_path):
    with pytest.raises(UserError, match="no files of splits"):
        read_iob(tmp_path)


@pytest.mark.slow
@pytest.mark.shared
def test_the_whole_of_bc5cdr():
    data = read_iob(SHARED / "tasks" / "BC5CDR-IOB")
    assert {split: len(documents) for split, documents in data.splits.items()} == {
        "train": 4560,
        "development": 4581,
        "test": 4797,
    }
    assert [count_types(documents) for documents in data.splits.values()] == [
        {"Chemical": 5203, "Disease": 4182},
        {"Chemical": 5347, "Disease": 4246},
        {"Chemical": 5385, "Disease": 4424},
    ]
    assert data.labels == ("Chemical", "Disease") and clean(data.report)
