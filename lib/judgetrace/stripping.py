# ruff: noqa: RUF001 - quotes, dashes, minus signs and counters as models write them
"""Strip every mention of its rating from a trace, and tell whether what is left still names a level. Pure.

What is masked, by MASK:
- rating tags, and a rating tag that was never closed, with what stands behind it;
- any number beside a word for ratings ("a score of 3.5", "I'd give it a 4", "4 stars", "level 2"), also one that is
  set as a formula ("a score of $3.5$"; not a price, "costs $4"), and before a counter of Chinese, Japanese or Korean
  ("4点", "4分"; not "4分钟"). What follows "a score of 4" or "a 4" is no count ("a 4 captures this"; but "a 4 page
  story");
- an ordinal before a word for levels ("the fourth level", "4th category", "the fourth point on the scale"; not "the
  second point", "on a second level", "the second level of meaning");
- runs of stars, and of other signs some of which are filled ("★★★★☆", "●●●○○");
- fractions of a scale ("4/5", "4 out of 5"; not "15/16");
- the ends and the middle of the scale by name ("the highest rating"), and places beside them ("second-lowest");
- a number that is a level and stands alone: neither a count ("4 characters", "4-part"), nor the number of a part
  ("paragraph 4", "4." at the head of a line, "reviewer #4"), nor part of another number (40, 4.5, 4th, 4%). Before a
  word that counts nothing ("4 because", "3 or 4", "4 reflects"), a dash ("4 - it is rich") or the end of a line it
  stands alone;
- a Roman number after a word for ratings ("level IV"), and a level about which somebody is vague ("4-ish");
- numbers spelled out, only after a word for ratings or as "a four": "one" and "two" are common words;
- the names of levels that are words: everywhere, but single letters and words as common as "yes" and "no" only as an
  answer (alone in quotes or bold, after a word for ratings, as a whole clause, or as in "I'd say No because", "I lean
  no", "so yes, it passes", "a clear yes", "it should be Yes").
The sentences at the end that hold a mask are the verdict and go as a whole, unless nothing else is there.
"""

from __future__ import annotations

import re
from functools import lru_cache

from judgetrace.scale import Scale

MASK = "[removed]"
RULES_VERSION = 5
"""Rises when a trace would be stripped otherwise: verdicts of different rules must not mix."""
_SPELLED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_COMMON_WORDS = frozenset({"yes", "no", "true", "false", "none", "neither", "both", "other", "maybe", "same"})
_RATING_NOUN = r"(?:rating|score|grade|mark|label|level|verdict|answer|assessment|evaluation|category|stars?|points?)s?"
_RATING_VERB = (
    r"(?:rat(?:e|es|ed|ing)|scor(?:e|es|ed|ing)|grad(?:e|es|ed|ing)|giv(?:e|es|en|ing)|gave|award(?:s|ed|ing)?"
    r"|assign(?:s|ed|ing)?|deserv(?:e|es|ed|ing)|merit(?:s|ed|ing)?|warrant(?:s|ed|ing)?|earn(?:s|ed|ing)?"
    r"|choos(?:e|es|ing)|chose|pick(?:s|ed|ing)?|settl(?:e|es|ed|ing) (?:on|for|at)|go(?:es|ing)? (?:with|for)"
    r"|lean(?:s|ed|ing)? (?:towards?|to)|land(?:s|ed|ing)? (?:on|at)|stay(?:s|ed|ing)? (?:with|at)|label(?:s|l?ed)?)"
)
_BETWEEN = (
    r"(?:\s+(?:it|this|that|them|the|a|an|as|at|of|is|was|be|to|would|should|could|will|can|may|must|my|its|about|around"
    r"|in|just|only|say|perhaps|maybe|probably|clearly|item|text|response|summary|story|essay|overall|final|solid|strong"
    r"|weak|low|high|full|mere|bare|between|with|rating|score|grade|mark|label|level)|\s*[:=*\"'“”‘’`(]){0,8}\s*"
)
_NOT_A_COUNT = (
    r"(?:and|or|but|because|since|as|for|is|was|are|would|could|should|might|may|seems?|seem|feels?|to|on|in|at|of|out|if"
    r"|than|rather|not|though|although|while|when|where|here|overall|given|due|with|without|it|this|that|the|so|then|too"
    r"|fits?|works|sounds|looks|appears|applies|means|makes|matches|best|range|instead|only|by|from|if|either|vs|versus|nor|yet|also|again|i|we|he|she|they"
    # Auxiliaries, and verbs whose subject is a rating.
    r"|were|be|been|being|will|can|cannot|must|shall|do|does|did|has|have|had|gets?|feel|look|sound|need(?:s|ed)?"
    r"|(?:reflect|indicat|suggest|describ|show|requir|acknowledg|balanc|signal|signif|impli|represent|demand|deserv"
    r"|recogni[sz]|reward|penali[sz]|warrant|express|convey|account|align|captur|demonstrat|denot|correspond|belong"
    r"|remain|stand|strik|hit|lean|overstat|understat|respect|honou?r|com|go|tak|leav|allow|serv|stay)(?:e?s|e?d|ing)"
    # What says how, when or how far.
    r"|(?!famil|fly\b|all?ly\b|anomal|monopol|assembl|bull|bell|jell|repl|suppl|butterfl)[^\W\d_]+ly|after|before|until|unless|whereas|despite|because|about|around|across|above|below|beyond|within|throughout"
    r"|even|just|still|now|never|always|often|perhaps|maybe|quite|very|almost|already|there|indeed|however"
    # Of a rating, where no noun follows: "a 4 fair to the author", but "4 fair points".
    r"|(?:appropriate|correct|right|reasonable|fair|accurate|acceptable|apt|high|low|justified)"
    r"(?=\s*(?:[.,;:!?)]|$)|\s+(?:here|for|because|since|and|as|given|to|than)\b))"
)
_ATTRIBUTE = (
    r"(?:page|part|act|line|word|letter|syllable|sentence|paragraph|verse|stanza|chapter|scene|volume|book|panel|panelled"
    r"|second|minute|hour|day|night|week|month|year|decade|century|mile|foot|inch|metre|meter|step|stage|phase|digit|figure|way"
    r"|person|man|woman|people|character|hander|room|bedroom|course|dollar|pound|euro|item|question|point|hundred|thousand"
    r"|million|billion|percent|per)"
)
"""What makes a thing's measure of a number behind an article: "a 4 page story"."""
_SCORE_NOUN = r"(?:rating|score|grade|mark)s?"
_PART_NOUN = (
    r"(?:paragraph|sentence|line|chapter|section|page|act|scene|part|verse|stanza|step|criterion|question|item|number|no\.|"
    r"figure|table|example|version"
    r"|day|week|year|age|aged|option|stor(?:y|ie)|text|essay|passage|response|note|para\.)s?"
)
_EXTREME = (
    r"\b(?:(?:the\s+)?(?:very\s+)?(?:high|low|top|bottom|bett?er|best|worst|max|min)(?:est|imum|most)?(?:\s+possible)?\s+"
    r"(?:rating|score|grade|mark|level|category|end of the (?:scale|range))s?"
    r"|(?:the\s+)?(?:top|bottom|middle|midpoint|mid-point|cent(?:er|re)|(?:upper|lower)\s+end|extreme)\s+of\s+the\s+"
    r"(?:rating\s+)?(?:scale|range)|full\s+marks?|perfect\s+(?:score|marks?))\b"
)
_ANY_NUMBER = (
    r"(?:(?<![\d.])[-+−]?\d+(?:\.\d+)?|(?:(?:minus|negative|plus)\s+)?"
    rf"(?:{'|'.join(word for word in _SPELLED if word != 'one')}"
    r"|(?<!this )(?<!that )(?<!the )(?<!each )(?<!pick )(?<!choose )one"
    r"(?!\s+(?:of|another|who|that|which|can|the|an?|to|point)\b))\b)"
)
_BLANK = r"[^\S\r\n]"
"""What follows a number on the next line says nothing of it: "Rating: 4", then "Reasons follow"."""
_ORDINAL = r"(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|\d+(?:st|nd|rd|th))"
_SCALE = r"(?:the|this|that|our|a)\s+(?:[^\W_]+[\s-]+){0,3}(?:scale|rubric|range|codebook|guidelines?)\b"
_ORDINAL_LEVEL = (
    rf"\b(?<!\ba )(?<!\banother )(?P<rating>{_ORDINAL})\s+(?:(?:level|rating|category|tier)\b(?!\s+of\s+(?!{_SCALE}))"
    rf"|point\s+(?:of|on|in)\s+{_SCALE}|of\s+the\s+(?:[^\W\d_]+\s+)?(?:levels|ratings|categories|tiers)\b)"
)
_SAID = r"(?:say(?:s|ing)?|said|conclud(?:e|es|ed|ing)|answer(?:s|ed|ing)?|vot(?:e|es|ed|ing)|decid(?:e|es|ed) on)"
_CONCLUDING = r"(?:so|hence|thus|therefore|overall|ultimately|finally)"
_LEANING = r"lean(?:s|ed|ing)?"
_SHOULD_BE = r"(?:should|would|must|could|will|(?:has|ought)\s+to)\s+be(?:\s+an?)?"
_FIRMNESS = (
    r"(?:clear|definite|definitive|firm|strong|hard|solid|resounding|simple|straightforward|qualified|tentative|weak|soft"
    r"|easy|confident|emphatic|overall|final|likely|probable)"
)
_ENDS_CLAUSE = r"(?=\s*(?:[.,;:!)]|$|(?:because|since|as|for|from|here|overall|due|given|on)\b))"
_ROMAN = r"(?-i:II|III|IV|V|VI|VII|VIII|IX)"
"""Not I: it is a word."""
_SCORED = r"(?:rat(?:e|es|ed|ing|ings)|scor(?:e|es|ed|ing)|grad(?:e|es|ed|ing))"
_STARS, _FILLED, _EMPTY = "★☆⭐🌟✩✭✮✰", "●■▮◆♥▰⬤⚫", "○□▯◇♡▱◯⚪"
_RUN = (
    rf"(?:[{_STARS}]\ufe0f? ?){{1,9}}[{_STARS}]\ufe0f?½?"
    rf"|(?=[{_FILLED}{_EMPTY}\ufe0f ]{{0,20}}(?:[{_FILLED}]\ufe0f? ?[{_EMPTY}]|[{_EMPTY}]\ufe0f? ?[{_FILLED}]))"
    rf"(?:[{_FILLED}{_EMPTY}]\ufe0f? ?){{1,9}}[{_FILLED}{_EMPTY}]\ufe0f?"
)
"""Of stars any run says how many; other signs are ornaments where all are alike."""
_CJK = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_CJK_COUNTED = (
    r"(?<![A-Za-z_\d.])(?<!以下)(?<!以下の)(?<!次の)(?<!下面)(?P<rating>\d+(?:\.\d+)?)\s*"
    r"(?:[点點](?![钟鐘半])|分(?![钟鐘間间之の後后前以])|[颗顆つ]?星|[级級]|段階|점|등급|단계)"
)
_NOUN = rf"(?!(?:{_NOT_A_COUNT}|stars?|points?)\b)[^\W\d_]{{2,}}"
_HYPHENATED = rf"[-–](?:[^\W\d_]|{_BLANK}+(?:or|to|and){_BLANK}+\d+[-–][^\W\d_])"
"""As in "4-part", "3- or 4-part": without a blank before; with one it is a dash."""
_NOT_COUNTED = (
    rf"(?!{_HYPHENATED})(?!{_BLANK}+{_NOUN})"
    rf"(?!{_BLANK}*(?:or|to|and|[-–]){_BLANK}*(?:\d+|{'|'.join(_SPELLED)}){_BLANK}+{_NOUN})"
)
_BESIDE_EXTREME = (
    rf"\b(?:the\s+)?(?:{_ORDINAL}|next)(?:\s+|-)(?:to(?:\s+|-)(?:the\s+)?)?"
    rf"(?:(?:high|low)est(?:\s+possible)?(?:\s+(?:rating|score|grade|mark|level|category|one)s?\b|{_NOT_COUNTED})"
    r"|(?:best|worst|top|bottom|last)(?:\s+possible)?\s+(?:rating|score|grade|mark|level|category)s?\b)"
)
_DEGREE = r"(?:(?:very|clear|solid|strong|weak|low|high|generous|safe|firm|mere|straightforward)\s+)*"
_NUMBER = re.compile(
    rf"(?:(?<![\w$€£.])|(?<=[{_CJK}])(?<![第图圖表页頁章节節段句行]))(?<![\w&]#)(?<!\d[,:/])"
    r"(?:(?<![^\s(*\"'“:])[-−])?\d+(?:\.\d+)?(?![\w%])(?!\.\d)(?![,:/]\d)"
)
_FORMULA = re.compile(rf"(?<![\w$])\${{1,2}}{_BLANK}*([-+−]?\d+(?:\.\d+)?){_BLANK}*\${{1,2}}(?![\w$])")
"""A lone number in dollar signs: as good as the number alone. A price has one dollar sign."""
_COUNTED = re.compile(
    rf"{_HYPHENATED}|{_BLANK}*(?:or|to|and|[-–]){_BLANK}*\d+{_BLANK}+{_NOUN}"
    rf"|{_BLANK}+(?!{_NOT_A_COUNT}\b)[^\W\d_]{{2,}}",
    re.IGNORECASE,
)
_PART_BEFORE = re.compile(
    rf"\b{_PART_NOUN}{_BLANK}+#?(?:\d+{_BLANK}*(?:,|and|or|&|to|-|–){_BLANK}*#?){{0,4}}$", re.IGNORECASE
)
_NUMBERED_BEFORE = re.compile(
    rf"(?<!\w)(?!(?:{_RATING_NOUN}|{_RATING_VERB}|{_NOT_A_COUNT}|be|say)\b)[^\W\d_]{{2,}}{_BLANK}+#$", re.IGNORECASE
)
"""As in "reviewer #4": what the number is of, unless it is a word for ratings or a function word ("so I say #4")."""
_LINE_HEAD = re.compile(r"(?:^|\n)[\s>*#-]*$")
_LIST_TAIL = re.compile(rf"[.)]\**{_BLANK}+\S")
_NEARBY = 40
"""Characters that are looked at on both sides of a number: a long text costs no more for each of its numbers."""
_RANGE_BEFORE = re.compile(r"\[removed\]\s*[-–]\s*$")
_TAG = re.compile(r"[<‹]\s*rating\s*[>›].*?(?:[<‹]\s*/\s*rating\s*[>›]|$)", re.IGNORECASE | re.DOTALL)
_SENTENCE = re.compile(r".+?(?:[.!?](?=[\"'”’)*]*(?:\s|$))[\"'”’)*]*|\n|$)\s*", re.DOTALL)
_HINT = re.compile(
    r"\b(?:(?:i|we)(?:'ve| have| was| were|'m| am)?\s+(?:been\s+)?(?:told|given|asked|instructed|informed)\b"
    r"|(?:target|given|provided|assigned|stated|known|original|gold|predetermined)\s+(?:label|rating|score)\b"
    r"|(?:label|rating|score)\s+(?:(?:i|we)\s+(?:was|were)\s+)?(?:that\s+(?:was|is)\s+)?(?:given|provided|told)\b"
    r"|(?:the|this|that|another|an?)\s+(?:careful\s+)?annotator(?:'s)?\s+(?:rated|gave|rating|label|chose)\b)",
    re.IGNORECASE,
)


def strip_ratings(trace: str, scale: Scale) -> str:
    """Strip every mention of a rating from a trace; see above for the rules."""
    masked = _FORMULA.sub(r"\1", _TAG.sub(MASK, trace))
    for pattern in _patterns(scale):
        masked = pattern.sub(_mask_group, masked)
    masked = _NUMBER.sub(lambda match: MASK if _is_level_alone(match, scale) else match.group(), masked)
    # Masks that touch are one mention.
    masked = re.sub(r"\[removed\](?:[\s/*,–-]*\[removed\])+", MASK, masked)
    return _drop_verdict(masked)


def names_level(text: str, scale: Scale) -> bool:
    """Whether a stripped trace still names a level: a second look, wider than what is stripped.

    Here numbers spelled out count wherever no noun follows them, a level's number within four words of a word for
    ratings counts whatever follows it, and level names that are no common words do in any form ("goodness" of "good");
    of common words one that ends a clause does ("yes" and "no" in stories, too).
    """
    rest = _FORMULA.sub(r"\1", text.replace(MASK, " "))
    if any(_is_level_alone(match, scale) for match in _NUMBER.finditer(rest)):
        return True
    return any(pattern.search(rest) for pattern in _wider_patterns(scale))


def mentions_hint(trace: str) -> bool:
    """Whether a trace says that its label was given: what a hinted prompt forbids."""
    return _HINT.search(trace) is not None


def _mask_group(match: re.Match[str]) -> str:
    """Mask the group `rating` of a match, or all of it where it has none."""
    if "rating" not in match.re.groupindex:
        return MASK
    start, end = (position - match.start() for position in match.span("rating"))
    text = match.group()
    return text[:start] + MASK + text[end:]


def _drop_verdict(text: str) -> str:
    """Drop the sentences at the end that hold a mask, unless no other is there."""
    sentences = _SENTENCE.findall(text)
    kept = len(sentences)
    while kept and (MASK in sentences[kept - 1] or not re.search(r"\w", sentences[kept - 1])):
        kept -= 1
    return "".join(sentences[:kept] or sentences).strip()


def _is_level_alone(match: re.Match[str], scale: Scale) -> bool:
    """Whether a number is a level of the scale and neither a count, nor a part's number, nor the head of a list."""
    if scale.find_level(match.group().replace("−", "-")) is None:
        return False
    start, end = match.span()
    before, after = match.string[max(0, start - _NEARBY) : start], match.string[end : end + _NEARBY]
    if match.group()[0] in "-−" or _RANGE_BEFORE.search(before):
        return True
    if _COUNTED.match(after) or _PART_BEFORE.search(before) or _NUMBERED_BEFORE.search(before):
        return False
    return not (_LINE_HEAD.search(before) and _LIST_TAIL.match(after))


@lru_cache(maxsize=64)
def _patterns(scale: Scale) -> tuple[re.Pattern[str], ...]:
    """Compile what is masked by its neighbours, in this order."""
    words = _list_words(scale)
    rated = _join([_ANY_NUMBER, *([_join_names(words)] if words else [])])
    patterns = [
        _BESIDE_EXTREME,
        _EXTREME,
        _RUN,
        _CJK_COUNTED,
        _ORDINAL_LEVEL,
        rf"(?<![\w/.]){_ANY_NUMBER}\s*(?:/\s*(?:{_tops(scale)})|out\s+of\s+{_ANY_NUMBER})(?![\w/])",
        rf"\b{_RATING_NOUN}[\s:=*\"'“]+(?P<rating>[-+−]?\d+(?:\.\d+)?)(?![\w%])",
        rf"\b{_SCORE_NOUN}\s+(?:of|is|was|as|at|(?:(?:would|should|could|must|will|can|may|might)\s+)?be)\s+(?:an?\s+)?"
        rf"{_DEGREE}(?P<rating>{_ANY_NUMBER})(?![\w%])(?!{_HYPHENATED})",
        rf"\b{_RATING_NOUN}{_BETWEEN}(?P<rating>{rated})(?![\w%]){_NOT_COUNTED}",
        rf"\b{_RATING_VERB}{_BETWEEN}(?P<rating>{_ANY_NUMBER})(?![\w%]){_NOT_COUNTED}",
        rf"(?<![\w.])(?P<rating>{_ANY_NUMBER})(?:\s*-\s*|\s+){_RATING_NOUN}\b",
        rf"\ban?\s+{_DEGREE}(?P<rating>{_ANY_NUMBER})(?![\w%])(?!{_HYPHENATED})(?!{_BLANK}+{_ATTRIBUTE}\b)",
        rf"\b{_RATING_NOUN}\s+(?P<rating>{_ROMAN})\b(?!{_BLANK}+{_NOUN})",
    ]
    numbers = _list_numbers(scale)
    if numbers:
        patterns.append(rf"(?<![\w.$€£])(?P<rating>{_join(numbers)})-?ish\b(?!{_BLANK}+{_NOUN})")
    plain = [word for word in words if not is_common(word)]
    if plain:
        patterns.append(rf"(?<!\w){_join_names(plain)}(?!\w)")
    common = [word for word in words if is_common(word)]
    if common:
        names = _join_names(common)
        patterns += [
            rf"\b{_RATING_VERB}{_BETWEEN}(?P<rating>{names})(?![\w-])(?!\s+[^\W\d_])",
            rf"(?<!\w)[\"'“‘`*(]+(?P<rating>{names})[\"'”’`*)]+(?!\w)",
            rf"(?:^|(?<=[.!?:;]\s)|\b{_CONCLUDING}[,:]?\s)(?P<rating>{names})(?=\s*(?:[.,;!]|$))",
            rf"\b(?:{_SAID}|{_LEANING}|{_SHOULD_BE})\s+(?P<rating>{names}){_ENDS_CLAUSE}",
            rf"\b(?:an?|my)\s+(?:{_FIRMNESS}\s+)*(?P<rating>{names}){_ENDS_CLAUSE}",
        ]
    return tuple(re.compile(pattern, re.IGNORECASE | re.MULTILINE) for pattern in patterns)


@lru_cache(maxsize=64)
def _wider_patterns(scale: Scale) -> tuple[re.Pattern[str], ...]:
    spelled = [word for number, word in enumerate(_SPELLED) if number != 1 and scale.find_level(number) is not None]
    patterns = [_BESIDE_EXTREME, _EXTREME, _RUN, _CJK_COUNTED]
    patterns.append(rf"(?<!\ba )(?<!\banother )\b{_ORDINAL}[\s-]+(?:level|rating|category|tier|point\s+(?:of|on))\b")
    numbers = [*_list_numbers(scale), *spelled]
    if numbers:
        patterns.append(
            rf"\b{_SCORED}\b(?:[^\w.!?]+\w+){{0,3}}[^\w.!?]+{_join(numbers)}(?![\w%])(?!{_HYPHENATED})(?!\.\d)"
        )
    if spelled:
        patterns.append(rf"\b{_join(spelled)}\b{_NOT_COUNTED}")
    if _list_numbers(scale):
        patterns.append(rf"(?<![\w.$€£]){_join(_list_numbers(scale))}['’]?s\b(?!{_BLANK}+{_NOUN})")
    patterns += [rf"(?<!\w){_join_names([word])}" for word in _list_words(scale) if not is_common(word)]
    answers = [word for word in _list_words(scale) if is_common(word) and len(word) > 1]
    if answers:
        patterns.append(rf"(?<!\w){_join_names(answers)}(?=[\"'”’*]*\s*(?:[.,;:!)]|$))")
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


def _tops(scale: Scale) -> str:
    """Match what a rating is written over: the scale's highest number, and those of usual scales."""
    return "|".join(re.escape(f"{number:g}") for number in {*scale.numbers[-1:], 5.0, 7.0, 10.0, 100.0})


def _list_numbers(scale: Scale) -> list[str]:
    """List the levels that are numbers, as patterns."""
    return [re.escape(value) for value in scale.values if _NUMBER.fullmatch(value)]


def _list_words(scale: Scale) -> list[str]:
    """List the levels that are no numbers, longest first: "not good" must go before "good"."""
    return sorted((value for value in scale.values if not _NUMBER.fullmatch(value)), key=len, reverse=True)


def is_common(word: str) -> bool:
    """Whether a level's name is a letter or a word that texts are full of."""
    return len(word) == 1 or word.casefold() in _COMMON_WORDS


def _join_names(words: list[str]) -> str:
    """Match any of some names, however their words are joined."""
    return _join([r"[\s_-]+".join(map(re.escape, re.split(r"[\s_-]+", word))) for word in words])


def _join(patterns: list[str]) -> str:
    return f"(?:{'|'.join(patterns)})"
