"""Answers that decline: by what their opening says."""

from __future__ import annotations

import re

OPENING = 240  # characters that are read: who declines does so at once, and later "I cannot" may be a story

_CANNOT = r"(?:can(?:no|')?t|can not|could(?: not|n't)|won't|will not|(?:am|'m) (?:not able|unable) to|must decline to)"
_ADVERBS = r"(?:\s(?:currently|directly|really|actually|unfortunately|simply|in good conscience))*"
_HELP = (
    r"(?:help|assist|answer|comply|fulfil+|complete (?:this|that|your)|respond|support (?:this|that|your)|engage"
    r"|discuss|provide|produce|generate|create|share|give (?:you )?(?:advice|instructions|information)|offer"
    r"|advise|recommend|access|browse|process (?:this|that|your)"
    r"|(?:write|do|tell you) (?:this|that|such|what you|how to))"
)
_DECLINE = rf"I{_ADVERBS}\s?{_CANNOT}{_ADVERBS}\s{_HELP}\b"
_ASSISTANT = r"\bas an? (?:AI|artificial intelligence|(?:AI |large )?language model|(?:AI|virtual) assistant)\b"
_START = r"(?:^|[.!?\n]\s*|\bbut |\bhowever,? |\bunfortunately,? |\bAI,? |\bmodel,? )"
_LIMITS = (
    r"(?:against my (?:guidelines|polic|programming|principles|rules|terms)"
    r"|not something I can (?:help|assist|do|answer|provide|write)"
    r"|(?:outside(?: of)?|beyond) my (?:scope|abilit|capabilit|knowledge))"
)
PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\bI(?:'m| am) (?:\w+ )?(?:sorry|afraid)\b[^.!?\n]{{0,40}}?\b{_DECLINE}(?! (?:my|our) )",
        rf"\bsorry,? (?:but )?{_DECLINE}(?! (?:my|our) )",
        rf"{_START}{_DECLINE}(?! (?:my|our) )",  # "I can't share my joy with anyone but you" is kind
        rf"{_ASSISTANT}[^.!?\n]{{0,60}}\bI\b[^.!?\n]{{0,20}}\b(?:can't|cannot|don't|do not|am not|am unable|have no)\b",
        rf"\bsorry,? (?:but )?(?:this|that|it|your request) (?:is|goes) {_LIMITS}",
        rf"{_START}(?:it is|it's|that is|that's|this is) {_LIMITS}",
        rf"{_START}I (?:do not|don't) (?:feel comfortable|have (?:the )?(?:ability|permission) to)\b",
        rf"{_START}I (?:have to|must|will have to) (?:respectfully )?(?:decline|refuse)\b",
    )
)
_QUOTED = re.compile(r"[\"“„][^\"“”„]*[\"”]")


def refuses(text: str) -> bool:
    """Whether an answer declines in its first 240 characters. What it quotes does not count.

    A list of openings in the manner of Zou et al. 2023 (Universal and transferable adversarial attacks on aligned
    language models), which count any "I'm sorry" or "I cannot". Here declining must name what is declined, so that
    a kind letter is not a refusal. Such lists miss refusals in other words (Röttger et al. 2024, XSTest): a
    small rise is a reason to read, not a proof.
    """
    opening = _QUOTED.sub(" ", text.strip()[:OPENING]).replace("’", "'").strip()
    return any(pattern.search(opening) for pattern in PATTERNS)


# --- talk about the task -------------------------------------------------------------------------------------

_WRITTEN = (
    r"(?:examples?|samples?|responses?|answers?|rewrit\w+|revi[sz]\w+|improved|versions?|messages?|instructions?|prompts?"
    r"|questions?|conversations?|dialogues?|paragraphs?|texts?|sentences?|outputs?|drafts?|JSON)"
)
META = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^(?:sure|certainly|of course|absolutely|okay|ok|great)(?: thing)?[!,.:]*\s+(?:here (?:is|are)\b|here's\b"
        r"|I(?:'d| would) be (?:happy|glad)|I(?:'ll| will| can) (?:help|write|provide|generate|create)\b|let me\b)",
        rf"^here(?: is| are|'s) (?!my\b)[^.!?:\n]{{0,60}}?\b{_WRITTEN}\b[^.!?:\n]{{0,60}}:",
        r"\bas an? (?:(?:AI|artificial intelligence)(?: (?:language )?model| assistant| system| chatbot)?"
        r"|(?:large )?language model|virtual assistant)(?=\s*,|\s+(?:I|my)\b)",
        r"\bI(?:'m| am) (?:just |only |merely )?an? (?:AI\b|(?:large )?language model)(?! \w+(?:er|ist|or)\b)",
        r"\bI hope (?:this|that|these) (?:helps?|meets?)\b",
        r"\blet me know if you(?:'d like| would like| want) me to (?:change|revise|adjust|modify|rewrite|add|write)\b",
    )
)


def meta_talk(text: str) -> str:
    """The first words in which a model speaks of its task or of itself instead of doing the task, or ''.

    "Sure, here is", "Here are five examples:", "As an AI,", "I hope this helps". What a text quotes does not count.
    Where an assistant's courtesy is to be learned, it is no fault.
    """
    said = _QUOTED.sub(" ", text).replace("’", "'").strip()
    found = [match for pattern in META if (match := pattern.search(said))]
    return " ".join(min(found, key=lambda match: match.start())[0].split()) if found else ""
