"""`pmc`: gates before bytes, every byte checked, faults survived, nothing fetched twice, budgets kept; against a local bucket."""

from __future__ import annotations

import csv
import json
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.data.blocks import blocks_of
from finetune.data.records import Dropped, Malformed, Record
from finetune.prepare import prepare
from finetune.prepare_config import PrepareConfig
from finetune.sources import load_source, parse
from finetune.sources.jats.article import read_articles
from finetune.sources.pmc.metadata import parse_metadata, parse_pmcid
from medllama.errors import InputError
from tests.finetune.sources.pmc.bucket_server import BucketServer, breaks_off, damages, fails, serving


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        yield server


def article(
    number: int, text: str = "Gout hurts.", licence: str = "http://creativecommons.org/licenses/by/4.0/"
) -> bytes:
    stated = f'<permissions><license xlink:href="{licence}"/></permissions>' if licence else ""
    return (
        f'<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta><article-id pub-id-type="pmcid">PMC{number}'
        f"</article-id><title-group><article-title>On gout</article-title></title-group>{stated}</article-meta></front>"
        f"<body><p>{text}</p></body></article>"
    ).encode()


def outcomes(bucket: BucketServer, tmp_path: Path, ids: str | None, **settings: Any) -> list[Record | Dropped]:
    if ids is not None:
        (tmp_path / "ids.txt").write_text(ids)
    query = "&".join(
        f"{name}={value}"
        for name, value in {"endpoint": bucket.endpoint, "cache": tmp_path / "cache", **settings}.items()
    )
    request = parse(f"pmc:{tmp_path / 'ids.txt' if ids is not None else 'inventory'}?{query}")
    source = load_source("pmc")
    source.inputs(request)
    return list(source.read(request))


def reasons(found: list[Record | Dropped]) -> list[str]:
    return [each.reason if isinstance(each, Dropped) else each.document_id for each in found]


def test_an_id_becomes_a_record(bucket: BucketServer, tmp_path: Path) -> None:
    bucket.add("PMC7.1", article(7))
    [record] = outcomes(bucket, tmp_path, "PMC7\n")
    assert record == Record({"text": "On gout\n\nGout hurts."}, "pmc", "PMC7", "CC-BY-4.0")
    assert bucket.asked == {"metadata/PMC7.1.json": 1, "PMC7.1/PMC7.1.xml": 1}


def test_the_list_is_worked_off_in_its_order(bucket: BucketServer, tmp_path: Path) -> None:
    for number in range(1, 31):
        bucket.add(f"PMC{number}.1", article(number))
    ids = "# mine\n" + "\n".join(f"PMC{number}  # why" for number in range(30, 0, -1)) + "\n\nx1\n7\nPMC99\n"
    found = outcomes(bucket, tmp_path, ids, concurrency=7)
    assert reasons(found)[:30] == [f"PMC{number}" for number in range(30, 0, -1)]
    assert reasons(found)[30:] == ["no PMCID", "asked for twice", "not in the bucket"]
    assert [each.is_bad for each in found if isinstance(each, Dropped)] == [True, False, False]
    assert str(found[30]) == f"{tmp_path}/ids.txt:33: no PMCID ('x1')"


def test_the_newest_version_is_taken_unless_one_is_named(bucket: BucketServer, tmp_path: Path) -> None:
    for version in (1, 2, 10):
        bucket.add(f"PMC7.{version}", article(7, f"Version {version}."))
    bucket.add("PMC70.11", article(70))
    [record] = outcomes(bucket, tmp_path, "PMC7")
    assert "Version 10." in record.content["text"]  # type: ignore[union-attr]
    [record] = outcomes(bucket, tmp_path, "PMC7.2")
    assert "Version 2." in record.content["text"]  # type: ignore[union-attr]


def test_a_version_that_was_named_once_is_not_taken_for_the_newest(bucket: BucketServer, tmp_path: Path) -> None:
    for version in (1, 2):
        bucket.add(f"PMC7.{version}", article(7, f"Version {version}."))
    for ids, version in (("PMC7.1", 1), ("PMC7", 2), ("PMC7.1", 1), ("PMC7", 2)):
        [record] = outcomes(bucket, tmp_path, ids)
        assert f"Version {version}." in record.content["text"]  # type: ignore[union-attr]


CLOSED: list[tuple[dict[str, Any], str]] = [
    ({"is_retracted": True}, "retracted"),
    ({"is_retracted": "yes"}, "retracted"),
    ({"is_retracted": None}, "not told whether retracted"),
    ({"is_pmc_openaccess": False}, "not in the Open Access Subset"),
    ({"is_pmc_openaccess": "no"}, "not in the Open Access Subset"),
    ({"is_pmc_openaccess": None}, "not in the Open Access Subset"),
    ({"license_code": "TDM"}, "licence not told"),
    ({"license_code": None}, "licence not told"),
    ({"license_code": "CC BY-NC"}, "licence not open"),
    ({"license_code": "CC BY-ND"}, "licence not open"),
    ({"is_historical_ocr": True}, "text of a scan"),
]


@pytest.mark.parametrize(("metadata", "reason"), CLOSED)
def test_what_the_gates_refuse_is_never_fetched(
    bucket: BucketServer, tmp_path: Path, metadata: dict[str, Any], reason: str
) -> None:
    bucket.add("PMC7.1", article(7), **metadata)
    [found] = outcomes(bucket, tmp_path, "PMC7")
    assert isinstance(found, Dropped)
    assert (found.reason, found.is_bad) == (reason, False)
    assert not any(key.endswith(".xml") for key in bucket.asked)


def test_flags_may_be_words(bucket: BucketServer, tmp_path: Path) -> None:
    bucket.add("PMC7.1", article(7), is_pmc_openaccess="Yes", is_retracted="No", is_historical_ocr="no")
    assert reasons(outcomes(bucket, tmp_path, "PMC7")) == ["PMC7"]


@pytest.mark.parametrize(
    ("stated", "code", "licence"),
    [
        ("http://creativecommons.org/licenses/by/3.0/", "CC BY", "CC-BY-3.0"),
        ("", "CC BY", "LicenseRef-CC-BY"),
        ("", "CC0", "CC0-1.0"),
        ("http://creativecommons.org/licenses/by-nc/4.0/", "CC BY", None),
        ("http://creativecommons.org/licenses/by/4.0/", "CC0", None),
        ("http://example.com/terms", "CC BY", None),
    ],
)
def test_the_article_and_its_metadata_must_agree(
    bucket: BucketServer, tmp_path: Path, stated: str, code: str, licence: str | None
) -> None:
    bucket.add("PMC7.1", article(7, licence=stated), license_code=code)
    [found] = outcomes(bucket, tmp_path, "PMC7")
    assert (found.licence if isinstance(found, Record) else None) == licence


def test_other_licences_are_fetched_where_they_are_asked_for(bucket: BucketServer, tmp_path: Path) -> None:
    bucket.add("PMC7.1", article(7, licence="http://creativecommons.org/licenses/by-nc/4.0/"), license_code="CC BY-NC")
    [record] = outcomes(bucket, tmp_path, "PMC7", licences="all")
    assert isinstance(record, Record)
    assert record.licence == "CC-BY-NC-4.0"


def test_faults_that_pass_are_survived(bucket: BucketServer, tmp_path: Path) -> None:
    bucket.add("PMC7.1", article(7))
    bucket.faults = {"metadata/PMC7.1.json": [fails, breaks_off], "PMC7.1/PMC7.1.xml": [breaks_off, damages, fails]}
    assert reasons(outcomes(bucket, tmp_path, "PMC7")) == ["PMC7"]
    assert bucket.asked["PMC7.1/PMC7.1.xml"] == 4


def test_wrong_bytes_are_never_taken(bucket: BucketServer, tmp_path: Path) -> None:
    bucket.add("PMC7.1", article(7))
    bucket.add("PMC8.1", article(8))
    bucket.objects["PMC7.1/PMC7.1.xml"] = article(7, "Something else.")
    found = outcomes(bucket, tmp_path, "PMC7\nPMC8")
    assert reasons(found) == ["md5 is wrong", "PMC8"]
    assert isinstance(found[0], Dropped)
    assert found[0].is_bad
    assert not list((tmp_path / "cache").rglob("PMC7*.xml"))


def test_nothing_is_fetched_twice(bucket: BucketServer, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        bucket.add(f"PMC{number}.1", article(number))
    first = outcomes(bucket, tmp_path, "PMC1\nPMC2")
    bucket.asked.clear()
    assert outcomes(bucket, tmp_path, "PMC1\nPMC2\nPMC3")[:2] == first
    assert bucket.asked == {"metadata/PMC3.1.json": 1, "PMC3.1/PMC3.1.xml": 1}


def test_metadata_that_is_none_is_not_believed_the_next_time(bucket: BucketServer, tmp_path: Path) -> None:
    bucket.add("PMC7.1", article(7))
    bucket.faults = {"metadata/PMC7.1.json": [damages]}  # as a proxy's page about its maintenance
    assert reasons(outcomes(bucket, tmp_path, "PMC7")) == ["metadata is not JSON"]
    assert reasons(outcomes(bucket, tmp_path, "PMC7")) == ["PMC7"]


def test_damage_in_the_cache_is_mended(bucket: BucketServer, tmp_path: Path) -> None:
    bucket.add("PMC1.1", article(1))
    first = outcomes(bucket, tmp_path, "PMC1")
    [cached] = (tmp_path / "cache").rglob("*.xml")
    cached.write_bytes(cached.read_bytes()[:50])
    assert outcomes(bucket, tmp_path, "PMC1") == first


def test_an_article_that_was_retracted_since_is_refused(bucket: BucketServer, tmp_path: Path) -> None:
    bucket.add("PMC1.1", article(1))
    assert reasons(outcomes(bucket, tmp_path, "PMC1")) == ["PMC1"]
    bucket.add("PMC1.1", article(1), is_retracted=True)
    [cached] = (tmp_path / "cache").rglob("*.json")
    yesterday = time.time() - 25 * 3600
    os.utime(cached, (yesterday, yesterday))
    assert reasons(outcomes(bucket, tmp_path, "PMC1")) == ["retracted"]


def test_budgets_hold_and_are_the_same_the_second_time(bucket: BucketServer, tmp_path: Path) -> None:
    for number in range(1, 10):
        bucket.add(f"PMC{number}.1", article(number), is_retracted=number == 2)
    ids = "\n".join(f"PMC{number}" for number in range(1, 10))
    for _ in range(2):
        assert reasons(outcomes(bucket, tmp_path, ids, articles=3)) == ["PMC1", "retracted", "PMC3", "PMC4"]
        assert sum(count for key, count in bucket.asked.items() if key.endswith(".xml")) == 3
    fresh = tmp_path / "fresh"
    for _ in range(2):
        found = outcomes(bucket, tmp_path, ids, bytes=3 * len(article(1)) + 5, cache=fresh)
        assert reasons(found) == ["PMC1", "retracted", "PMC3", "PMC4"]
    assert len(list(fresh.rglob("*.xml"))) == 3


def test_the_newest_inventory_is_read(bucket: BucketServer, tmp_path: Path) -> None:
    for name in ("PMC1.1", "PMC1.2", "PMC2.1", "PMC3.1"):
        bucket.add(name, article(int(name[3]), name))
    bucket.add_inventory("2026-01-01T00-00Z")
    bucket.add("PMC4.1", article(4))
    bucket.add_inventory("2026-01-02T00-00Z")
    found = outcomes(bucket, tmp_path, None)
    assert sorted(reasons(found)) == ["PMC1", "PMC2", "PMC3", "PMC4"]
    assert "metadata/PMC1.1.json" not in bucket.asked
    bucket.add("PMC3.1", article(3), is_retracted=True)  # the inventory's etag tells that the cached metadata is old
    bucket.add_inventory("2026-01-03T00-00Z")
    bucket.asked.clear()
    assert sorted(reasons(outcomes(bucket, tmp_path, None))) == ["PMC1", "PMC2", "PMC4", "retracted"]
    assert [key for key in bucket.asked if key.startswith("metadata/")] == ["metadata/PMC3.1.json"]


def test_an_inventory_that_is_damaged_is_named_and_fetched_anew(bucket: BucketServer, tmp_path: Path) -> None:
    for number in range(1, 40):
        bucket.add(f"PMC{number}.1", article(number))
    bucket.add_inventory("2026-01-01T00-00Z")
    expected = reasons(outcomes(bucket, tmp_path, None))
    for cached in sorted((tmp_path / "cache").rglob("*.csv.gz")):
        whole = cached.read_bytes()
        for at in (0, 12, len(whole) // 2, len(whole) - 6):  # the header, a block's type, its content, the checksum
            cached.write_bytes(whole[:at] + bytes(byte ^ 0xFF for byte in whole[at : at + 4]) + whole[at + 4 :])
            with pytest.raises(InputError, match=r"csv\.gz is damaged"):
                outcomes(bucket, tmp_path, None)
            assert not cached.exists()
            assert reasons(outcomes(bucket, tmp_path, None)) == expected


def test_a_bucket_that_is_not_there_is_named(bucket: BucketServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no inventory below inventory-reports/pmc-oa-opendata/metadata/"):
        outcomes(bucket, tmp_path, None)
    with pytest.raises(InputError, match="nonsense is no endpoint"):
        outcomes(bucket, tmp_path, "PMC1", endpoint="nonsense")
    bucket.faults = {"metadata/PMC1.1.json": [fails] * 9}
    with pytest.raises(InputError, match="SlowDown"):
        outcomes(bucket, tmp_path, "PMC1.1")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"articles": "0"}, "articles=0 is no whole number above 0"),
        ({"bytes": "1MB"}, "bytes=1MB is no whole number above 0"),
        ({"concurrency": "-1"}, "concurrency=-1 is no whole number"),
        ({"licences": "some"}, "licences=some is neither open nor all"),
        ({"captions": "x"}, "captions=x is neither yes nor no"),
        ({"licence": "CC-BY-4.0"}, "each article has its own"),
    ],
)
def test_wrong_settings_are_refused_before_anything_begins(
    bucket: BucketServer, tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        outcomes(bucket, tmp_path, "PMC1", **settings)
    with pytest.raises(InputError, match="does not exist"):
        load_source("pmc").inputs(parse(f"pmc:{tmp_path / 'nothing'}"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "metadata is not JSON"),
        (b"[]", "metadata is not JSON"),
        (b"{}", "metadata names no XML"),
        (b'{"pmcid": "PMC8"}', "metadata of another article"),
        (b'{"xml_url": "https://example.com/PMC7.1.xml?md5=0"}', "metadata names XML elsewhere"),
        (b'{"xml_url": "s3://other/PMC7.1/PMC7.1.xml?md5=0"}', "metadata names XML elsewhere"),
        (b'{"xml_url": "s3://b/../../etc/passwd?md5=0"}', "metadata names XML elsewhere"),
        (b'{"xml_url": "s3://b/PMC7.1/PMC7.1.xml"}', "metadata names XML without its md5"),
    ],
)
def test_metadata_that_cannot_be_trusted_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse_metadata(content, "PMC7.1", "b")
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("PMC7", ("PMC7", None)),
        ("7", ("PMC7", None)),
        (" pmc007.2 ", ("PMC7", 2)),
        ("PMCID7", None),
        ("", None),
        ("PMC7.x", None),
    ],
)
def test_pmcids(text: str, found: tuple[str, int | None] | None) -> None:
    assert parse_pmcid(text) == found


def test_xml_of_another_article_is_refused(bucket: BucketServer, tmp_path: Path) -> None:
    bucket.add("PMC7.1", article(8))
    assert reasons(outcomes(bucket, tmp_path, "PMC7")) == ["another article"]


def test_real_articles_come_through_the_bucket(bucket: BucketServer, tmp_path: Path, shared_data: Path) -> None:
    expected = {}
    for path in sorted((shared_data / "jats").glob("PMC*.xml")):
        content = path.read_bytes()
        bucket.add(f"{path.stem}.1", content)
        expected[path.stem] = read_articles(content)[0].text
    assert len(expected) > 15
    found = outcomes(bucket, tmp_path, "\n".join(expected))
    assert {record.document_id: record.content["text"] for record in found if isinstance(record, Record)} == expected


# ------------------------------------------------------------------------------------------------------------ legacy


def legacy_outcomes(folder: Path) -> list[Record | Dropped]:
    request = parse(f"pmc:{folder}")
    assert load_source("pmc").inputs(request)
    return list(load_source("pmc").read(request))


def test_a_legacy_copy_is_read_with_its_list(tmp_path: Path) -> None:
    folder = tmp_path / "oa_comm" / "xml" / "all"
    folder.mkdir(parents=True)
    rows = [(1, "CC BY", "no"), (2, "CC BY", "yes"), (3, "NO-CC CODE", "no"), (4, "CC BY-NC", "no")]
    with (folder / "oa_comm_xml.filelist.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "Article File",
                "Article Citation",
                "AccessionID",
                "LastUpdated (YYYY-MM-DD HH:MM:SS)",
                "PMID",
                "License",
                "Retracted",
            ]
        )
        for number, licence, retracted in rows:
            (folder / f"PMC{number}.xml").write_bytes(article(number))
            writer.writerow(
                [f"PMC{number}.xml", "A. 2010", f"PMC{number}", "2010-01-01 00:00:00", "1", licence, retracted]
            )
        file.write("broken\n")
    (folder / "PMC5.xml").write_bytes(article(5))  # on no list
    assert reasons(legacy_outcomes(tmp_path)) == [
        "another width", "PMC1", "retracted", "licence not told", "licence not told", "PMC5",
    ]  # fmt: skip


def test_articles_are_read_on_any_core_with_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "pmc").mkdir()
    for number in range(450):
        (tmp_path / "pmc" / f"PMC{number}.xml").write_bytes(article(number, f"Gout number {number} hurts."))
    (tmp_path / "pmc" / "oa_file_list.csv").write_text("File,Accession ID,License\nx,PMC7,CC BY-NC\nx,PMC8,CC BY\n")
    blocks = list(blocks_of(parse(f"pmc:{tmp_path}/pmc"), 0))
    assert [(len(block.files), block.outcomes) for block in blocks] == [(200, ()), (200, ()), (50, ())]
    contents = []
    for workers in (1, 2):
        output = tmp_path / f"data{workers}"
        prepare(PrepareConfig(source=(f"pmc:{tmp_path}/pmc",), output_dir=output, workers=workers))
        contents.append({file.name: file.read_bytes() for file in output.iterdir()})
    assert contents[0] == contents[1]
    counts = json.loads(contents[0]["data_card.json"])["sources"][0]["counts"]
    assert (counts["read"], counts["dropped"]["licence not told"]) == (450, 1)


def test_legacy_packages_are_read_with_their_list(tmp_path: Path) -> None:
    (tmp_path / "oa_file_list.csv").write_text(
        "File,Article Citation,Accession ID,Last Updated (YYYY-MM-DD HH:MM:SS),PMID,License\n"
        "oa_package/00/PMC1.tar.gz,A,PMC1,2010,1,CC BY\noa_package/00/PMC2.tar.gz,B,PMC2,2010,2,NO-CC CODE\n"
    )
    for number in (1, 2):
        (tmp_path / "a.nxml").write_bytes(article(number, licence=""))
        package = tmp_path / "oa_package" / "00" / f"PMC{number}.tar.gz"
        package.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(package, "w:gz") as archive:
            archive.add(tmp_path / "a.nxml", f"PMC{number}/a.nxml")
        (tmp_path / "a.nxml").unlink()
    found = legacy_outcomes(tmp_path)
    assert reasons(found) == ["PMC1", "licence not told"]
    assert isinstance(found[0], Record)
    assert found[0].licence == "LicenseRef-CC-BY"
    package.write_bytes(package.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"PMC2\.tar\.gz breaks off after 0 articles"):
        legacy_outcomes(tmp_path)


def test_a_folder_without_a_list_is_sent_to_jats(tmp_path: Path) -> None:
    (tmp_path / "PMC1.xml").write_bytes(article(1))
    with pytest.raises(InputError, match="use jats:"):
        legacy_outcomes(tmp_path)
    (tmp_path / "oa_file_list.csv").write_text(json.dumps({}))
    with pytest.raises(InputError, match="has no columns"):
        legacy_outcomes(tmp_path)


HEADER = "File,Article Citation,Accession ID,Last Updated (YYYY-MM-DD HH:MM:SS),PMID,License,Retracted\n"


def test_a_wrong_quotation_mark_in_a_list_hides_no_retraction(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"PMC{number}.xml").write_bytes(article(number))
    (tmp_path / "oa_file_list.csv").write_text(
        HEADER + 'a,"The "good" article",PMC1,2010,1,CC BY,no\na,"B",PMC2,2010,2,CC BY,yes\na,C,PMC3,2010,3,CC BY,no\n'
    )
    assert reasons(legacy_outcomes(tmp_path)) == ["not CSV", "PMC1", "retracted", "PMC3"]


def test_lists_that_disagree_open_nothing(tmp_path: Path) -> None:
    (tmp_path / "PMC1.xml").write_bytes(article(1, licence=""))
    for name, licence in (("a.filelist.csv", "CC BY-NC"), ("b.filelist.csv", "CC BY")):
        (tmp_path / name).write_text(f"{HEADER}a,A,PMC1,2010,1,{licence},no\n")
    assert reasons(legacy_outcomes(tmp_path)) == ["licence not told"]


def test_a_file_of_another_name_is_looked_up_by_the_id_in_it(tmp_path: Path) -> None:
    (tmp_path / "Gut_2010_59_1.nxml").write_bytes(article(1))
    (tmp_path / "oa_file_list.csv").write_text(f"{HEADER}a,A,PMC1,2010,1,CC BY,yes\n")
    assert reasons(legacy_outcomes(tmp_path)) == ["retracted"]
