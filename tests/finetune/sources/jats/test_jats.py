"""`jats:DIR` reads files, compressed files and archives; what is broken or hostile is named, counted and costs little."""

from __future__ import annotations

import gzip
import io
import random
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from finetune.data.records import Dropped, Malformed, Record
from finetune.sources import load_source, parse
from finetune.sources.jats.article import MAXIMUM_BYTES, read_articles
from finetune.sources.jats.files import contents
from medllama.errors import InputError
from tests.conftest import REPOSITORY

BY = "http://creativecommons.org/licenses/by/4.0/"
ARTICLE = """<?xml version="1.0" encoding="UTF-8"?>
<article xmlns:xlink="http://www.w3.org/1999/xlink" article-type="research-article">
<front><article-meta><article-id pub-id-type="pmc">13900</article-id>
<title-group><article-title>On gout</article-title></title-group>
<permissions><license xlink:href="http://creativecommons.org/licenses/by/4.0/"/></permissions></article-meta></front>
<body><p>Gout hurts.</p></body></article>"""


def outcomes(folder: Path, settings: str = "") -> list[Record | Dropped]:
    request = parse(f"jats:{folder}{settings}")
    source = load_source("jats")
    assert source.read_file is not None
    found = list(source.read(request))
    assert found == [outcome for path in source.inputs(request) for outcome in source.read_file(request, path)]
    return found


def test_an_article_becomes_a_record_with_its_provenance(tmp_path: Path) -> None:
    (tmp_path / "a.nxml").write_text(ARTICLE)
    [record] = outcomes(tmp_path)
    assert record == Record({"text": "On gout\n\nGout hurts."}, "jats", "PMC13900", "CC-BY-4.0")


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_every_container_gives_the_same(tmp_path: Path) -> None:
    content = ARTICLE.encode()
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "a.xml").write_bytes(content)
    (tmp_path / "b" / "a.NXML").write_bytes(content)
    (tmp_path / "b" / "c" / "a.xml.gz").write_bytes(gzip.compress(content))
    for name, mode in (
        ("a.tar", "w"),
        ("a.tar.gz", "w:gz"),
        ("a.tgz", "w:gz"),
        ("a.tar.bz2", "w:bz2"),
        ("a.tar.xz", "w:xz"),
    ):
        members = {"PMC1/a.nxml": content, "PMC1/fig.jpg": b"\xff\xd8", "PMC1/a.xml.gz": gzip.compress(content)}
        make_tar(tmp_path / "b" / name, members, mode)
    (tmp_path / "filelist.csv").write_text("not XML")
    found = outcomes(tmp_path)
    assert len(found) == 3 + 5 * 2
    assert {record.sha256 for record in found if isinstance(record, Record)} == {found[0].sha256}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["../evil.xml", "/tmp/evil.xml", "a/../../evil.xml", "..\\evil.xml"])
def test_a_name_in_an_archive_reaches_no_other_place(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    make_tar(tmp_path / "in" / "a.tar", {name: ARTICLE.encode(), "fine.xml": ARTICLE.encode()})
    before = sorted(tmp_path.rglob("*"))
    refused, record = outcomes(tmp_path / "in")
    assert isinstance(refused, Dropped)
    assert (refused.reason, refused.is_bad) == ("path leaves the archive", True)
    assert isinstance(record, Record)
    assert sorted(tmp_path.rglob("*")) == before


def test_links_in_archives_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.xml").write_text(ARTICLE)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo("link.xml")
            member.type, member.linkname = kind, str(tmp_path / "secret.xml")
            archive.addfile(member)
    (tmp_path / "secret.xml").unlink()
    assert [str(each).partition(": ")[2] for each in outcomes(tmp_path)] == ["no file but a link or a device"] * 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "a.xml:1: not XML (Document is empty, line 1, column 1)"),
        (ARTICLE.encode()[:-30], "a.xml:6: not XML (Premature end of data"),
        (ARTICLE.replace("<p>", "<q>").encode(), "a.xml:6: not XML (Opening and ending tag mismatch: q line 6 and p"),
        (b"<art><ui>1</ui></art>", "a.xml: not JATS (the root is <art>, not <article>)"),
        (b"<html/>", "a.xml: not JATS (the root is <html>, not <article>)"),
        (b"<article/>", "a.xml: not JATS (an <article> without <front>)"),
        (b"<pmc-articleset/>", "a.xml: not JATS (<pmc-articleset> holds no <article>)"),
        (ARTICLE.replace("Gout", "&foo;").encode(), "a.xml:6: not XML (Entity 'foo' not defined"),
        (
            b'<!DOCTYPE article SYSTEM "x.dtd"><article><front/><body><p>&foo;</p></body></article>',
            "a.xml: XML entities (&foo; is declared nowhere that is read)",
        ),
        (
            b'<!DOCTYPE article [<!ENTITY a "b">]><article><front/><body><p>&a;</p></body></article>',
            "a.xml: XML entities (the file declares &a;, and none is ever expanded)",
        ),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.xml").write_bytes(content)
    [found] = outcomes(tmp_path)
    assert isinstance(found, Dropped)
    assert found.is_bad
    assert str(found).removeprefix(f"{tmp_path}/").startswith(said), str(found)


def test_broken_containers_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.xml.gz").write_bytes(gzip.compress(ARTICLE.encode())[:-12])
    (tmp_path / "b.nxml.gz").write_bytes(b"no gzip at all")
    assert [each.reason for each in outcomes(tmp_path) if isinstance(each, Dropped)] == ["file cannot be read"] * 2


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """tarfile takes a member's name into memory however long it is, and gzip makes gigabytes of zeros small."""
    make_tar(tmp_path / "a.tar", {"fine.xml": ARTICLE.encode()})
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 2_000_000_000
    with (tmp_path / "a.tar").open("r+b") as file:
        file.seek(512 + 512 * -(-len(ARTICLE) // 512))  # behind the article
        file.write(long_name.tobuf() + bytes(10_000))
    with pytest.raises(InputError, match="breaks off after 1 article: a header of 2,000,000,000 bytes"):
        outcomes(tmp_path)


def test_a_header_that_makes_no_sense_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a.xml")
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
        member.size = len(ARTICLE)
        archive.addfile(member, io.BytesIO(ARTICLE.encode()))  # whose first line is no number, as that of sparse files
    with pytest.raises(InputError, match="breaks off after 0 articles"):
        outcomes(tmp_path)


def test_the_names_in_an_archive_are_not_all_held(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(4000):
            archive.addfile(tarfile.TarInfo(f"figures/{number}.jpg"))
    tracemalloc.start()
    try:
        assert list(contents(tmp_path / "a.tar")) == []
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


LONG = "9" * 5000  # Python makes no number of so many digits


def test_numbers_of_any_length_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(
        ARTICLE.replace("13900", LONG).replace(
            "<permissions>", f"<pub-date><month>{LONG}</month><year>{LONG}</year></pub-date><permissions>"
        )
    )
    [found] = outcomes(tmp_path)
    assert isinstance(found, Record)
    assert found.document_id == "a"


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_that_breaks_off_stops_the_run_unless_it_may(tmp_path: Path, mode: str) -> None:
    """Wherever it is cut, at the border of a member too, which tarfile by itself takes for the end."""
    path = tmp_path / f"a.tar{mode.replace('w', '').replace(':', '.')}"
    padding = random.Random(0).randbytes(3000).hex()  # which hardly compresses
    articles = {f"{number}.xml": f"{ARTICLE}<!--{padding}-->".encode() for number in range(5)}
    make_tar(path, articles, mode)
    whole = path.read_bytes()
    used = len(whole) if ":" in mode else 5 * (512 + 512 * -(-len(articles["0.xml"]) // 512))
    for size in {0, 1, 511, 512, used // 3, used // 5, used // 5 * 3, used - 700, *range(512, used, 3584)}:
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"a\.tar.* breaks off after \d articles?: ") as caught:
            outcomes(tmp_path)
        assert "?incomplete=yes" in caught.value.hint
        *read, last = outcomes(tmp_path, "?incomplete=yes")
        assert isinstance(last, Dropped)
        assert (last.reason, last.is_bad) == ("archive breaks off", True)
        assert last.detail.startswith(f"after {len(read)} article")
    path.write_bytes(whole)
    assert len(outcomes(tmp_path)) == 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (('article-type="research-article"', 'article-type="retraction"'), "retracted"),
        (("On gout", "Retracted: On gout"), "retracted"),
        (('article-type="research-article"', 'article-type="correction"'), "correction notice"),
        ((BY, "http://example.com/licence"), "licence not told"),
        (("<p>Gout hurts.</p>", ""), "no text but a title"),
    ],
)
def test_what_is_left_out_on_purpose_is_counted_and_not_bad(
    tmp_path: Path, change: tuple[str, str], reason: str
) -> None:
    (tmp_path / "a.xml").write_text(ARTICLE.replace(*change))
    [found] = outcomes(tmp_path)
    assert isinstance(found, Dropped)
    assert (found.reason, found.is_bad) == (reason, False)


def test_settings_are_choices(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(
        ARTICLE.replace("research-article", "correction").replace(
            "<body>", "<body><fig><caption><p>A foot</p></caption></fig>"
        )
    )
    [found] = outcomes(tmp_path, "?corrections=yes&captions=no")
    assert isinstance(found, Record)
    assert found.content == {"text": "On gout\n\nGout hurts."}
    with pytest.raises(InputError, match="captions=maybe is neither yes nor no"):
        outcomes(tmp_path, "?captions=maybe")
    with pytest.raises(InputError, match="each article has its own"):
        outcomes(tmp_path, "?licence=CC-BY-4.0")
    with pytest.raises(InputError, match="is missing"):
        outcomes(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no article"):
        outcomes(tmp_path / "empty")


def test_a_licence_with_conditions_is_told_so_that_prepare_can_refuse_it(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(ARTICLE.replace("/by/4.0/", "/by-nc-nd/4.0/"))
    [found] = outcomes(tmp_path)
    assert isinstance(found, Record)
    assert found.licence == "CC-BY-NC-ND-4.0"


LAUGHS = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 12))
DECLARED = '"<!DOCTYPE article [" + {} + "]><article><front/><body><p a=\\"{}\\">{}</p></body></article>"'
HOSTILE = {
    "laughs": DECLARED.format(f"""\"<!ENTITY l0 'ha'>{LAUGHS}\"""", "", "&l11;"),
    "laughs in an attribute": DECLARED.format(f"""\"<!ENTITY l0 'ha'>{LAUGHS}\"""", "&l11;", ""),
    "one long entity": DECLARED.format("""\"<!ENTITY a '" + "a" * 1000000 + "'>\"""", "", "&a;" * 10000),
    "external entity": DECLARED.format("""\"<!ENTITY a SYSTEM 'file:///etc/passwd'>\"""", "", "&a;"),
    "external parameter entity": DECLARED.format("""\"<!ENTITY % a SYSTEM 'http://127.0.0.1:9/x'> %a;\"""", "", "x"),
    "nesting": '"<article><front/><body>" + "<sec>" * 20000000',
    "closed nesting": '"<article><front/><body>" + "<p>" * 1900 + "</p>" * 1900 + "</body></article>"',
    "many tags": '"<article><front/><body>" + "<a/>" * 10000000 + "</body></article>"',
    "many attributes": '"<article><front/><body>" + "".join(f"<a a{n}=\\"\\"/>" for n in range(4000000)) + "</body></article>"',
    "long text": '"<article><front/><body><p>" + "a" * 45000000 + "</p></body></article>"',
    "long name": '"<article><front/><body><" + "a" * 30000000 + "/></body></article>"',
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_cost_bounded_memory_and_are_named(tmp_path: Path, name: str) -> None:
    """1 GB of address space holds for everything: the file, its tree, Python."""
    script = f"""
import gzip, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1_000_000_000, 1_000_000_000))
from pathlib import Path
from finetune.sources import load_source, parse
content = {HOSTILE[name]}
with gzip.open({str(tmp_path / "a.xml.gz")!r}, "wb", compresslevel=1) as file:
    file.write(content.encode())
del content
for outcome in load_source("jats").read(parse({f"jats:{tmp_path}"!r})):
    print(type(outcome).__name__, getattr(outcome, "reason", outcome), outcome)
"""
    finished = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    [line] = finished.stdout.splitlines()
    assert line.startswith("Dropped"), line[:300]
    assert "root:" not in line  # of /etc/passwd


def test_a_compressed_file_is_read_no_further_than_allowed(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.xml.gz", "wb", compresslevel=1) as file:
        for _ in range(20):
            file.write(bytes(MAXIMUM_BYTES // 10))
    [found] = outcomes(tmp_path)
    assert isinstance(found, Dropped)
    assert found.reason == "file too large"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_change_of_bytes_is_more_than_an_error_with_a_reason(data: st.DataObject) -> None:
    content = bytearray(ARTICLE.replace("Gout hurts", "Gout <sup>1</sup><inline-formula/> &lt;").encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.integers(0, 30))
        content[at : at + length] = data.draw(
            st.binary(max_size=8) | st.sampled_from([b"<", b">", b"&a;", b"<sec>", b"<![CDATA["])
        )
    try:
        for article in read_articles(bytes(content)):
            article.text.encode()
    except (Malformed, etree.XMLSyntaxError):
        pass


def test_the_command_shows_text_and_licence(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(ARTICLE)
    (tmp_path / "b.xml").write_text("<art/>")
    command = [sys.executable, "-m", "finetune.sources.jats", str(tmp_path / "a.xml")]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert shown.returncode == 0
    assert shown.stdout == "On gout\n\nGout hurts.\n\n"
    assert f"PMC13900, CC-BY-4.0, open, by the URL '{BY}'" in shown.stderr
    shown = subprocess.run([*command[:-1], str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True)
    assert shown.returncode == 1
    assert "not JATS: the root is <art>, not <article>" in shown.stderr


@pytest.mark.parametrize("name", ["walking.xml", "hiccups.nxml"])
def test_the_documentation_shows_what_becomes_of_its_articles(name: str) -> None:
    [article] = read_articles((Path(__file__).parent / "articles" / name).read_bytes())
    assert f"```text\n{article.text}\n```" in (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
    assert article.licence.is_open
