"""Does an answer say that it does not know? The one list of phrases, kept here.

Patterns are matched against `text.normalise`: one case, no sentence marks, no apostrophes ("don't" is "dont"). They
name who does not know or what is not told, so that "the shop does not provide helmets" stays an answer.
"""

from __future__ import annotations

import re

from harness.core.text import normalise

_SOURCE = (
    r"(?:text|handbook|document|documents|passage|context|manual|page|question|source|article|policy|it|this|that)"
)
_TOLD = r"(?:stated|mentioned|specified|disclosed|documented|known|told|indicated|answered|determined|clear from)"
_KNOWLEDGE = r"(?:information|info|details?|data|answers?|records?|knowledge|mention|way to (?:know|tell|answer|say))"
_AFTER = r"about|on|of|for|in|is|are|was|available|given|provided|found|stated|here|to|whether|who|what|how"
_NOT = r"(?:not|never)"

PATTERNS = (
    r"\b(?:i|we|you) (?:\w+ )?(?:do not|dont|did not|didnt|would not|wouldnt) (?:\w+ )?know\b",
    r"^(?:do not|dont) know\b",
    r"^(?:i am|im|we are|were)? ?(?:not sure|not certain|not aware|unsure|uncertain)\b",
    r"\b(?:i am|im|we are) (?:\w+ )?(?:not sure|not certain|not aware|unsure|uncertain|unaware|unable)\b",
    rf"^{_NOT} {_TOLD}\b",
    rf"\b(?:is|are|was|were|has|have|been|being|be) {_NOT} (?:been )?(?:\w+ )?{_TOLD}\b",
    rf"\b(?:isnt|arent|wasnt|werent|hasnt been|havent been) (?:\w+ )?{_TOLD}\b",
    rf"\b(?:cannot|can not|cant|could not|couldnt) be {_TOLD}\b",
    rf"\b{_SOURCE} (?:does not|doesnt|do not|dont|did not|didnt) (?:\w+ )?"
    r"(?:say|mention|state|specify|tell|answer|cover)\b",
    rf"\b{_SOURCE} (?:does not|doesnt|do not|dont) (?:\w+ )?(?:give|provide|contain|include|have|offer) (?:\w+ ){{0,3}}"
    rf"{_KNOWLEDGE}\b",
    rf"^(?:there is |there are |sorry )?(?:no|not enough|insufficient) (?:\w+ )?{_KNOWLEDGE}(?: (?:{_AFTER})\b|$)",
    rf"\bthere (?:is|are|was) (?:no|not enough|insufficient|not any) (?:\w+ )?{_KNOWLEDGE}\b",
    r"\b(?:i|we) (?:have|had) no (?:idea|clue|(?:\w+ )?information|knowledge|record|data|way)\b",
    r"\b(?:i|we) (?:do not|dont) have (?:\w+ ){0,4}(?:information|info|details?|data|access|knowledge|answer)\b",
    r"\b(?:i|we) (?:cannot|can not|cant|could not|couldnt|am not able to|are not able to) "
    r"(?:\w+ )?(?:answer|say|tell|know|find|determine|confirm|provide|help|assist)\b",
    r"\b(?:information|answer|details?) (?:is|are|was) (?:not|un)\s?(?:available|provided|given|included|known)\b",
    r"^(?:the answer is )?(?:unknown|unanswerable|undisclosed|unspecified)(?: to me)?$",
    r"^(?:n/?a|no answer|no idea|no clue|not available|not applicable|none given)$",
    r"\b(?:beyond|outside) my knowledge\b",
)

_PATTERNS = tuple(re.compile(pattern) for pattern in PATTERNS)


def abstains(text: str) -> bool:
    """Whether `text` says that the answer is not known. An empty text says nothing, so it does not abstain.

    By phrases, so both errors happen: an abstention in other words is missed, and an answer that quotes one of
    these phrases is taken for one. tests/test_answers.py keeps a list of each.
    """
    clean = normalise(text)
    return any(pattern.search(clean) for pattern in _PATTERNS)
