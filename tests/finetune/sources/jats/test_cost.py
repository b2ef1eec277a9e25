"""What the stylesheet costs grows with the article, not with its square: no place of it looks at all siblings of each sibling."""

from __future__ import annotations

import time

import pytest
from lxml import etree

from finetune.sources.jats.article import Options, text_of

MATHML = 'xmlns:m="http://www.w3.org/1998/Math/MathML"'
FEW, MANY = 1000, 16_000


def article_of(body: str) -> etree._Element:
    return etree.fromstring(f"<article {MATHML}><front><article-meta/></front><body>{body}</body></article>")


def processor_seconds(body: str) -> float:
    article = article_of(body)
    begun = time.thread_time()
    text_of(article, Options(tables=True))
    return time.thread_time() - begun


@pytest.mark.parametrize(
    ("before", "repeated", "behind"),
    [
        ('<list list-type="order">', "<list-item><p>a</p></list-item>", "</list>"),
        ("<sec><label>1</label>", "<title>a</title>", "<p>b</p></sec>"),
        ("<sec>", "<title>a</title>", "<p>b</p></sec>"),
        ("<p>a", "<sub>2</sub>1", "</p>"),
        ("<p>a", '<xref ref-type="bibr">1</xref>, ', "</p>"),
        ("<table-wrap><table><tr><td>", "<p>a</p>", "</td></tr></table></table-wrap>"),
        ("<table-wrap>", "<table><tr><td>a</td></tr></table>", "</table-wrap>"),
        ("<p><m:math>", "<m:mi>log</m:mi>", "</m:math></p>"),
        ("<p><m:math>", "<m:mspace/><m:mo>-</m:mo>", "</m:math></p>"),
        ("<p><m:math><m:mmultiscripts>", "<m:mi>a</m:mi>", "</m:mmultiscripts></m:math></p>"),
        ("<p><m:math><m:mmultiscripts>", "<m:mprescripts/><m:mi>a</m:mi>", "</m:mmultiscripts></m:math></p>"),
    ],
)
def test_many_siblings_cost_what_each_of_them_does(before: str, repeated: str, behind: str) -> None:
    few, many = (
        min(processor_seconds(before + repeated * number + behind) for _ in range(2)) for number in (FEW, MANY)
    )
    assert (
        many < 5 * MANY / FEW * few
    )  # the square would be 16 times as much; 5 leave room for what else a machine does


@pytest.mark.parametrize("rows", ["{}", "<tbody>{}</tbody>"])
def test_a_table_in_a_cell_of_a_table_is_written_once(rows: str) -> None:
    """Were it twice at each level, sixty levels would never end."""
    begin, end = ("<table-wrap><table>" + rows.format("<tr><td>|</td></tr>") + "</table></table-wrap>").split("|")
    deep = 50
    assert text_of(article_of(begin * deep + "innermost" + end * deep), Options(tables=True)).count("innermost") == 1


def test_prescripts_stand_before_what_they_belong_to_and_postscripts_behind() -> None:
    scripts = "<m:mi>C</m:mi><m:mn>1</m:mn><m:mn>2</m:mn><m:mprescripts/><m:none/><m:mn>14</m:mn>"
    formula = f"<p><m:math><m:mmultiscripts>{scripts}</m:mmultiscripts></m:math></p>"
    assert text_of(article_of(formula), Options()) == "^14C_1^2"
