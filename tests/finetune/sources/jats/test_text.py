"""JATS to text: what is read stays in its order, what is no text goes, and no citation or formula glues or doubles words."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.sources.jats.article import Article, Options, read_articles, without_elements
from finetune.sources.jats.marks import tidy

MARKS = re.compile("[\ufdd0-\ufdef]")
NAMESPACES = (
    'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:mml="http://www.w3.org/1998/Math/MathML" '
    'xmlns:ali="http://www.niso.org/schemas/ali/1.0/"'
)


def article(body: str, *, front: str = "", back: str = "", attributes: str = "", head: str = "") -> Article:
    [found] = read_articles(
        f"{head}<article {NAMESPACES} {attributes}><front><article-meta><title-group><article-title>On gout</article-title>"
        f"</title-group>{front}</article-meta></front><body>{body}</body>{back}</article>".encode()
    )
    return found


def text(body: str, **parts: str) -> list[str]:
    """The paragraphs behind the title."""
    return article(body, **parts).text.split("\n\n")[1:]


def paragraph(content: str) -> str:
    [found] = text(f"<p>{content}</p>")
    return found


def cite(label: str, number: int = 1) -> str:
    return f'<xref ref-type="bibr" rid="B{number}">{label}</xref>'


def test_title_abstract_sections_and_lists_stand_in_their_order() -> None:
    found = article(
        "<sec><label>1</label><title>Methods</title><p>We <italic>asked</italic>\n  people.</p>"
        "<sec><title>Sample</title><p>Ten.</p></sec></sec>"
        '<p>Aims:<list list-type="order"><list-item><p>to see</p></list-item>'
        "<list-item><p>to hear</p><p>and say</p></list-item></list></p>"
        "<list><list-item><p>one</p></list-item></list>"
        "<def-list><def-item><term>MIT</term><def><p>a thing</p></def></def-item></def-list>",
        front="<abstract><sec><title>Aim</title><p>To know.</p></sec></abstract>",
    )
    assert found.text.split("\n\n") == [
        "On gout", "Abstract", "Aim", "To know.", "1 Methods", "We asked people.", "Sample", "Ten.",
        "Aims:\n1. to see\n2. to hear\nand say", "- one", "MIT: a thing",
    ]  # fmt: skip


def test_what_is_no_text_of_the_article_is_left_out() -> None:
    found = article(
        "<sec><title>Results</title><p>Kept.<fn><p>a note</p></fn><xref ref-type='fn'>*</xref></p></sec>"
        "<sec><title>Conflicts of Interest:</title><p>none</p></sec><sec><title>ACKNOWLEDGEMENTS</title><p>thanks</p></sec>"
        "<sec sec-type='supplementary-material'><title>Files</title><p>S1</p></sec>"
        "<sec><title>Author’s contributions</title><p>all</p></sec>"
        "<sec><title>Figures</title></sec>",
        back="<back><ack><p>thanks</p></ack><fn-group><fn><p>money</p></fn></fn-group><ref-list><ref><mixed-citation>A book"
        "</mixed-citation></ref></ref-list><glossary><p>words</p></glossary><notes><p>note</p></notes></back>"
        "<sub-article><front-stub/><body><p>a review</p></body></sub-article>",
        front="<contrib-group><contrib><name><surname>Rossi</surname></name></contrib></contrib-group><abstract><p>Short.</p></abstract>"
        "<abstract abstract-type='graphical'><p>picture</p></abstract><trans-abstract xml:lang='fr'><p>court</p></trans-abstract>"
        "<abstract xml:lang='de'><p>kurz</p></abstract><kwd-group><kwd>gout</kwd></kwd-group>",
        attributes="xml:lang='en'",
    )
    assert found.text == "On gout\n\nAbstract\n\nShort.\n\nResults\n\nKept."


@pytest.mark.parametrize(
    "block",
    [
        "<disp-quote><p>said so</p></disp-quote>",
        "<preformat>said so</preformat>",
        "<code>said so</code>",
        "<verse-group><verse-line>said so</verse-line></verse-group>",
        "<speech><speaker>A</speaker><p>said so</p></speech>",
        "<statement><p>said so</p></statement>",
        "<disp-formula-group><disp-formula>said so</disp-formula></disp-formula-group>",
    ],
)
def test_what_follows_a_block_in_a_paragraph_is_glued_to_nothing(block: str) -> None:
    before, said, behind = text(f"<p>Before{block}behind <italic>it</italic>.</p>")
    assert (before, said.removeprefix("A: "), behind) == ("Before", "said so", "behind it.")


def test_a_paragraph_behind_a_list_of_an_item_is_a_line_of_its_own() -> None:
    inner = "<list><list-item><p>inner</p></list-item></list>"
    assert text(f"<list><list-item><label>(a)</label><p>one</p>{inner}<p>behind</p></list-item></list>") == [
        "(a) one\n  - inner\nbehind"
    ]
    assert text(f"<list><list-item>{inner}<p>behind</p></list-item></list>") == ["-\n  - inner\nbehind"]


def items(*contents: str, kind: str = "bullet") -> str:
    return f'<list list-type="{kind}">{"".join(f"<list-item>{content}</list-item>" for content in contents)}</list>'


def test_a_list_in_a_list_stands_to_the_right_of_it() -> None:
    defined = "<def-list><def-item><term>MIT</term><def><p>a thing</p></def></def-item></def-list>"
    inner = items("<p>one a</p><p>and more</p>" + items("<p>deep</p>"), f"<p>one b{defined}</p>", kind="order")
    expected = [
        "- one", "  1. one a", "  and more", "    - deep", "  2. one b", "    MIT: a thing", "- two",
    ]  # fmt: skip
    assert text(items(f"<p>one</p>{inner}", "<p>two</p>")) == ["\n".join(expected)]
    assert paragraph("Do:" + items(f"<p>one{inner}</p>", "<p>two</p>")) == "\n".join(["Do:", *expected])


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("<m:math><m:mi>x</m:mi></m:math><tex-math>$x$</tex-math>", "x"),
        ("<m:math/><tex-math>$y$</tex-math>", "y"),  # as converters leave it
        ("<alternatives><m:math> </m:math><tex-math>$y$</tex-math></alternatives>", "y"),
        ("<m:math/><tex-math/>", "[formula]"),
    ],
)
def test_a_form_of_a_formula_that_is_empty_gives_way_to_another(formula: str, expected: str) -> None:
    mathematics = 'xmlns:m="http://www.w3.org/1998/Math/MathML"'
    found = paragraph(f"Let <inline-formula {mathematics}>{formula}</inline-formula> be.")
    assert found == f"Let {expected} be."


def test_who_speaks_has_one_colon() -> None:
    for speaker in ("Dr. Rossi", "Dr. Rossi:", " Dr. Rossi: "):
        assert text(f"<speech><speaker>{speaker}</speaker><p>Gout hurts.</p></speech>") == ["Dr. Rossi: Gout hurts."]


def test_what_is_in_a_cell_stays_in_its_row() -> None:
    cell = f"<td>{items('<p>one</p>', '<p>two</p>')}</td><td><p>three</p><p>four</p></td>"
    content = (
        f"<article {NAMESPACES}><front/><body><table-wrap><table><tr>{cell}</tr></table></table-wrap></body></article>"
    )
    assert read_articles(content.encode(), Options(tables=True))[0].text == "- one - two\tthree four"


def test_an_empty_item_leaves_no_line_of_spaces() -> None:
    assert text(items("<p>one</p>" + items("", "<p/>", "<p>two</p>", kind="simple"))) == ["- one\n  two"]


def test_lists_in_lists_grow_by_a_bounded_number_of_spaces() -> None:
    depth, many = 60, 2000
    found = text("<list><list-item>" * depth + items(*["<p>x</p>"] * many) + "</list-item></list>" * depth)
    assert len(found[0]) < 30 * many


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("alpha-lower", "a. x\nb. x"),
        ("alpha-upper", "A. x\nB. x"),
        ("roman-lower", "i. x\nii. x"),
        ("roman-upper", "I. x\nII. x"),
    ],
)
def test_items_that_a_text_may_point_at_keep_their_letters(kind: str, expected: str) -> None:
    assert text(items("<p>x</p>", "<p>x</p>", kind=kind)) == [expected]


def test_the_words_that_lead_to_a_supplement_stay() -> None:
    link = '<inline-supplementary-material xlink:href="a.xls">table S1</inline-supplementary-material>'
    file = '<supplementary-material><label>S2</label><media xlink:href="b.pdf"/></supplementary-material>'
    assert paragraph(f"Mice lost weight, as {link} shows.{file}") == "Mice lost weight, as table S1 shows."


@pytest.mark.parametrize(
    "title",
    ["5. Acknowledgements", "6 Funding", "<bold>FUNDING</bold>", "Competing&#160;interests", "Acknowledgments and funding",
     "Financial support and sponsorship"],
)  # fmt: skip
def test_thanks_and_money_are_left_out_whatever_their_number(title: str) -> None:
    assert text(f"<sec><title>{title}</title><p>x</p></sec><sec><title>2 Support vectors</title><p>y</p></sec>") == [
        "2 Support vectors",
        "y",
    ]


def test_the_number_of_a_formula_stands_behind_it() -> None:
    formula = f"<disp-formula>{MATH.format('x')}<label>(2)</label></disp-formula>"
    assert text(formula) == ["x (2)"]
    assert text(f"<p>{formula}</p>") == ["x (2)"]


def test_an_array_and_a_structure_are_glued_to_nothing() -> None:
    array = "<array><tbody><tr><td>1</td><td>2</td></tr></tbody></array>"
    assert text(f"<p>Before{array}behind.</p>{array}") == ["Before", "behind."]
    content = f"<article {NAMESPACES}><front/><body>{array}</body></article>".encode()
    assert read_articles(content, Options(tables=True))[0].text == "1\t2"
    salt = "<label>(I)</label><caption><title>Salt</title></caption><chem-struct>NaCl</chem-struct>"
    assert text(f"<p>Before<chem-struct-wrap>{salt}</chem-struct-wrap>behind.</p>") == [
        "Before",
        "(I). Salt. NaCl",
        "behind.",
    ]


def test_of_alternatives_one_is_written() -> None:
    assert text("<block-alternatives><p>one</p><boxed-text><p>the same</p></boxed-text></block-alternatives>") == [
        "one"
    ]
    assert paragraph("<ruby><rb>gout</rb><rp>(</rp><rt>gaut</rt><rp>)</rp></ruby>") == "gout"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (f"Gout hurts [{cite('1')}].", "Gout hurts."),
        (f"Gout hurts [{cite('1')},{cite('2')}–{cite('5')}], they say.", "Gout hurts, they say."),
        (f"Gout hurts {cite('[1]')}, {cite('[2]')}.", "Gout hurts."),
        (f"Gout hurts [{cite('1')}]–[{cite('4')}] much.", "Gout hurts much."),
        (f"Gout hurts ({cite('1')}, 2, {cite('3')}).", "Gout hurts."),
        (f"Gout<sup>{cite('1')},{cite('2')}</sup> hurts.", "Gout hurts."),
        (f"Gout hurts.<sup>{cite('1')}</sup> It swells.", "Gout hurts. It swells."),
        (f"Gout hurts.{cite('<sup>1</sup>')}<sup>,</sup>{cite('<sup>2</sup>')} It swells.", "Gout hurts. It swells."),
        (f"Gout hurts[{cite('1')}].It swells.", "Gout hurts. It swells."),
        (f"gout<sup>{cite('1')}</sup>and pain", "gout and pain"),
        (f"Rossi et al. [{cite('3')}] found it.", "Rossi et al. found it."),
        (f"So did Rossi et al. [{cite('3')}].", "So did Rossi et al."),
        (f"{cite('Rossi et al. (2010)')} found it.", "Rossi et al. found it."),
        (f"{cite('Rossi')} and {cite('Bianchi, 2010a')} found it.", "Rossi and Bianchi found it."),
        (f"Rossi et al. ({cite('2010')}) found it.", "Rossi et al. found it."),
        (f"Gout hurts ({cite('Rossi, 2010')}; {cite('Bianchi et al. 2011')}).", "Gout hurts."),
        (f"Gout hurts (see also {cite('Rossi, 2010')} and references therein).", "Gout hurts."),
        (f"Gout hurts ([{cite('63')}] and references therein), it seems.", "Gout hurts, it seems."),
        (
            f"Gout hurts (Rossi &amp; Li, {cite('2010')}; Bianchi et al., {cite('2011')}).",
            "Gout hurts (Rossi & Li; Bianchi et al.).",
        ),
        (f"As Rossi, {cite('2010')}, says.", "As Rossi, says."),
        ("The fish (e.g., <inline-graphic/>) swam.", "The fish swam."),
        (f"Gout hurts (in mice; {cite('Rossi, 2010')}).", "Gout hurts (in mice)."),
        (f"Gout hurts ({cite('Rossi, 2010')}; in mice).", "Gout hurts (in mice)."),
        (f"Gout hurts (n = 5; [{cite('2')}]).", "Gout hurts (n = 5)."),
        (f"Gout hurts (Fig. 7 and [{cite('2')}]).", "Gout hurts (Fig. 7)."),
        (f"Gout hurts (Fig. 7 and {cite('Rossi, 2010')}) at night.", "Gout hurts (Fig. 7) at night."),
        (f"It was made as described in [{cite('2')}].", "It was made as described."),
        (f"It was shown by ref. {cite('2')} too.", "It was shown too."),
        (f"Before. In [{cite('2')}], mice ran.", "Before. Mice ran."),
        (f"(By hand, as in [{cite('2')}] before.)", "(By hand, as before.)"),
        (f"Mice ran as in [{cite('2')}].", "Mice ran."),
        (f"As in refs. [{cite('2')}, {cite('3')}], mice ran.", "Mice ran."),
        (f"It was done as in ref. [{cite('2')}] and again.", "It was done and again."),
        (f"It was seen in gas of [{cite('2')}].", "It was seen in gas."),
        ("Table<xref ref-type='table-fn'>a</xref> (<xref ref-type='fig'>Fig 1</xref>)", "Table (Fig 1)"),
    ],
)
def test_citations_go_and_the_sentence_stays(written: str, read: str) -> None:
    assert paragraph(written) == read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("10<sup>3</sup> cells", "10^3 cells"),
        ("kg/m<sup>2</sup>", "kg/m^2"),
        ("Ca<sup>2+</sup>", "Ca^2+"),
        ("the 1<sup>st</sup> of CO<sub>2</sub>", "the 1st of CO2"),
        ("log<sub>10</sub>2", "log10 2"),
        ("101<sub>2</sub>", "101_2"),
        ("H<sub>2</sub>O", "H2O"),
        ("a<break/>b", "a b"),
        ("a ( b ) , c", "a (b), c"),
    ],
)
def test_small_letters_change_no_number(written: str, read: str) -> None:
    assert paragraph(written) == read


def test_a_citation_at_the_beginning_takes_no_neighbor_with_it() -> None:
    cited = f"<p>In ref. {cite('3')}, mice ran.</p>"
    assert text(f"<list><list-item><p>one</p></list-item></list>{cited}<p>{cite('4')} Two.</p>") == [
        "- one",
        "Mice ran.",
        "Two.",
    ]


MATH = "<mml:math><mml:mi>{}</mml:mi></mml:math>"
TEX = (
    r"<tex-math>\documentclass[12pt]{minimal} \usepackage{amsmath} \begin{document}$$ x_{1} $$\end{document}</tex-math>"
)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (f"Let <inline-formula>{MATH.format('x')}</inline-formula> be", "Let x be"),
        (
            f"Let <inline-formula><alternatives>{TEX}{MATH.format('x')}<inline-graphic/></alternatives></inline-formula> be",
            "Let x be",
        ),
        (f"Let <inline-formula>{TEX}{MATH.format('x')}</inline-formula> be", "Let x be"),
        (f"Let <inline-formula><alternatives>{TEX}<graphic/></alternatives></inline-formula> be", "Let x_{1} be"),
        ("Let <inline-formula><inline-graphic/></inline-formula> be", "Let [formula] be"),
        (f"So<disp-formula><label>(1)</label>{MATH.format('x')}</disp-formula>holds", "So\nx (1)\nholds"),
    ],
)
def test_a_formula_is_written_once(written: str, read: str) -> None:
    assert paragraph(written) == read


@pytest.mark.parametrize(
    ("math", "read"),
    [
        ("<mml:mfrac><mml:mn>1</mml:mn>"
         "<mml:mrow><mml:mi>a</mml:mi><mml:mo>+</mml:mo><mml:mi>b</mml:mi></mml:mrow></mml:mfrac>", "1/(a + b)"),
        ("<mml:msup><mml:mi>x</mml:mi><mml:mn>2</mml:mn></mml:msup>", "x^2"),
        ("<mml:msubsup><mml:mi>x</mml:mi><mml:mi>i</mml:mi><mml:mn>2</mml:mn></mml:msubsup>", "x_i^2"),
        ("<mml:munder><mml:mo>∑</mml:mo><mml:mi>i</mml:mi></mml:munder><mml:mi>x</mml:mi>", "∑_i x"),
        ("<mml:munderover><mml:mo>∑</mml:mo><mml:mi>i</mml:mi><mml:mi>n</mml:mi></mml:munderover><mml:mi>x</mml:mi>", "∑_i^n x"),
        ("<mml:msqrt><mml:mi>x</mml:mi></mml:msqrt>", "sqrt(x)"),
        ("<mml:mover><mml:mi>x</mml:mi><mml:mo>¯</mml:mo></mml:mover>", "x̄"),
        ("<mml:mi>log</mml:mi><mml:mi>x</mml:mi>", "log x"),
        ("<mml:mi>a</mml:mi><mml:mo>=</mml:mo><mml:mo>−</mml:mo><mml:mi>b</mml:mi>", "a = −b"),
        ("<mml:mi>a</mml:mi><mml:mo>&#x2062;</mml:mo><mml:mi>b</mml:mi>", "ab"),
        ("<mml:semantics><mml:mi>x</mml:mi><mml:annotation>twice</mml:annotation></mml:semantics>", "x"),
        ('<mml:mfenced open="[" close=")" separators=""><mml:mi>a</mml:mi><mml:mo>,</mml:mo>'
         '<mml:mi>b</mml:mi></mml:mfenced>', "[a, b)"),
        ("<mml:mfenced><mml:mi>a</mml:mi><mml:mi>b</mml:mi></mml:mfenced>", "(a, b)"),
    ],
)  # fmt: skip
def test_mathml_reads_from_left_to_right(math: str, read: str) -> None:
    assert paragraph(f"<inline-formula><mml:math>{math}</mml:math></inline-formula>") == read


FIGURE = (
    "<fig><label>Figure 1</label><caption><title>Feet</title><p>Swollen ["
    + cite("1")
    + "].</p></caption><graphic/></fig>"
)
TABLE = (
    "<table-wrap><label>Table 1.</label><caption><p>People</p></caption><table><thead><tr><th>sex</th><th>n</th></tr></thead>"
    "<tbody><tr><td>f</td><td>5 <xref ref-type='table-fn'>a</xref></td></tr></tbody></table>"
    "<table-wrap-foot><fn><p>a: adults</p></fn></table-wrap-foot></table-wrap>"
)


def test_captions_and_tables_are_a_choice() -> None:
    content = f"<article {NAMESPACES}><front/><body><p>One{FIGURE} sentence.</p>{TABLE}</body></article>".encode()

    def found(**options: bool) -> list[str]:
        return read_articles(content, Options(**options))[0].text.split("\n\n")

    assert found() == ["One sentence.", "Figure 1. Feet. Swollen.", "Table 1. People"]
    assert found(captions=False) == ["One sentence."]
    assert found(captions=False, tables=True) == ["One sentence.", "sex\tn\nf\t5", "a: adults"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            "<thead><tr><th rowspan='2'>sex</th><th colspan='2'>age</th></tr><tr><th>low</th><th>high</th></tr></thead>"
            "<tbody><tr><td>f</td><td>1</td><td>2</td></tr></tbody>",
            "sex\tage\t\n\tlow\thigh\nf\t1\t2",
        ),
        (
            "<tr><td>1</td><td rowspan='2'>2</td></tr><tr><td>3</td></tr><tr><td>4</td><td>5</td></tr>",
            "1\t2\n3\t\n4\t5",
        ),
        (
            "<thead><tr><th rowspan='9'>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>2</td></tr></tbody>",
            "a\tb\n1\t2",
        ),
        (
            "<tr><td colspan='0'>1</td><td rowspan='x'>2</td></tr><tr><td colspan='-1'>3</td><td>4</td></tr>",
            "1\t2\n3\t4",
        ),
    ],
)
def test_a_cell_stands_in_its_column_whatever_spans_above_it(rows: str, expected: str) -> None:
    content = f"<article {NAMESPACES}><front/><body><table-wrap><table>{rows}</table></table-wrap></body></article>"
    assert read_articles(content.encode(), Options(tables=True))[0].text.strip("\n") == expected.strip("\n")


def test_spans_beyond_all_measure_cost_a_bounded_number_of_cells() -> None:
    cell = '<td colspan="999999999" rowspan="999999999">x</td>'
    row = f"<tr>{cell * 200}</tr>"
    content = f"<article><front/><body><table-wrap><table>{row * 500}</table></table-wrap></body></article>"
    assert len(read_articles(content.encode(), Options(tables=True))[0].text) < 1_000_000


@pytest.mark.parametrize(
    ("permissions", "stays"),
    [
        ("<copyright-statement>© 2010 Elsevier. All rights reserved.</copyright-statement>", False),
        ("<copyright-statement>Reprinted with permission of Rossi.</copyright-statement>", False),
        ('<license xlink:href="http://creativecommons.org/licenses/by-nc/4.0/"/>', False),
        ("<license><license-p>Ask the publisher.</license-p></license>", False),
        ('<license xlink:href="http://creativecommons.org/licenses/by/4.0/"/>', True),
        ("<copyright-holder>Rossi Press, Ltd.</copyright-holder>", True),  # as Wiley says of every table
        ("<license/>", True),
    ],
)
@pytest.mark.parametrize("part", ["fig", "table-wrap", "boxed-text", "disp-quote", "sec"])
def test_a_part_with_closed_terms_of_its_own_becomes_no_text(part: str, permissions: str, stays: bool) -> None:
    inner = "<p>Theirs.</p>" if part in ("disp-quote", "sec") else "<caption><p>Theirs.</p></caption>"
    found = text(f"<p>One.</p><{part}>{inner}<permissions>{permissions}</permissions></{part}><p>Two.</p>")
    assert found == (["One.", "Theirs.", "Two."] if stays else ["One.", "Two."])


@pytest.mark.parametrize(
    ("identifiers", "found"),
    [
        ('<article-id pub-id-type="pmc">13900</article-id>', "PMC13900"),
        ('<article-id pub-id-type="pmc">PMC13900</article-id>', "PMC13900"),
        (
            '<article-id pub-id-type="pmcid">PMC13900.2</article-id><article-id pub-id-type="doi">10.1/X</article-id>',
            "PMC13900",
        ),
        ('<article-id pub-id-type="doi">10.1/X</article-id>', "10.1/x"),
        ('<article-id pub-id-type="pmid">7</article-id>', "PMID:7"),
        ('<article-id pub-id-type="pmc">none</article-id>', ""),
    ],
)
def test_identifiers_have_one_spelling(identifiers: str, found: str) -> None:
    assert article("", front=identifiers).document_id == found


def test_notices_and_retracted_articles_are_told() -> None:
    assert article("", attributes='article-type="retraction"').notice == "retraction"
    assert article("", attributes='article-type="correction"').notice == "correction"
    assert article("", attributes='article-type="research-article"').notice == ""
    assert article("", front='<related-article related-article-type="retraction-forward"/>').is_retracted
    assert not article("", front='<related-article related-article-type="correction-forward"/>').is_retracted
    [found] = read_articles(
        b"<article><front><article-meta><title-group><article-title>RETRACTED: On gout</article-title></title-group>"
        b"</article-meta></front></article>"
    )
    assert found.is_retracted


@pytest.mark.parametrize(
    ("name", "value", "is_retracted"),
    [
        ("is-retracted", "no", False),
        ("is-retracted", "yes", True),
        ("pmc-prop-is-retracted", "true", True),
        ("is-scanned", "yes", False),
    ],
)
def test_what_pmc_says_in_the_front_matter_tells_a_retracted_article(name: str, value: str, is_retracted: bool) -> None:
    said = f"<custom-meta><meta-name>{name}</meta-name><meta-value>{value}</meta-value></custom-meta>"
    assert article("", front=f"<custom-meta-group>{said}</custom-meta-group>").is_retracted is is_retracted


@pytest.mark.parametrize(
    ("kind", "title", "notice"),
    [
        ("Retraction", "On gout", "retraction"),
        ("retraction-notice", "On gout", "retraction"),
        ("erratum", "On gout", "correction"),
        ("other", "Retraction note: On gout", "retraction"),
        ("other", "Retraction: On gout", "retraction"),
        ("letter", "Notice of retraction", "retraction"),
        ("other", "Expression of concern: On gout", "retraction"),
        ("other", "Erratum to: On gout", "correction"),
        ("other", "Publisher Correction: On gout", "correction"),
        ("corrected-article", "Correction: On gout", ""),
        ("research-article", "Retraction of the lips in gout", ""),
        ("research-article", "Correction of low sodium", ""),
        ("other", "Statement of Retraction: On gout", "retraction"),
        ("other", "RETRACTION STATEMENT: On gout", "retraction"),
    ],
)
def test_a_notice_is_told_by_its_type_in_any_spelling_or_by_its_title(kind: str, title: str, notice: str) -> None:
    xml = f"<article article-type='{kind}'><front><article-meta><title-group><article-title>{title}</article-title>"
    [found] = read_articles(f"{xml}</title-group></article-meta></front></article>".encode())
    assert found.notice == notice


@pytest.mark.parametrize(
    ("heading", "kind", "related", "notice"),
    [
        ("Retraction", "other", "", "retraction"),
        ("Erratum", "other", "", "correction"),
        (" Corrigenda ", "letter", "", "correction"),
        ("Correctional health", "other", "", ""),
        ("Letters", "letter", "corrected-article", "correction"),
        ("Research", "research-article", "corrected-article", ""),  # corrected, and published anew
        ("Research", "research-article", "retracted-article", "retraction"),
    ],
)
def test_a_notice_is_told_by_its_heading_or_by_what_it_links_to(
    heading: str, kind: str, related: str, notice: str
) -> None:
    front = f"<article-categories><subj-group><subject>{heading}</subject></subj-group></article-categories>"
    front += f'<related-article related-article-type="{related}"/>' if related else ""
    assert article("", front=front, attributes=f'article-type="{kind}"').notice == notice


@pytest.mark.parametrize(
    ("title", "is_retracted"),
    [
        ("RETRACTED: On gout", True),
        ("RETRACTED ARTICLE On gout", True),
        ("Retracted Article: On gout", True),
        ("[Retracted] On gout", True),
        ("Retracted – On gout", True),
        ("WITHDRAWN: On gout", True),
        ("Retracted nipples in women with gout", False),
        ("Retracted articles on gout: a survey", False),
        ("Withdrawn drugs of the last century", False),
    ],
)
def test_a_retracted_article_is_told_by_its_title_and_an_article_on_what_is_retracted_is_none(
    title: str, is_retracted: bool
) -> None:
    xml = f"<article><front><article-meta><title-group><article-title>{title}</article-title></title-group></article-meta>"
    [found] = read_articles(f"{xml}</front></article>".encode())
    assert found.is_retracted is is_retracted


def test_a_link_to_what_it_retracts_makes_a_notice_and_a_retracted_type_a_retracted_article() -> None:
    assert article("", front='<related-article related-article-type="retracted-article"/>').notice == "retraction"
    assert article("", front='<related-article related-article-type="Retraction-Forward"/>').is_retracted
    assert article("", attributes='article-type="retracted-article"').is_retracted


@pytest.mark.parametrize(
    ("language", "kept"),
    [('xml:lang="en"', "Pain"), ('xml:lang="EN"', "Pain"), ('xml:lang="fr-CA"', "Douleur"), ("", "Pain")],
)
def test_of_abstracts_in_two_languages_that_of_the_article_stays(language: str, kept: str) -> None:
    front = '<abstract xml:lang="en"><p>Pain</p></abstract><abstract xml:lang="FR"><p>Douleur</p></abstract>'
    assert text("", front=front, attributes=language) == ["Abstract", kept]


def test_mathml_without_its_namespace_is_still_a_formula() -> None:
    formula = "<inline-formula><math><msup><mi>x</mi><mn>2</mn></msup></math></inline-formula>"
    assert paragraph(f"Let {formula} be") == "Let x^2 be"


def test_forty_digits_beside_a_citation_are_read_in_no_time() -> None:
    begun = time.process_time()
    assert paragraph(f"See ({'1' * 40}x {cite('1')}) here, or [{'cf.' * 26}x {cite('2')}].").startswith("See (1111")
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    "head",
    [
        "",
        '\n <?xml version="1.0" encoding="UTF-8"?>\n',
        '<!DOCTYPE article PUBLIC "-//NLM//DTD Journal Publishing DTD v2.3 20070202//EN" "journalpublishing.dtd">',
        '<!DOCTYPE article PUBLIC "-//NLM//DTD JATS (Z39.96) v1.4//EN" "http://dtd.nlm.nih.gov/JATS.dtd"><?properties open_access?>',
    ],
)
def test_a_doctype_makes_no_difference(head: str) -> None:
    found = article("<p>a<!-- no --><?no no?>b &#945;</p>", head=head)
    assert found.text == "On gout\n\nab α"


def test_characters_by_name_are_read_where_a_dtd_declares_them() -> None:
    found = article(
        "<p>&alpha;-blockers &lt; 5&thinsp;mg<italic>&beta;</italic>&mdash;</p>",
        head='<!DOCTYPE article SYSTEM "jats.dtd">',
    )
    assert found.text == "On gout\n\nα-blockers < 5 mgβ—"


def test_namespaces_and_wrappers_of_the_services_are_read() -> None:
    inner = "<front><article-meta/></front><body><p>text</p></body>"
    wrapped = f'<OAI-PMH xmlns="urn:oai"><record><article xmlns="https://jats.nlm.nih.gov/ns/">{inner}</article></record></OAI-PMH>'
    assert [found.text for found in read_articles(wrapped.encode())] == ["text"]
    several = f"<pmc-articleset><article>{inner}</article><article>{inner}</article></pmc-articleset>"
    assert [found.text for found in read_articles(several.encode())] == ["text", "text"]


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (b"a<ref-list id='1'>\n<ref/>\n</ref-list>b<ref-list></ref-list>c", b"a\n\nbc"),
        (b"a<ref-list><ref-list></ref-list></ref-list>b", None),
        (b"<!-- <ref-list> -->a</ref-list>", None),
        (b"<![CDATA[<ref-list>]]>a</ref-list>", None),
        (b"<?x <ref-list> ?>a</ref-list>", None),
        (b"<ref-list><!-- </ref-list> -->a</ref-list>", None),
        (b"<ref-list-x>a</ref-list-x>", None),
        (b"a<ref-list>b", None),
    ],
)
def test_reference_lists_are_cut_only_where_they_are_nothing_else(content: bytes, left: bytes | None) -> None:
    assert without_elements(content, b"ref-list") == (content if left is None else left)
    assert without_elements(content, b"table", b"ref-list") == (content if left is None else left)


def test_a_name_that_is_given_up_keeps_no_other_from_being_cut() -> None:
    content = b"<table>1<table>2</table></table>a<ref-list>\n<table>3</table></ref-list>b<table-wrap><table>4</table></table-wrap>"
    left = b"<table>1<table>2</table></table>a\nb<table-wrap><table>4</table></table-wrap>"
    assert without_elements(content, b"ref-list", b"table") == left


def test_the_real_articles_come_out_clean(shared_data: Path) -> None:
    for path in sorted((shared_data / "jats").glob("*ml")):
        [found] = read_articles(path.read_bytes())
        assert len(found.text) > 400, path.name
        assert not MARKS.search(found.text), path.name
        assert "()" not in found.text.replace("f()", "")
        assert "[]" not in found.text
        assert "\n\n\n" not in found.text
        assert not re.search(r"\S  ", found.text), path.name  # but lists in lists begin with spaces
        for wrong in ("documentclass", "begin{document}", "xmlns", "</", " ,", "[,", "(,", "(;"):
            assert wrong not in found.text, (path.name, wrong)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "gout",
                " ",
                "(",
                ")",
                "[",
                "]",
                ",",
                ";",
                ".",
                "see ",
                "in ",
                "et al. ",
                cite("1"),
                cite("Rossi 2010"),
                "<sup>2</sup>",
            ]
        ),
        max_size=14,
    )
)
def test_no_order_of_citations_breaks_the_text(parts: list[str]) -> None:
    found = article(f"<p>start {''.join(parts)} end</p>").text.split("\n\n", 1)[1]
    assert found.startswith("start")
    assert found.endswith(("end", "End"))  # "In [3], end" becomes "End"
    assert found.count("gout") == parts.count("gout")
    assert not MARKS.search(found)
    assert "  " not in found


def test_white_space_of_every_kind_and_width_becomes_one_space() -> None:
    spaces = [chr(code) for code in range(sys.maxunicode) if chr(code).isspace()]
    assert [tidy(f" a{space}b{space} {space}c .d {space}.{space}") for space in spaces] == ["a b c .d."] * len(spaces)
