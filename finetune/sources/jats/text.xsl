<?xml version="1.0" encoding="UTF-8"?>
<!--
  One <article> of JATS or NLM to text, compiled once and run by libxslt; marks.py makes readable text of the result.

  The result is text with marks (noncharacters, which no article holds):
    U+FDD0 a paragraph begins    U+FDD1 a line begins    U+FDD2 a tab
    U+FDD3 raised citations stood here    U+FDD4 ... U+FDD5 a citation, with its words or number    U+FDD6 a step to the right
  White space is left as it comes.

  Parameters: captions and tables, "yes" or "no".
-->
<!DOCTYPE xsl:stylesheet [
  <!ENTITY paragraph "&#xFDD0;"> <!ENTITY line "&#xFDD1;"> <!ENTITY tab "&#xFDD2;">
  <!ENTITY cited "&#xFDD3;"> <!ENTITY name "&#xFDD4;"> <!ENTITY end "&#xFDD5;">
  <!ENTITY step "&#xFDD6;">
]>
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform" xmlns:m="http://www.w3.org/1998/Math/MathML">
  <xsl:output method="text"/>
  <xsl:param name="captions" select="'yes'"/>
  <xsl:param name="tables" select="'no'"/>

  <!-- ======================================================================================= what an article is -->

  <xsl:template match="article">
    <xsl:apply-templates select="front/article-meta/title-group"/>
    <!-- Abstracts for readers of another language, and those that only advertise the article, stay out. -->
    <!-- An article that does not name its language is in that of its first abstract. -->
    <xsl:variable name="stated" select="(@xml:lang | front/article-meta[not(../../@xml:lang)]/abstract[1]/@xml:lang)[1]"/>
    <xsl:variable name="language" select="translate(substring($stated, 1, 2), $capitals-and-signs, $small-letters)"/>
    <xsl:apply-templates select="front/article-meta/abstract
      [not(@abstract-type = 'graphical' or @abstract-type = 'toc' or @abstract-type = 'teaser' or @abstract-type = 'web-summary'
           or @abstract-type = 'video' or @abstract-type = 'short' or @abstract-type = 'precis' or @abstract-type = 'translated')]
      [not(@xml:lang) or $language = '' or translate(substring(@xml:lang, 1, 2), $capitals-and-signs, $small-letters) = $language]"/>
    <xsl:apply-templates select="body"/>
    <xsl:apply-templates select="back/sec | back/app-group/app | back/app"/>
    <xsl:apply-templates select="floats-group/* | floats-wrap/*"/>
  </xsl:template>

  <xsl:template match="title-group">
    <xsl:text>&paragraph;</xsl:text>
    <xsl:apply-templates select="article-title"/>
    <xsl:for-each select="subtitle">
      <xsl:text>: </xsl:text>
      <xsl:apply-templates/>
    </xsl:for-each>
  </xsl:template>

  <xsl:template match="abstract">
    <xsl:if test="not(title)">&paragraph;Abstract</xsl:if>
    <xsl:if test="text()[normalize-space()]">&paragraph;</xsl:if>
    <xsl:apply-templates/>
  </xsl:template>

  <!-- What is no text of the article. -->
  <xsl:template match="ref-list | ack | fn-group | fn | glossary | notes | bio | graphic | media | inline-graphic | object-id
    | supplementary-material | alt-text | long-desc | attrib | permissions | index-term
    | index-term-range-end | table-wrap-foot | related-article | related-object | sec-meta | kwd-group | sub-article
    | response | abbrev/def | mixed-citation | element-citation | nlm-citation | citation | citation-alternatives | ref
    | private-char | copyright-statement | contrib-group | aff | author-notes | history | product | tex-math[../m:math[normalize-space()]]
    | table | oasis-table | label | rt | rp
    | m:annotation | m:annotation-xml | m:mphantom | m:merror"/>

  <!-- Sections of thanks, money, interests and files, wherever they stand: known by type or by title. -->
  <xsl:variable name="left-out-titles">|acknowledgment|acknowledgments and funding|acknowledgements and funding|funding and acknowledgments|funding and acknowledgements|funding source|funding and conflicts of interest|funding and conflict of interest|conflict of interest and funding|funding/support|financial support and sponsorship|grant information|acknowledgments|acknowledgement|acknowledgements|funding|funding statement|funding information|funding sources|financial support|financial disclosure|financial disclosures|grant support|grants|sources of funding|source of funding|role of the funding source|role of funding source|funding acknowledgments|support|conflict of interest|conflicts of interest|conflict of interest statement|conflicts of interest statement|conflict of interests|conflict of interest disclosure|declaration of conflicting interests|declaration of competing interest|declaration of competing interests|declaration of interests|declaration of interest|declarations of interest|declarations|declaration|competing interests|competing interest|competing interest statement|competing interests statement|competing financial interests|disclosure|disclosures|disclosure statement|author disclosure statement|author contributions|authors contributions|author contribution|authors contribution|contributors|contributorship statement|credit authorship contribution statement|credit author statement|authorship contribution statement|associated data|consent|patient consent|informed consent statement|institutional review board statement|data availability|data availability statement|data accessibility|data sharing|data sharing statement|availability of data and materials|availability of data and material|data and materials availability|code availability|software availability|additional information|additional files|additional file|supporting information|supporting information available|supplementary information|supplementary material|supplementary materials|supplementary data|supplemental material|supplemental materials|supplemental information|supplemental data|electronic supplementary material|appendix a supplementary data|appendix a supplementary material|web extra|web resources|references|reference|bibliography|literature cited|further reading|abbreviations|list of abbreviations|abbreviations used|authors information|author information|orcid|orcid ids|pre-publication history|prepublication history|publishers note|publishers disclaimer|peer review|peer review information|provenance and peer review|publication history|article history|how to cite|how to cite this article|cite this article as|transparent peer review|transparency statement|transparency declaration|consent for publication|patient consent for publication|ethics approval and consent to participate|accession numbers|disclaimer|copyright|license|open access|about the authors|author notes|ai use statement|declaration of generative ai and ai-assisted technologies in the writing process|</xsl:variable>
  <xsl:variable name="capitals-and-signs">ABCDEFGHIJKLMNOPQRSTUVWXYZ&#xA0;.:;,*’'0123456789</xsl:variable>
  <xsl:variable name="small-letters">abcdefghijklmnopqrstuvwxyz </xsl:variable>  <!-- and signs and numbers are nothing -->
  <xsl:template match="sec | app">
    <xsl:variable name="title" select="concat('|', normalize-space(translate(title, $capitals-and-signs, $small-letters)), '|')"/>
    <xsl:if test="not((string-length($title) &gt; 2 and contains($left-out-titles, $title))
        or starts-with(@sec-type, 'supplement') or @sec-type = 'data-availability' or @sec-type = 'COI-statement'
        or @sec-type = 'ref-list' or @sec-type = 'display-objects' and $captions = 'no')
      and *[not(self::title or self::label or self::supplementary-material or self::ref-list or self::fn-group or self::sec-meta)]">
      <xsl:apply-templates select="title" mode="numbered"><xsl:with-param name="label" select="label[1]"/></xsl:apply-templates>
      <xsl:apply-templates select="node()[not(self::title)]"/>
    </xsl:if>
  </xsl:template>

  <!-- ============================================================================================ paragraphs, lists -->

  <xsl:template match="title" mode="numbered">
    <xsl:param name="label"/>
    <xsl:text>&paragraph;</xsl:text>
    <xsl:if test="normalize-space($label)">
      <xsl:value-of select="$label"/>
      <xsl:text> </xsl:text>
    </xsl:if>
    <xsl:apply-templates/>
  </xsl:template>

  <xsl:template match="title | p | verse-group | preformat | code | disp-formula-group | list-item/title">
    <xsl:text>&paragraph;</xsl:text>
    <xsl:apply-templates/>
    <xsl:apply-templates select="fig | fig-group | table-wrap | table-wrap-group | boxed-text" mode="float"/>
    <xsl:call-template name="paragraph-goes-on"/>
  </xsl:template>

  <xsl:template match="disp-quote">
    <xsl:apply-templates/>
    <xsl:call-template name="paragraph-goes-on"/>
  </xsl:template>

  <!-- What follows a block inside of a paragraph is a paragraph of its own, and glued to nothing. -->
  <xsl:template name="paragraph-goes-on">
    <xsl:if test="parent::p">&paragraph;</xsl:if>
  </xsl:template>

  <xsl:template match="block-alternatives"><xsl:apply-templates select="*[1]"/></xsl:template>

  <!-- What floats comes behind its paragraph, so that no sentence is cut in two. -->
  <xsl:template match="p/fig | p/fig-group | p/table-wrap | p/table-wrap-group | p/boxed-text"/>

  <xsl:template match="list | def-list">
    <xsl:if test="not(ancestor::p or ancestor::list-item or ancestor::td)">&paragraph;</xsl:if>
    <xsl:for-each select="title | label">
      <xsl:text>&line;</xsl:text>
      <xsl:call-template name="steps"/>
      <xsl:apply-templates/>
    </xsl:for-each>
    <xsl:apply-templates select="list-item | def-item | list | def-list"/>  <!-- position() numbers the items -->
    <xsl:if test="parent::p">&line;</xsl:if>
  </xsl:template>

  <xsl:template match="def-list[starts-with(title, 'Abbreviation') or starts-with(title, 'ABBREVIATION')]"/>

  <!-- A list in a list stands to the right of it, to the eighth, so that no nest of lists is mostly white space. -->
  <xsl:template name="steps">
    <xsl:param name="outer" select="0"/>
    <xsl:value-of select="substring('&step;&step;&step;&step;&step;&step;&step;&step;', 1, count(ancestor::list-item | ancestor::def-item) - $outer)"/>
  </xsl:template>

  <xsl:template match="list-item">
    <xsl:text>&line;</xsl:text>
    <xsl:call-template name="steps"/>
    <xsl:choose>
      <xsl:when test="normalize-space(label)"><xsl:value-of select="concat(label, ' ')"/></xsl:when>
      <xsl:when test="../@list-type = 'order'"><xsl:value-of select="position()"/>. </xsl:when>
      <xsl:when test="../@list-type = 'alpha-lower'"><xsl:number value="position()" format="a. "/></xsl:when>
      <xsl:when test="../@list-type = 'alpha-upper'"><xsl:number value="position()" format="A. "/></xsl:when>
      <xsl:when test="../@list-type = 'roman-lower'"><xsl:number value="position()" format="i. "/></xsl:when>
      <xsl:when test="../@list-type = 'roman-upper'"><xsl:number value="position()" format="I. "/></xsl:when>
      <xsl:when test="not(../@list-type = 'simple' or ../@list-type = 'none')">- </xsl:when>
    </xsl:choose>
    <xsl:apply-templates/>
  </xsl:template>

  <xsl:template match="def-item">
    <xsl:text>&line;</xsl:text>
    <xsl:call-template name="steps"/>
    <xsl:apply-templates select="term"/>
    <xsl:text>: </xsl:text>
    <xsl:apply-templates select="def"/>
  </xsl:template>

  <xsl:template match="list-item/p | def/p | speech/p | td/p | th/p">
    <xsl:variable name="before" select="preceding-sibling::*[1]"/>
    <xsl:if test="$before[not(self::label or self::title or self::speaker)]">
      <xsl:text>&line;</xsl:text>
      <xsl:call-template name="steps"><xsl:with-param name="outer" select="1"/></xsl:call-template>
    </xsl:if>
    <xsl:apply-templates/>
    <xsl:apply-templates select="fig | fig-group | table-wrap | table-wrap-group | boxed-text" mode="float"/>
  </xsl:template>

  <xsl:template match="verse-line">&line;<xsl:apply-templates/></xsl:template>

  <xsl:template match="speech">
    <xsl:text>&paragraph;</xsl:text>
    <xsl:apply-templates select="speaker"/>
    <xsl:if test="not(contains(substring(speaker, string-length(normalize-space(speaker))), ':'))">:</xsl:if>
    <xsl:text> </xsl:text>
    <xsl:apply-templates select="*[not(self::speaker)]"/>
    <xsl:call-template name="paragraph-goes-on"/>
  </xsl:template>

  <xsl:template match="statement">
    <xsl:if test="label">&paragraph;<xsl:value-of select="label"/></xsl:if>
    <xsl:apply-templates/>
    <xsl:call-template name="paragraph-goes-on"/>
  </xsl:template>

  <!-- ================================================================================== figures, tables and boxes -->

  <xsl:template match="fig | fig-group | table-wrap | table-wrap-group"><xsl:call-template name="float"/></xsl:template>
  <xsl:template match="fig | fig-group | table-wrap | table-wrap-group" mode="float"><xsl:call-template name="float"/></xsl:template>
  <xsl:template match="boxed-text"><xsl:call-template name="box"/></xsl:template>
  <xsl:template match="boxed-text" mode="float"><xsl:call-template name="box"/></xsl:template>
  <xsl:template match="chem-struct-wrap | chem-struct-wrapper">
    <xsl:call-template name="box"/>
    <xsl:call-template name="paragraph-goes-on"/>
  </xsl:template>

  <xsl:template name="float">
    <xsl:if test="$captions = 'yes'">
      <xsl:call-template name="caption"/>
    </xsl:if>
    <xsl:if test="$tables = 'yes'">
      <xsl:apply-templates select="table | alternatives/table" mode="cells"/>
      <xsl:for-each select="table-wrap-foot//p[not(ancestor::p)]">&paragraph;<xsl:apply-templates/></xsl:for-each>
    </xsl:if>
    <xsl:apply-templates select="fig | table-wrap"/>
  </xsl:template>

  <xsl:template name="box">
    <xsl:call-template name="caption"/>
    <xsl:apply-templates select="*[not(self::caption)]"/>
  </xsl:template>

  <!-- "Figure 1. Its title. Its text." -->
  <xsl:template name="caption">
    <xsl:text>&paragraph;</xsl:text>
    <xsl:call-template name="sentence"><xsl:with-param name="text" select="normalize-space(label)"/></xsl:call-template>
    <xsl:for-each select="caption/title">
      <xsl:variable name="title"><xsl:apply-templates/></xsl:variable>
      <xsl:call-template name="sentence"><xsl:with-param name="text" select="normalize-space($title)"/></xsl:call-template>
    </xsl:for-each>
    <xsl:for-each select="caption/*[not(self::title)]">
      <xsl:choose>
        <xsl:when test="self::p"><xsl:apply-templates/></xsl:when>
        <xsl:otherwise><xsl:apply-templates select="."/></xsl:otherwise>
      </xsl:choose>
      <xsl:text> </xsl:text>
    </xsl:for-each>
  </xsl:template>

  <xsl:template name="sentence">
    <xsl:param name="text"/>
    <xsl:if test="$text">
      <xsl:value-of select="$text"/>
      <xsl:if test="not(contains('.:?!', substring($text, string-length($text))))">.</xsl:if>
      <xsl:text> </xsl:text>
    </xsl:if>
  </xsl:template>

  <!-- An array is the cells of a table without one around them. -->
  <xsl:template match="array">
    <xsl:if test="$tables = 'yes'"><xsl:apply-templates select="." mode="cells"/></xsl:if>
    <xsl:call-template name="paragraph-goes-on"/>
  </xsl:template>

  <xsl:template match="table | array" mode="cells">
    <xsl:text>&paragraph;</xsl:text>
    <!-- The table's own rows: one in a cell writes its rows there, and only there. -->
    <xsl:for-each select="tr | thead/tr | tbody/tr | tfoot/tr">
      <xsl:text>&line;</xsl:text>
      <xsl:for-each select="td | th">
        <xsl:if test="position() &gt; 1">&tab;</xsl:if>
        <xsl:variable name="cell"><xsl:apply-templates/></xsl:variable>
        <xsl:choose>
          <xsl:when test=".//table"><xsl:value-of select="$cell"/></xsl:when>
          <xsl:otherwise><xsl:value-of select="translate($cell, '&line;&paragraph;&step;', '  ')"/></xsl:otherwise>  <!-- a row is a line -->
        </xsl:choose>
      </xsl:for-each>
    </xsl:for-each>
  </xsl:template>

  <!-- ====================================================================================== citations, small letters -->

  <!-- Where an old article does not say what it points at, figures alone point at references. -->
  <xsl:template match="xref">
    <xsl:choose>
      <xsl:when test="@ref-type = 'bibr' or (not(@ref-type) or @ref-type = '') and translate(normalize-space(.), '0123456789,;–-[]() ', '') = ''">
        <xsl:text>&name;</xsl:text>
        <xsl:apply-templates/>
        <xsl:text>&end;</xsl:text>
      </xsl:when>
      <xsl:when test="not(@ref-type = 'fn' or @ref-type = 'table-fn' or @ref-type = 'aff' or @ref-type = 'corresp' or @ref-type = 'author-notes' or @ref-type = 'author-note')">
        <xsl:apply-templates/>
      </xsl:when>
    </xsl:choose>
  </xsl:template>

  <xsl:template match="sup[.//xref[@ref-type = 'bibr' or not(@ref-type)]]">&cited;</xsl:template>

  <!-- Raised figures would change the number they stand at: 10 to the 3rd is no 103. -->
  <xsl:template match="sup">
    <xsl:variable name="raised"><xsl:apply-templates/></xsl:variable>
    <xsl:variable name="text" select="normalize-space($raised)"/>
    <xsl:if test="$text">
      <xsl:if test="not(contains('|,|;|–|-|, |st|nd|rd|th|®|™|©|*|**|***|†|‡|§|¶|°|o|º|#|', concat('|', $text, '|')))">^</xsl:if>
      <xsl:value-of select="$raised"/>
    </xsl:if>
  </xsl:template>

  <xsl:template match="sub">
    <xsl:variable name="before" select="preceding-sibling::node()[1]"/>
    <xsl:variable name="after" select="following-sibling::node()[1]"/>
    <xsl:variable name="touching" select="concat(
      substring($before[self::text()], string-length($before)), substring(., 1, 1),
      substring(., string-length(.)), substring($after[self::text()], 1, 1))"/>
    <xsl:variable name="figures" select="translate($touching, '0123456789', '9999999999')"/>
    <xsl:if test="starts-with($figures, '99')">_</xsl:if>
    <xsl:apply-templates/>
    <xsl:if test="substring($figures, string-length($figures) - 1) = '99' and string-length($figures) = 4">
      <xsl:text> </xsl:text>
    </xsl:if>
  </xsl:template>

  <xsl:template match="break"><xsl:text> </xsl:text></xsl:template>

  <!-- ==================================================================================================== formulas -->

  <xsl:template match="inline-formula | chem-struct"><xsl:call-template name="formula"/></xsl:template>

  <xsl:template match="disp-formula">
    <xsl:text>&line;</xsl:text>
    <xsl:call-template name="formula"/>
    <xsl:call-template name="formula-number"/>
    <xsl:text>&line;</xsl:text>
  </xsl:template>

  <xsl:template match="sec/disp-formula | body/disp-formula">
    <xsl:text>&paragraph;</xsl:text>
    <xsl:call-template name="formula"/>
    <xsl:call-template name="formula-number"/>
  </xsl:template>

  <xsl:template name="formula-number">
    <xsl:if test="normalize-space(label)">
      <xsl:value-of select="concat(' (', translate(normalize-space(label), '()', ''), ')')"/>
    </xsl:if>
  </xsl:template>

  <!-- One of the forms in which a formula is given; a picture alone is shown as such, so that a sentence has no hole. -->
  <xsl:template name="formula">
    <xsl:variable name="text"><xsl:apply-templates/></xsl:variable>
    <xsl:choose>
      <xsl:when test="normalize-space($text)"><xsl:value-of select="$text"/></xsl:when>
      <xsl:otherwise>[formula]</xsl:otherwise>
    </xsl:choose>
  </xsl:template>

  <xsl:template match="alternatives">
    <xsl:choose>
      <xsl:when test="m:math[normalize-space()]"><xsl:apply-templates select="m:math[normalize-space()][1]"/></xsl:when>
      <xsl:when test="tex-math"><xsl:apply-templates select="tex-math[1]"/></xsl:when>
      <xsl:when test="textual-form"><xsl:apply-templates select="textual-form[1]"/></xsl:when>
      <xsl:otherwise><xsl:apply-templates select="*[1]"/></xsl:otherwise>
    </xsl:choose>
  </xsl:template>

  <xsl:template match="tex-math">
    <xsl:variable name="body">
      <xsl:choose>
        <xsl:when test="contains(., '\begin{document}')">
          <xsl:value-of select="substring-before(concat(substring-after(., '\begin{document}'), '\end{document}'), '\end{document}')"/>
        </xsl:when>
        <xsl:otherwise><xsl:value-of select="."/></xsl:otherwise>
      </xsl:choose>
    </xsl:variable>
    <xsl:value-of select="translate($body, '$', '')"/>
  </xsl:template>

  <!-- MathML: figures, letters and signs in their order, with ^ _ / sqrt() and brackets where the layout said more. -->
  <xsl:template match="m:math | m:mrow | m:mstyle | m:mpadded | m:menclose | m:maction | m:mtd | m:mtr | m:semantics">
    <xsl:apply-templates select="*"/>
  </xsl:template>
  <xsl:template match="m:mi | m:mn | m:mtext | m:ms">
    <xsl:value-of select="translate(., '&#x2061;&#x2062;&#x2063;&#x2064;', '')"/>
  </xsl:template>
  <!-- "log x", not "logx". -->
  <xsl:template match="m:mi[string-length(.) &gt; 1]">
    <xsl:variable name="before" select="preceding-sibling::*[1]"/>
    <xsl:variable name="after" select="following-sibling::*[1]"/>
    <xsl:if test="$before[not(self::m:mo or self::m:mspace)]"><xsl:text> </xsl:text></xsl:if>
    <xsl:value-of select="."/>
    <xsl:if test="$after[not(self::m:mo or self::m:mspace or self::m:mfenced)]"><xsl:text> </xsl:text></xsl:if>
  </xsl:template>
  <xsl:template match="m:mspace"><xsl:text> </xsl:text></xsl:template>
  <xsl:template match="m:mo">
    <xsl:variable name="before" select="preceding-sibling::*[1]"/>
    <xsl:variable name="sign" select="translate(normalize-space(.), '&#x2061;&#x2062;&#x2063;&#x2064;', '')"/>
    <xsl:choose>
      <xsl:when test="$sign = ''"/>
      <xsl:when test="$sign = ',' or $sign = ';'"><xsl:value-of select="$sign"/><xsl:text> </xsl:text></xsl:when>
      <xsl:when test="contains('+-−±∓', $sign) and not($before[not(self::m:mspace or self::m:mo)])">
        <xsl:value-of select="$sign"/>
      </xsl:when>
      <xsl:when test="contains('=+-−±∓×·⋅∗&lt;&gt;≤≥≪≫≠≈≃≅∼~≡∝→←↔⇒⇔∈∉⊂⊆∪∩∧∨:=∣', $sign)"><xsl:value-of select="concat(' ', $sign, ' ')"/></xsl:when>
      <xsl:otherwise><xsl:value-of select="$sign"/></xsl:otherwise>
    </xsl:choose>
  </xsl:template>
  <xsl:template match="m:mfrac">
    <xsl:apply-templates select="*[1]" mode="group"/>/<xsl:apply-templates select="*[2]" mode="group"/>
  </xsl:template>
  <xsl:template match="m:msup">
    <xsl:apply-templates select="*[1]"/>
    <xsl:apply-templates select="*[2]" mode="group"><xsl:with-param name="sign">^</xsl:with-param></xsl:apply-templates>
  </xsl:template>
  <!-- Behind a sign with scripts, such as a sum, begins what it is of. -->
  <xsl:template match="m:msub | m:munder">
    <xsl:apply-templates select="*[1]"/>
    <xsl:apply-templates select="*[2]" mode="group"><xsl:with-param name="sign">_</xsl:with-param></xsl:apply-templates>
    <xsl:if test="*[1][self::m:mo]"><xsl:text> </xsl:text></xsl:if>
  </xsl:template>
  <xsl:template match="m:msubsup | m:munderover">
    <xsl:apply-templates select="*[1]"/>
    <xsl:apply-templates select="*[2]" mode="group"><xsl:with-param name="sign">_</xsl:with-param></xsl:apply-templates>
    <xsl:apply-templates select="*[3]" mode="group"><xsl:with-param name="sign">^</xsl:with-param></xsl:apply-templates>
    <xsl:if test="*[1][self::m:mo]"><xsl:text> </xsl:text></xsl:if>
  </xsl:template>
  <xsl:template match="m:mover">
    <xsl:apply-templates select="*[1]"/>
    <xsl:variable name="accent" select="normalize-space(*[2])"/>
    <xsl:choose>
      <!-- Accents become the combining ones of Unicode: bar, hat, tilde, dot, arrow. -->
      <xsl:when test="string-length($accent) = 1 and contains('¯ˉ‾_―−-^ˆ~˜∼˙.→⇀&#x302;&#x303;&#x304;&#x305;&#x307;&#x308;', $accent)">
        <xsl:value-of select="translate($accent, '¯ˉ‾_―−-^ˆ~˜∼˙.→⇀', '&#x304;&#x304;&#x304;&#x304;&#x304;&#x304;&#x304;&#x302;&#x302;&#x303;&#x303;&#x303;&#x307;&#x307;&#x20D7;&#x20D7;')"/>
      </xsl:when>
      <xsl:when test="$accent = '⏞' or $accent = '︷' or $accent = ''"/>
      <xsl:otherwise>
        <xsl:apply-templates select="*[2]" mode="group"><xsl:with-param name="sign">^</xsl:with-param></xsl:apply-templates>
      </xsl:otherwise>
    </xsl:choose>
  </xsl:template>
  <xsl:template match="m:msqrt">sqrt(<xsl:apply-templates select="*"/>)</xsl:template>
  <xsl:template match="m:mroot"><xsl:apply-templates select="*[1]" mode="group"/>^(1/<xsl:apply-templates select="*[2]"/>)</xsl:template>
  <xsl:template match="m:mmultiscripts">
    <xsl:variable name="scripts" select="count(*) - count(m:mprescripts[1] | m:mprescripts[1]/following-sibling::*)"/>
    <xsl:for-each select="m:mprescripts[1]/following-sibling::*[not(self::m:none or self::m:mprescripts)]">
      <xsl:apply-templates select="." mode="group"><xsl:with-param name="sign">^</xsl:with-param></xsl:apply-templates>
    </xsl:for-each>
    <xsl:apply-templates select="*[1]"/>
    <xsl:for-each select="*[position() &gt; 1 and position() &lt;= $scripts]">
      <xsl:apply-templates select="." mode="group">
        <xsl:with-param name="sign" select="substring('_^', 2 - position() mod 2, 1)"/>
      </xsl:apply-templates>
    </xsl:for-each>
  </xsl:template>
  <xsl:template match="m:mfenced">
    <xsl:value-of select="concat(@open, substring('(', 1, number(not(@open))))"/>
    <xsl:for-each select="*">
      <xsl:if test="position() &gt; 1 and not(../@separators)">, </xsl:if>
      <xsl:if test="position() &gt; 1"><xsl:value-of select="substring(normalize-space(../@separators), 1, 1)"/></xsl:if>
      <xsl:apply-templates select="."/>
    </xsl:for-each>
    <xsl:value-of select="concat(@close, substring(')', 1, number(not(@close))))"/>
  </xsl:template>
  <xsl:template match="m:mtable">
    <xsl:for-each select="m:mtr | m:mlabeledtr">
      <xsl:if test="position() &gt; 1">; </xsl:if>
      <xsl:for-each select="m:mtd">
        <xsl:if test="position() &gt; 1"><xsl:text> </xsl:text></xsl:if>
        <xsl:apply-templates select="*"/>
      </xsl:for-each>
    </xsl:for-each>
  </xsl:template>

  <!-- Behind a sign, and in brackets unless it is one figure or letter or has brackets of its own; nothing where it is empty. -->
  <xsl:template match="*" mode="group">
    <xsl:param name="sign"/>
    <xsl:variable name="content"><xsl:apply-templates select="."/></xsl:variable>
    <xsl:variable name="text" select="normalize-space($content)"/>
    <xsl:choose>
      <xsl:when test="$text = ''"/>
      <xsl:when test="self::m:mi or self::m:mn or self::m:mtext or self::m:mfenced or self::m:msub or string-length($text) = 1
          or count(.//m:mi | .//m:mn | .//m:mtext | .//m:mo) = 1">
        <xsl:value-of select="concat($sign, $text)"/>
      </xsl:when>
      <xsl:otherwise><xsl:value-of select="concat($sign, '(', $text, ')')"/></xsl:otherwise>
    </xsl:choose>
  </xsl:template>
</xsl:stylesheet>
