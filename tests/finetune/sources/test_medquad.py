"""MedQuAD's reader: every pair is a record or a reason, in every shape that the real files have, and hostile XML is refused."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.data.records import Dropped, Record
from finetune.sources import parse
from finetune.sources.medquad import MAXIMUM_FILE_BYTES, clean_answer, inputs, read
from medllama.errors import InputError


def document(
    pairs: str, *, head: str = '<Document id="0000001" source="NIH" url="u">', tail: str = "</Document>"
) -> str:
    return f"<?xml version='1.0' encoding='UTF-8'?>\n{head}\n<QAPairs>{pairs}</QAPairs>\n{tail}"


def pair(question: str = "What is gout ?", answer: str = "A joint disease.") -> str:
    return f'<QAPair pid="1"><Question qid="1-1" qtype="information">{question}</Question><Answer>{answer}</Answer></QAPair>'


def outcomes(folder: Path, content: str | bytes, name: str = "1_Test_QA/0000001.xml") -> list[Record | Dropped]:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read(parse(f"medquad:{folder}")))


def spoken(outcome: Record | Dropped) -> list[str]:
    assert isinstance(outcome, Record), outcome
    return [turn["content"] for turn in outcome.content["messages"]]


def test_a_pair_becomes_a_conversation_with_its_provenance(tmp_path: Path) -> None:
    [record] = outcomes(tmp_path, document(pair()))
    assert isinstance(record, Record)
    assert record.content == {
        "messages": [
            {"role": "user", "content": "What is gout ?"},
            {"role": "assistant", "content": "A joint disease."},
        ]
    }
    assert (record.source, record.document_id, record.licence) == ("medquad", "1_Test_QA/0000001", "CC-BY-4.0")


LOWER_CASE = '<qaPairs><pair pid="1"><question>q one</question><answer>a one</answer></pair></qaPairs>'


@pytest.mark.parametrize(
    ("content", "document_id"),
    [
        (f'<doc docid="7" corpus="NINDS">{LOWER_CASE}</doc>', "7"),
        (f'<DiseaseFile fid="8">{LOWER_CASE}</DiseaseFile>', "8"),
        (f'<document ID=" 9 ">{LOWER_CASE.lower()}</document>', "9"),
        (f"<Document>{LOWER_CASE.upper()}</Document>".replace("Q ONE", "q one").replace("A ONE", "a one"), "0000001"),
        ('<doc docid="1"><pair><question>q one</question><answer>a one</answer></pair></doc>', "1"),
        (f'<Document xmlns="urn:x" id="1">{LOWER_CASE}</Document>', "1"),
        (f'<x:Document xmlns:x="urn:x" id="1">{LOWER_CASE}</x:Document>', "1"),
        (f'<Anything id="1"><Section>{LOWER_CASE}</Section></Anything>', "1"),
        ('<Document id="1"><QAPairs><Question>q one</Question><Answer>a one</Answer></QAPairs></Document>', "1"),
        ('<Document id="1"><QAPair><Answer>a one</Answer><Question>q one</Question></QAPair></Document>', "1"),
        ('<QAPairs id="1"><Question>q one</Question><Answer>a one</Answer></QAPairs>', "1"),
        (f'\n\n  <?xml version="1.0"?>\n<Document id="1">{LOWER_CASE}</Document>', "1"),
        (f'\ufeff<?xml version="1.0" encoding="UTF-8"?><Document id="1">{LOWER_CASE}</Document>', "1"),
        (f'<!DOCTYPE Document SYSTEM "medquad.dtd"><Document id="1">{LOWER_CASE}</Document>', "1"),
    ],
)
def test_deviating_files_lose_no_pair(tmp_path: Path, content: str, document_id: str) -> None:
    [record] = outcomes(tmp_path, content)
    assert spoken(record) == ["q one", "a one"]
    assert isinstance(record, Record)
    assert record.document_id == f"1_Test_QA/{document_id}"


def test_declared_encodings_are_honored(tmp_path: Path) -> None:
    text = (
        '<?xml version="1.0" encoding="{}"?><Document id="1"><QAPairs>'
        + pair(answer="Ménière")
        + "</QAPairs></Document>"
    )
    for encoding in ("iso-8859-1", "utf-8", "utf-16"):
        [record] = outcomes(tmp_path, text.format(encoding).encode(encoding))
        assert spoken(record)[1] == "Ménière"


def test_markup_inside_an_answer_is_text_and_breaks(tmp_path: Path) -> None:
    answer = (
        "See <b>this</b>:<p>One.</p><p>Two<!-- no --> more.</p><ul><li>a</li><li>b</li></ul>End &amp; <![CDATA[<5]]>"
    )
    [record] = outcomes(tmp_path, document(pair(answer=answer)))
    assert spoken(record)[1] == "See this:\n\nOne.\n\nTwo more.\n- a\n- b\n\nEnd & <5"


def test_pairs_without_answer_or_question_are_counted_by_reason(tmp_path: Path) -> None:
    found = outcomes(
        tmp_path,
        document(
            pair(answer="")
            + pair(answer=" \n ")
            + "<QAPair><Question>q</Question></QAPair>"
            + "<QAPair><Question>q</Question><Answer/></QAPair>"
            + "<QAPair/>"
            + "<QAPair><Answer>a</Answer></QAPair>"
            + pair(question=" ")
            + pair()
            + "<QAPair><Question>two</Question><Answer>a</Answer><Question>three</Question><Answer>b</Answer></QAPair>"
            + "<QAPair><Question>joined</Question><Answer>a</Answer><Answer>b</Answer></QAPair>"
        ),
    )
    reasons = [outcome.reason if isinstance(outcome, Dropped) else spoken(outcome)[0] for outcome in found]
    assert reasons == [*["empty answer"] * 5, *["no question"] * 2, "What is gout ?", "two", "three", "joined"]
    assert spoken(found[-1])[1] == "a\n\nb"


def test_a_file_that_is_not_xml_is_named_with_its_line(tmp_path: Path) -> None:
    [dropped] = outcomes(tmp_path, "<Document>\n<QAPairs>\n<Question>open</QAPairs></Document>")
    assert isinstance(dropped, Dropped)
    assert dropped.place == f"{tmp_path}/1_Test_QA/0000001.xml:3"
    assert dropped.reason == "not XML"
    [dropped] = outcomes(tmp_path, "")
    assert isinstance(dropped, Dropped)
    assert str(dropped).endswith("0000001.xml:1: not XML (Document is empty, line 1, column 1)")


def test_other_xml_is_refused_by_the_name_of_its_root(tmp_path: Path) -> None:
    [dropped] = outcomes(tmp_path, "<article><question>q</question><answer>a</answer></article>")
    assert isinstance(dropped, Dropped)
    assert (dropped.reason, dropped.detail) == ("not MedQuAD", "root <article> holds no QAPairs")


def billion_laughs(levels: int, width: int, place: str) -> str:
    entities = '<!ENTITY e0 "ha">' + "".join(
        f'<!ENTITY e{level} "{f"&e{level - 1};" * width}">' for level in range(1, levels)
    )
    attribute, answer = (f"&e{levels - 1};", "a") if place == "attribute" else ("1", f"&e{levels - 1};")
    return f'<!DOCTYPE d [{entities}]><Document id="{attribute}"><QAPairs>{pair(answer=answer)}</QAPairs></Document>'


@pytest.mark.parametrize(
    "content",
    [
        billion_laughs(12, 10, "answer"),
        billion_laughs(12, 10, "attribute"),
        billion_laughs(3, 3, "answer"),
        billion_laughs(3, 3, "attribute"),
        '<!DOCTYPE d [<!ENTITY e SYSTEM "file:///etc/passwd">]><Document><QAPairs>'
        + pair(answer="&e;")
        + "</QAPairs></Document>",
        '<!DOCTYPE d SYSTEM "http://127.0.0.1:9/x.dtd"><Document><QAPairs>'
        + pair(answer="&nbsp;")
        + "</QAPairs></Document>",
        "<a>" * 100_000,
        "<Document><QAPairs>" + pair(answer="x" * 11_000_000) + "</QAPairs></Document>",
    ],
    ids=["laughs", "laughs in an attribute", "few", "few in an attribute", "file", "network", "depth", "long text"],
)
def test_hostile_xml_is_refused_quickly_and_the_next_file_is_read(tmp_path: Path, content: str) -> None:
    started = time.monotonic()
    outcomes(tmp_path, content)
    found = outcomes(tmp_path, document(pair()), "1_Test_QA/0000002.xml")
    assert time.monotonic() - started < 5
    assert [type(outcome) for outcome in found] == [Dropped, Record]
    assert isinstance(found[0], Dropped)
    assert found[0].reason in ("not XML", "XML entities")


def test_an_external_entity_is_not_even_opened(tmp_path: Path) -> None:
    """Were it read, its broken markup would make the file that names it "not XML"."""
    (tmp_path / "secret").write_text("<broken")
    declared = f'<!DOCTYPE d [<!ENTITY e SYSTEM "file://{tmp_path}/secret">]>'
    [dropped] = outcomes(tmp_path, f"{declared}<Document><QAPairs>{pair(answer='&e;')}</QAPairs></Document>")
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "XML entities"


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "large.xml").touch()
    with (tmp_path / "large.xml").open("r+b") as file:
        file.truncate(MAXIMUM_FILE_BYTES + 1)
    [dropped] = read(parse(f"medquad:{tmp_path}"))
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "file too large"


def test_equal_ids_in_two_folders_are_two_documents_and_other_files_are_passed_over(tmp_path: Path) -> None:
    outcomes(tmp_path, document(pair()), "1_A_QA/1.xml")
    (tmp_path / "readme.txt").write_text("no XML")
    (tmp_path / "empty").mkdir()
    found = outcomes(tmp_path, document(pair()), "2_B_QA/1.XML")
    assert [outcome.document_id for outcome in found if isinstance(outcome, Record)] == [
        "1_A_QA/0000001",
        "2_B_QA/0000001",
    ]


def test_the_document_id_is_the_same_from_the_root_and_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [from_root] = outcomes(tmp_path, document(pair()))
    monkeypatch.chdir(tmp_path / "1_Test_QA")
    for request in (f"medquad:{tmp_path}/1_Test_QA", "medquad:."):
        assert [from_root] == list(read(parse(request)))


def test_a_folder_without_xml_a_missing_one_and_a_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \.xml file"):
        inputs(parse(f"medquad:{tmp_path}"))
    with pytest.raises(InputError, match="nowhere is missing"):
        inputs(parse(f"medquad:{tmp_path}/nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, not a folder"):
        inputs(parse(f"medquad:{tmp_path}/file"))


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  One.  Two.\u00a0Three. ", "One. Two. Three."),
        ("One.\n   \n   Two.\n\n\n\nThree.", "One.\n\nTwo.\n\nThree."),
        ("Key Points\n          - First.    -  Second.\n\n  - Third.", "Key Points\n- First.\n- Second.\n- Third."),
        ("options:  - Tests  - Therapy", "options:\n- Tests\n- Therapy"),
        ("Heading     Text of it", "Heading\nText of it"),
        ("- \nfirst", "- first"),
        ("tendons, and - compression of x-rays -- all", "tendons, and - compression of x-rays -- all"),
    ],
)
def test_answers_keep_paragraphs_and_lists(raw: str, clean: str) -> None:
    assert clean_answer(raw) == clean


@given(st.text(alphabet=st.sampled_from("ab-. \n\t\u00a0"), max_size=40))
def test_cleaning_changes_whitespace_only_and_once(text: str) -> None:
    cleaned = clean_answer(text)
    assert re.sub(r"\s", "", cleaned) == re.sub(r"\s", "", text)
    assert cleaned == cleaned.strip()
    assert not re.search(r"[^\S\n ]|  | \n|\n |\n{3}", cleaned)


def test_cleaning_takes_linear_time() -> None:
    started = time.monotonic()
    clean_answer(" " * 2_000_000 + "x" + "\n " * 1_000_000 + "x" + "- " * 500_000)
    assert time.monotonic() - started < 5


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=80) | st.text(alphabet='<>/&;"= QAPairsonwe![]-', max_size=80).map(str.encode))
def test_any_bytes_give_records_or_reasons(tmp_path: Path, content: bytes) -> None:
    for outcome in outcomes(tmp_path, content):
        assert isinstance(outcome, Record | Dropped)


def test_every_real_pair_is_accounted_for(shared_data: Path) -> None:
    folder = shared_data / "medquad"
    pairs = empty = 0
    for file in folder.rglob("*.xml"):  # counted independently of the XML parser
        text = file.read_text(encoding="utf-8")
        pairs += len(re.findall(r"<(?:qa)?pair[ >]", text, flags=re.IGNORECASE))
        empty += len(re.findall(r"<answer>\s*</answer>|<answer\s*/>", text, flags=re.IGNORECASE))
    found = list(read(parse(f"medquad:{folder}")))
    assert len(found) == pairs > 15_000
    assert [outcome.reason for outcome in found if isinstance(outcome, Dropped)] == ["empty answer"] * empty
