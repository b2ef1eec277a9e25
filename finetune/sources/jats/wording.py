"""The wordings that are known to go with an open licence, and what a statement says beside them.

    said = read("This is an open access article under the CC BY license (http://creativecommons.org/licenses/by/4.0/).")
    said.licences      every licence that the statement names, as decisions
    said.rest          "" where everything is known; else how the first words begin that are not

A list of what is allowed, not of what is forbidden: a statement is cut into known phrases and lines of copyright, from its
beginning to its end. What is left over ("for teaching", "from 2031", a sentence in another language) is told, and then the
statement opens nothing. So a phrase may stand here only if it takes nothing back in whatever company. The phrases are
those of publishers' usual statements.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from finetune.sources.jats.codes import CODES, LicenceDecision, from_url, shown, spdx

# A licence that is named becomes one character, so that phrases can ask for a licence and need not know its spellings.
MARKS = {code: chr(0xE000 + number) for number, code in enumerate(CODES)}
CODE_OF_MARK = {mark: code for code, mark in MARKS.items()}
LICENCE = f"[{''.join(CODE_OF_MARK)}]"
WAIVER = f"[{MARKS['CC0']}{MARKS['PD']}]"
TYPOGRAPHY = str.maketrans("’‘“”‐‑–—", "''\"\"----", "".join(CODE_OF_MARK))

URL = re.compile(r"(?:https?:)?//[^\s<>\"']+|(?:www\.)?creativecommons\.org/[^\s<>\"']*", re.IGNORECASE)
CONDITION = r"non[- ]?commercial(?:ly)?|no[- ]?deriv\w*(?: works)?|share[- ]?alike|nc|nd|sa"
CONDITIONS = rf"(?:[\s,/&()-]*(?:and )?(?:{CONDITION})\b)*"
VERSION = (
    r"(?:[ ,()\[\]\"-]*"
    r"(?:(?:\bversion |\bv\.? ?)?(?<![\d.])[1-4]\.[05](?![\d.]\d)|\b(?:international|unported|generic|igo|public|deed"
    r"|intergovernmental organi[sz]ations?|licen[cs]e)\b))*"
)
NAME = re.compile(
    rf"\b(?:creative ?-?commons?|cc)(?: \(?cc\)?)?[ ,:'\"\[(-]*"
    rf"(?:licen[cs]e[ ,:'\"\[(-]*)?\battribution(?P<long>{CONDITIONS}){VERSION}"
    rf"|\b(?:creative commons )?cc[- ]?by(?P<short>{CONDITIONS})(?!\w|-[a-z]){VERSION}"
    r"|(?P<zero>\b(?:creative commons )?(?:cc[- ]?0|cc zero|(?<=commons )zero)\b"
    r"(?:[ ,(\"]*\b(?:1\.0|universal|licen[cs]e|waiver|no rights reserved|data waiver|public domain dedication)\b\"?)*)"
    r"|(?P<public>\bcreative commons public domain (?:dedication|declaration|mark)\b(?: waiver)?"
    r"|(?<=\blies in )the public domain|(?<=\bis in )the public domain)",
    re.IGNORECASE,
)
# "the Attribution License (CC BY) license (http://...)" names one licence three times.
BETWEEN = r"(?:[ ,;:.()\[\]\"'-]|\b(?:licen[cs]e|public domain dedication|as described at|at|see)\b)*"
REPEATED = re.compile(rf"({LICENCE})(?:{BETWEEN}\1)+")

# ------------------------------------------------------------------------------------------------------------- names

# A line of copyright is years and names: words that begin with a capital, and the small words between them. Some words are never
# part of a name: the line ends before them, and they must belong to a phrase.
NO_NAME = (
    r"(?i:(?:all|rights?|reserved|no|not|non|never|none|nor|only|without|except\w*|unless|us(?:e|es|ed|age|ers?)|re-?us\w*|reprod\w*"
    r"|cop(?:y|ies|ying)|permi\w*|licen[cs]e[sd]?|terms?|conditions?|restrict\w*|\w*commercial\w*|noncom\w*|\w*deriv\w*|contracts?"
    r"|consent\w*|subscri\w*|embargo\w*|fees?|paid|payment|sale|exclusive\w*|proprietary|confidential|closed|until|after|before|from"
    r"|personal|private|prohibit\w*|forbid\w*|purposes?|distribut\w*|re-?publi\w*|available|this|these|creative|commons"
    r"|open[- ]access|an open|withdrawn|retracted|by[-_]\w*|ccby\w*|modif\w*|adapt\w*|unauthori[sz]ed|see|contact|ask"
    r"|requires?|needs?|obtain\w*|appl(?:y|ies)|subject|government|foreign|for|delayed|partial\w*|hybrid|data(?:sets?)?|metadata"
    r"|software|code|images?|videos?|appendi\w+|preprints?|manuscripts?|abstracts?|figures?|tables?|supplement\w*|alle|rechte|vorbehalten|tous|droits"
    r"|derechos|diritti|direitos|reservados|riservati|interdit\w*|prohibid\w*|verboten|must|shall|should|cannot|readers?|pays?|payable"
    r"|strictly|formerly|previously|proposed|pending|approv\w*|expir\w*|revok\w*|draft\w*|embargoed|licen[cs]ing|re-?s(?:ale|old|ell\w*)"
    r"|royalt\w*|payments|charg(?:e[sd]?|ing|eable)|non-?profits?|paywall\w*|previews?|barred|banned|disallow\w*|denied|void|invalid"
    r"|withh[eo]ld\w*|reserves|retain\w*|internal(?! medicine)|classified|unpublished|watermark\w*|rentals?"
    r"|terminat\w*|suspend\w*|cancel(?:s|led|ed)|rescind\w*|supersed\w*|temporar\w*|classrooms?|exclud\w*|exclusion"
    r"|copyrighted|privileged|protected|secret|sensitive|n[cd]|limited-time|waived|illegal\w*|pirated|revocable)(?!\w))"
    r"|In\b|in (?=the\b)|[Tt]he (?=(?:images|use|article|work|material|content|full|original|data|version|final)\b)"
)
SMALL_WORDS = (
    r"(?:the|an?|and|et|of|in|on|at|by|with|or|to|its|their|und|für|y|e|de|der|den|des|van|von|vom|zu|zur|la|le|les|du|da|do|dos"
    r"|das|di|del|della|el|al|ter|ten|bin|ibn|authors?|employers?|(?:first |originally )?published"
    r"|publishing|production|hosting|behalf|association|collaboration|partnership|copyright|holders?|owners?|individual|licensee"
    r"|under responsibility of)(?!\w)"
)
KNOWN_NAMES = (
    r"(?i:authors?\(s\)|employers?\(s\))|[Ss]ome [Rr]ights [Rr]eserved|[Ee]xclusive [Ll]icensee|trading as"
    r"|[Ww]ith [Ll]icen[cs]e [Bb]y|(?:\(?https?://)?(?:www\.|\w+\.)?jmir\.org/?"
)
CAPITAL = "[A-ZÀ-ÖØ-ÞĀ-Ž]"
BODIES = (
    "Society",
    "Association",
    "Institute",
    "Centre",
    "Center",
    "Council",
    "Federation",
    "Academy",
    "College",
    "Union",
    "Institution",
)
FOR = rf"(?:{'|'.join(f'(?<={body} )' for body in BODIES)})for(?= (?:the )?{CAPITAL})"
COMPOUND = rf"(?:[\w']+[/@&-]+)+(?:(?i:\w*commercial\w*|\w*deriv\w*|n[cd]|only)(?!\w)|{LICENCE})"  # Attribution-NoDerivs, Ex-CC BY
WORD = (
    rf"(?:{KNOWN_NAMES}|{FOR}|(?!{NO_NAME}|{COMPOUND})(?:(?:{CAPITAL}\w{{0,2}}|Corp|Assoc|Univ|Publ|Acad|al)\.(?!\w)|{CAPITAL}(?:[\w'&/@-]|\.(?=\w))*"
    rf"|{SMALL_WORDS}|(?:[a-z]|al)['-]{CAPITAL}[\w'-]*|[12]\d{{3}}(?:-\d{{2,4}})?(?!\d)|\d\d?\.\d\d?\.[12]\d{{3}}(?!\d)|[&|©]))"
)
# A full stop ends the names, unless what follows says who published, or when.
GAP = r"(?:[\s,;:()\[\]'\"/-]|\.\s*(?=[^.]{0,150}?(?:[Pp]ublish|[Ll]icensee|on behalf|[Pp]roduction|[Cc]opyright|©|\b[12]\d{3}\b)))"
NAMES = rf"(?>(?-i:{WORD}(?:{GAP}+{WORD})*))"
SIGN = r"(?:(?:crown )?copyright|©|\(c\))"
COPYRIGHT = rf"{SIGN}(?:[\s:,.]*{SIGN})*(?:[\s:,.()\[\]]*{NAMES})?"

# ----------------------------------------------------------------------------------------------------------- phrases

OPEN_ACCESS = r"open[- ]?access"
ARTICLE = (
    rf"(?:(?:{OPEN_ACCESS}|journal|research|review|scientific) )*"  # "the original article" is another one
    r"(?:article|work|paper|publication|review|letter|editorial|commentary|case report|report|chapter|book)"
)
IS = r"(?:is|was|has been|are)"
PUBLISHED = (
    rf"(?:published|distributed|licen[cs]ed|released|made available|made {OPEN_ACCESS}|made freely available|"
    rf"freely available|available|provided|shared|issued)(?: (?:as|in|with) {OPEN_ACCESS}| {OPEN_ACCESS})?"
)
UNDER = (
    r"(?:under|in accordance with|according to|subject to|within)(?: (?:the )?"
    r"(?:terms and conditions|terms|conditions) of)?"
    rf"(?: (?:the|an?))?(?: {OPEN_ACCESS})?(?: these terms:?)? {LICENCE}(?: licen[cs]e| public domain dedication)?"
)
ACT = (
    r"(?:(?:unrestricted|unlimited|free|any|non-?exclusive|immediate|the) )*"
    r"(?:(?:to )?(?:re-?use[sd]?|used?|usage|sharing|share[sd]?"
    r"|adapt(?:ations?|ed|ing)?|(?:re-?)?distribut(?:ion|e[sd]?|ing)|reproduc(?:tion|e[sd]?|ing)"
    r"|cop(?:y|ied|ying)|transmi(?:t|ssion|tted|tting)|remix(?:ed|ing)?|transform(?:ation|ed|ing)?|tweak"
    r"|buil[dt](?:ing)? (?:up)?on|modif(?:y|ication|ied|ying)|(?:create )?derivative works"
    r"|display|download|read|print|search|link to|translat(?:e|ion)|dissemination|access))"
)
ACTS = rf"{ACT}(?:(?:,? (?:and|or|and/or) |, |/| ){ACT})*"
OF_IT = rf"(?: (?:of )?(?:(?:the|this|your) (?:{ARTICLE}|material|text)|it))?"
MEDIUM = r"in (?:any|all|other) (?:medium|media|formats?|forums?)(?:(?: and | or |/)(?:medium|media|formats?))?"
PEOPLE = r"(?: (?:for )?(?:others|users|readers|anyone|everyone|you))?"
PROVIDED = r"(?:provided|providing|as long as|so long as|on condition|if)(?: that)?"
THING = (
    r"(?:(?:the|its|an?|original|proper|appropriate|full|due) )*"
    r"(?:authors?(?:\(s\))?|works?|article|sources?|publication source"
    r"|publication|publisher|creator|credit|attribution|citation|copyright (?:owner|holder)s?(?:\(s\))?|title|journal"
    r"|journal citation|doi|url)"
)
THINGS = rf"{THING}(?:(?:,? (?:and|or|&) |, ){THING})*"
CREDITED = (
    r"(?:is|are|be)(?: (?:properly|appropriately|correctly|duly|fully|clearly))? "
    r"(?:cited|credited|attributed|acknowledged|referenced|given)"
)
THE_LICENCE = rf"(?:the |this )?(?:(?:creative commons|{LICENCE}) )?(?:licen[cs]e|{LICENCE})"

# A licence that one of these names is the article's; each is a whole thought, or the part of one that adds nothing by itself.
PHRASES = (
    # what the article is, and under what
    r"https?://(?:www\.)?creativecommons\.org/?(?:licenses/?)?(?=[\s.,;)]|$)",
    rf"this is an? (?:freely available |gold )?{OPEN_ACCESS} {ARTICLE}",
    rf"(?:this {ARTICLE} is )?an? {OPEN_ACCESS} {ARTICLE}",
    rf"this {ARTICLE} (?:is|was) (?:made |published (?:with |as ))?{OPEN_ACCESS}(?: at springerlink\.com)?",
    rf"{OPEN_ACCESS}(?: {ARTICLE})?(?=[:.,;\s]|$)",
    rf"(?:(?:this {ARTICLE}|the (?:article|work|publication)) {IS} |(?:that|which|it) (?:is|was) |and (?:(?:is|was) )?)?"
    rf"(?:{PUBLISHED}(?: and {PUBLISHED})?,? )?{UNDER}",
    rf"all (?:the )?(?:article )?contents?(?: of this (?:journal|{ARTICLE}))?,?(?: (?:except|unless) "
    rf"(?:where )?otherwise noted,?)? (?:is|are) {PUBLISHED} {UNDER}",
    rf"original content from this work may be used {UNDER}",
    rf"re-?use(?: is)? permitted {UNDER}",
    rf"(?:the )?licen[cs]e(?:d|s)?:? {LICENCE}|(?:the |an? )?{LICENCE}(?: licen[cs]e)?",
    r"(?:except|unless) (?:where |if )?otherwise (?:noted|stated|indicated|specified)",
    # where the licence can be read
    rf"to view a copy of (?:this|the) licen[cs]e,? (?:please )?visit:? (?:the )?{LICENCE}",
    rf"(?:please )?see:?(?: also)? (?:the )?{LICENCE}(?: for (?:more |further )?(?:details|information))?",
    rf"for (?:more |further )?(?:details|information)(?: (?:about|on) (?:this|the) licen[cs]e)?,? "
    rf"(?:please )?(?:see|visit):? {LICENCE}",
    rf"for a full description of the licen[cs]e,? please visit {LICENCE}",
    rf"(?:the |a )?(?:full terms|copy|copy of which|details)(?: of (?:this|the) licen[cs]e)? (?:can|may|is|are)"
    rf"(?: be)? (?:seen|found|viewed|available) at:? {LICENCE}",
    # what it permits
    rf"(?:(?:and|which|that|it|which also|{THE_LICENCE}) )?(?:permits?|permitting|allows?|allowing|lets){PEOPLE}"
    rf"(?: to)? {ACTS}{OF_IT}",
    rf"(?:the )?{ACTS}{OF_IT}(?: {MEDIUM})? (?:is|are) (?:freely )?permitted",
    rf"(?:users|you|anyone) (?:may|can|are free to) (?:freely )?{ACTS}{OF_IT}",
    rf"{MEDIUM}|(?:and )?for any (?:lawful )?purpose|without (?:any )?"
    rf"(?:further permission|restrictions?)|worldwide|of the work",
    r"(?:even|including|also|and) (?:for )?commercial(?:ly|(?: uses?| purposes?)?)|for commercial use",
    r"(?:including |for )?(?:both )?(?:commercial and non-?commercial|non-?commercial and commercial) "
    r"(?:uses?|purposes?)",
    r"free of all copyright|is therefore without copyright",
    rf"(?:this {ARTICLE} )?may be freely {ACTS}(?:,? or otherwise used)?(?: by anyone for any lawful purpose)?",
    r"which stipulates that,? once placed in the public domain",
    # what it asks for: credit
    rf"{PROVIDED} (?:{THINGS}|it) {CREDITED}(?: to {THINGS})?",
    rf"{PROVIDED} the original work,? first published in {NAMES}",
    rf"(?:and )?(?:that )?{THINGS} {CREDITED}|(?:is|are) properly cited",
    r"(?:and )?that the original publication in this journal is cited|in accordance with accepted academic practice",
    rf"(?:{PROVIDED} )?(?:that )?(?:you )?(?:give )?(?:appropriate|proper) credit to {THINGS}",
    rf"{PROVIDED} (?:the original work|it) is attributed as specified on the sage and open access pages"
    rf"(?: \(?https://[a-z]{{2}}\.sagepub\.com/[\w/-]*\)?)?",
    rf"(?:and |you )?(?:provide )?a link to {THE_LICENCE}(?: is (?:given|provided))?",
    r"(?:and )?(?:you )?(?:indicate|indication of|state) (?:if|whether) (?:any )?changes were made|(?:and )?any "
    r"changes made are indicated",
    r"subject to full attribution to the original publication and authors",
    r"for attribution,? the original author\(s\),? title,? publication source \(peerj\) and either doi or url of the "
    r"article must be cited",
    r"(?:any )?further distribution of this work must maintain attribution to the author\(s\) and the "
    r"(?:title of the work|published article's title),? journal citation,? and doi",
    r"the complete bibliographic information,? a link to the original publication on https?://(?:\w+\.)*jmir\.org/?,? "
    r"as well as this copyright and licen[cs]e information must be included",
    r"if you remix, transform,? or build upon (?:the|this) (?:material|work),? you must distribute your contributions "
    r"under the same licen[cs]e as the original",
    # what publishers add
    r"no use, distribution,? or reproduction is permitted which does not comply with these terms",
    r"the terms on which this article has been published allow the posting of the accepted manuscript in a repository "
    r"by the author\(s\) or with their consent",
    r"the images or other third[- ]party materials? in this article (?:are|is) included in the article's creative "
    r"commons licen[cs]e,? unless (?:indicated|stated) otherwise in (?:a|the) credit line(?: to the material)?",
    r"if (?:the )?materials? is not included (?:in|under) the (?:article's )?creative commons licen[cs]e and your "
    r"intended use is not permitted by statutory regulation or exceeds the permitted use,? you will need to obtain "
    r"permission directly from the copyright holder",
    r"if (?:the )?material is not included under the creative commons licen[cs]e,? users will need to obtain "
    r"permission from the licen[cs]e holder to reproduce the material",
    r"in any (?:use|reproduction) of this article,? there should (?:not be any|be no) suggestion that "
    r"(?:the )?(?:who|paho|world health organization)"
    r"(?: or this article)? endorses?(?:,? (?:any|specific|organi[sz]ations?|products|services|or))+",
    r"the use of the (?:who|paho) logo is not permitted|this notice should be preserved along with the article's "
    r"original url",
    r"the microbiology society waived the open access fees for this article",
    r"this article was made open access via a publish and read agreement between the microbiology society and the "
    r"corresponding author's institution",
    rf"(?:{NAMES} )?is published on behalf of {NAMES}",
    rf"(?:and )?published (?:online )?(?:by|in) {NAMES}|licensee:? {NAMES}|(?:on behalf of|production and hosting by) "
    rf"{NAMES}",
    # the public domain, by offices of a government
    r"no claim to original u\.?s\.? government works",
    rf"(?:{NAMES} )?is a publication of the u\.?s\.? government",
    rf"(?:publication of {NAMES}|this {ARTICLE}) (?:lies|is) in {MARKS['PD']}",
    rf"all text from (?:{NAMES}|this work) may be reprinted freely",
    r"use of (?:materials published in ehp should be acknowledged|these materials should be properly cited)",
    r"\(?for example, \W?reproduced with permission from environmental health perspectives\W?\)?",
    r"pertinent reference information should be provided for the article from which the material was reproduced",
    r"articles from ehp,? especially the news section,? may contain photographs or illustrations copyrighted by other "
    r"commercial organizations or individuals that may not be used without obtaining prior approval from "
    r"the holder of the copyright",
)  # fmt: skip
# The data beside an article may be in the public domain, whatever the article's own licence: these name none of the article.
WAIVERS = (
    rf"(?:the )?{WAIVER}(?:{WAIVER}|waiver|[ ()])*applies to the data made available in this article",
    r"unless otherwise (?:stated|noted|indicated)(?: in a credit line to the data)?",
    rf"data associated with the article are available under the terms of the {WAIVER}[ )]*",
)
END = r"(?![\w-])"
KNOWN_WAIVER = re.compile(rf"(?:{'|'.join(WAIVERS)}){END}", re.IGNORECASE)
KNOWN = [re.compile(phrase + END, re.IGNORECASE) for phrase in (COPYRIGHT, *(f"(?:{it})" for it in PHRASES))]
MAXIMUM_CHARACTERS = 10_000  # no publisher's statement is as long
NOTHING = re.compile(r"(?:[\s.,;:()\[\]\"'*|-]|\b(?:and|as well as)\b)*", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """What was read: the licences it names for the article, and how what is not known begins."""

    licences: tuple[LicenceDecision, ...]
    rest: str


@lru_cache(maxsize=1000)  # publishers repeat themselves
def read(text: str) -> Statement:
    """Cut a statement into known phrases and lines of copyright."""
    if len(text) > MAXIMUM_CHARACTERS:
        return Statement((), f"{len(text):,} characters")
    found: dict[str, list[LicenceDecision]] = {mark: [] for mark in CODE_OF_MARK}

    def mark_url(match: re.Match[str]) -> str:
        trailing = match.group()[len(match.group().rstrip(".,;:)]")) :]
        told = from_url(match.group())
        if told is None or told.code is None:
            return match.group()
        found[MARKS[told.code]].append(told)
        return MARKS[told.code] + trailing

    def mark_name(match: re.Match[str]) -> str:
        mark = MARKS.get(_code(match))
        if mark is None:
            return match.group()
        found[mark].append(LicenceDecision(CODE_OF_MARK[mark], spdx(CODE_OF_MARK[mark]), f"the words {shown(text)}"))
        trailing = re.search(r"[ ,(\[]*$", match.group())
        return mark + (trailing.group() if trailing else "")

    plain = NAME.sub(mark_name, URL.sub(mark_url, text.translate(TYPOGRAPHY)))
    marked = REPEATED.sub(r"\1", " ".join(plain.split()))
    waived = ""
    position = _next(marked, 0)
    while position < len(marked):
        matches = filter(None, (phrase.match(marked, position) for phrase in KNOWN))
        if match := KNOWN_WAIVER.match(marked, position):
            waived += match.group()
        elif (match := max(matches, key=re.Match.end, default=None)) is None:
            break
        position = _next(marked, match.end())
    rest = re.sub(LICENCE, lambda mark: CODE_OF_MARK[mark.group()], marked[position:])
    # What only the waiver of the data names is not the article's. A URL tells more than the words beside it.
    named = [mark for mark in dict.fromkeys(re.findall(LICENCE, marked)) if marked.count(mark) > waived.count(mark)]
    told = [max(found[mark], key=lambda it: not it.licence.startswith("LicenseRef-")) for mark in named]
    return Statement(tuple(told), rest[:80])


def _next(text: str, position: int) -> int:
    """The position of the next word."""
    between = NOTHING.match(text, position)
    return between.end() if between else position


def _code(match: re.Match[str]) -> str:
    """The code of the licence that a match of NAME names."""
    if match["zero"] or match["public"]:
        return "CC0" if match["zero"] else "PD"
    said = (match["long"] or match["short"] or "").lower()
    patterns = {"NC": r"commercial|\bnc\b", "SA": r"alike|\bsa\b", "ND": r"deriv|\bnd\b"}
    return "-".join(["CC BY", *(name for name, pattern in patterns.items() if re.search(pattern, said))])
