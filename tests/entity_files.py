"""Small files of tasks of entities, in the formats of the data sets, and what the tests of their readers ask."""

from clinical_pretrain.tasks.readers.i2b2_2006 import FILES
from clinical_pretrain.tasks.records import ReadingReport, TaskData


def put(path, content):
    """Write a file, given as text or bytes, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def found(document):
    """A document's entities with their texts."""
    return [(document.text[entity.start : entity.end], entity.type) for entity in document.entities]


def only(data: TaskData, split="train"):
    (document,) = data.splits[split]
    return document


def clean(report: ReadingReport):
    return not report.mended and not report.left_out and not report.places


def records_2006(*texts, first=1):
    body = "".join(f'<RECORD ID="{first + i}">\n<TEXT>{text}</TEXT>\n</RECORD>\n' for i, text in enumerate(texts))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<ROOT>\n{body}</ROOT>\n'


def folder_2006(root, train, test=None):
    put(root / "train" / FILES["train"], train)
    put(root / FILES["test"], test or records_2006("nothing here"))
    return root


def folder_2010(root, text, concepts, name="record-13"):
    """The data set's folders; the given text and concepts are those of Beth's only record."""
    train, test = root / "concept_assertion_relation_training_data", root / "reference_standard_for_test_data"
    put(train / "beth" / "txt" / f"{name}.txt", text)
    put(train / "beth" / "concept" / f"{name}.con", concepts)
    put(train / "partners" / "txt" / f"{name}.txt", "No pain .\n")
    put(train / "partners" / "concept" / f"{name}.con", 'c="pain" 1:1 1:1||t="problem"\n')
    put(root / "test_data" / "0001.txt", "CT scan\nof Chest\n")
    put(test / "concepts" / "0001.con", 'c="ct scan of chest" 1:0 2:1||t="test"\n')
    return root


def note_xml(text, *tags):
    """A note; its tags begin in the line after the text's end."""
    return f'<?xml version="1.0" encoding="UTF-8" ?>\n<Root>\n<TEXT><![CDATA[{text}]]></TEXT>\n<TAGS>\n' + "".join(
        f"{tag}\n" for tag in (*tags, "</TAGS>", "</Root>")
    )


def event(start, end, text, kind="OCCURRENCE", tag="EVENT"):
    return (
        f'<{tag} id="E0" start="{start}" end="{end}" text="{text}" modality="FACTUAL" polarity="POS" type="{kind}" />'
    )


def folder_2012(root, content, test="ground_truth/merged_xml"):
    put(root / "2012-07-15.original-annotation.release" / "143.xml", content)
    put(root / "2012-07-15.original-annotation.release" / "143.xml.txt", "not a note")
    put(root / test / "101.xml", note_xml("Fall", event(0, 4, "Fall", "PROBLEM")))
    return root


def phi(start, end, text, kind="DATE"):
    return f'<NAME id="P0" start="{start}" end="{end}" text="{text}" TYPE="{kind}" comment="" />'


def folder_2014(root, content, name="220-01"):
    put(root / "training-PHI-Gold-Set1" / f"{name}.xml", content)
    put(root / "training-PHI-Gold-Set2" / "301-02.xml", note_xml("Ann", phi(0, 3, "Ann", "PATIENT")))
    put(root / "testing-PHI-Gold-fixed" / "110-03.xml", note_xml("Roe", phi(0, 3, "Roe", "DOCTOR")))
    return root


def count_types(documents):
    """The number of entities by type, all of which lie within their text."""
    found = {}
    for document in documents:
        for entity in document.entities:
            assert 0 <= entity.start < entity.end <= len(document.text)
            found[entity.type] = found.get(entity.type, 0) + 1
    return found
