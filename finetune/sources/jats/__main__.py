"""`python -m finetune.sources.jats FILE ...`: the text of articles on stdout, their identity and licence on stderr."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lxml import etree

from finetune.data.records import Dropped, Malformed
from finetune.sources.jats.article import Options, read_articles
from finetune.sources.jats.files import articles_in, contents
from medllama.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m finetune.sources.jats", description="Show what becomes of articles in JATS XML."
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE", help="article, archive or folder")
    parser.add_argument("--no-captions", action="store_true", help="leave out captions of figures and tables")
    parser.add_argument("--tables", action="store_true", help="show the cells of tables")
    given = parser.parse_args(arguments)
    options = Options(captions=not given.no_captions, tables=given.tables)
    status = 0
    try:
        for path in (file for given_path in given.paths for file in articles_in(given_path)):
            for place, content in contents(path):
                status = max(status, _show(place, content, options))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return status


def _show(place: str, content: bytes | Dropped, options: Options) -> int:
    if isinstance(content, Dropped):
        print(f"error: {content}", file=sys.stderr)
        return 1
    try:
        articles = read_articles(content, options)
    except (Malformed, etree.XMLSyntaxError) as error:
        print(f"error: {place}: {error}", file=sys.stderr)
        return 1
    for article in articles:
        about = [article.document_id or "no identifier", article.licence.licence]
        about += ["open" if article.licence.is_open else "not open", f"by {article.licence.evidence}"]
        about += [article.notice] if article.notice else []
        about += ["retracted"] if article.is_retracted else []
        print(f"{place}: {', '.join(about)}", file=sys.stderr)
        print(article.text, end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
