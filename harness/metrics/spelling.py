"""Misspelt words of an English text: lower-case words that no dictionary knows.

The dictionary is pyspellchecker's, American and made of film subtitles. The British forms of its words count as
known, and some words that are younger than it. Nothing is corrected: a word is looked up, which is fast.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from harness.errors import MachineError

# What is no prose: code, addresses, what is quoted (somebody else's words, or a word that is talked about).
LEFT_OUT = re.compile(
    r"```.*?(?:```|\Z)"  # a block of code, also one that was cut
    r"|`[^`\n]*`"
    r"|(?:https?://|www\.)\S+"
    r"|\S+@\S+"
    r"|[\"“„][^\"“”„\n]*[\"”]"
    r"|(?<!\w)['‘][^'‘’\n]*['’](?!\w)"
    r"|\S*(?:[_/\\<>{}=#$%&*^~|@]|\w\.\w|\w\()\S*",  # paths, identifiers, calls, markup, 3.5
    re.DOTALL,
)
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

# British ending or inner spelling -> American; tried when a word is unknown, one change at a time.
BRITISH = (
    ("our", "or"),
    ("ise", "ize"),
    ("isi", "izi"),
    ("isa", "iza"),
    ("yse", "yze"),
    ("ysi", "yzi"),
    ("tre", "ter"),
    ("bre", "ber"),
    ("lled", "led"),
    ("lling", "ling"),
    ("ller", "ler"),
    ("llery", "lry"),
    ("ilful", "illful"),
    ("lfil", "lfill"),
    ("nrol", "nroll"),
    ("ogue", "og"),
    ("fence", "fense"),
    ("icence", "icense"),
    ("etence", "etense"),
    ("judgement", "judgment"),
    ("ledgement", "ledgment"),
    ("aero", "air"),
    ("aed", "ed"),
    ("aest", "est"),
    ("chae", "che"),
    ("haem", "hem"),
    ("foet", "fet"),
    ("noeuvre", "neuver"),
    ("entred", "entered"),
    ("grey", "gray"),
    ("mould", "mold"),
    ("plough", "plow"),
    ("tyre", "tire"),
    ("pyjama", "pajama"),
    ("programme", "program"),
    ("cheque", "check"),
    ("sceptic", "skeptic"),
)
_YOUNG = (
    "analytics app apps backend blockchain chatbot chatbots checkbox checkboxes crowdfunding cybersecurity "
    "dataset datasets declutter decluttering dreamt ebook ebooks emoji emojis esports fairtrade frontend gamify "
    "hashtag hashtags helpdesk inbox influencer influencers kerb kerbs livestream logins logout malware memes "
    "metadata microplastic microplastics onboarding pixelated playlist playlists podcasts popup popups powerbank "
    "recalibrated rideable screenshot screenshots selfie selfies signup smartphone smartphones smartwatch "
    "smartwatches timelines todo touchpad unboxing unfollow usb usernames vlog vlogs walkthrough webcam webcams "
    "webinar webinars webpages wifi woollen workflow workflows "
)


@dataclass(frozen=True)
class Spelling:
    """What was looked up in one text."""

    checked: int  # lower-case words of prose
    misspelt: tuple[str, ...]  # those that are unknown, in order, repeats included

    @property
    def rate(self) -> float | None:
        """Misspelt over checked, 0 to 1, or None when no word was checked."""
        return len(self.misspelt) / self.checked if self.checked else None


def english() -> frozenset[str]:
    """The known words, about 160,000, with and without their accents (loading takes a third of a second).

    Raises MachineError when pyspellchecker is not installed.
    """
    try:
        from spellchecker import SpellChecker
    except ImportError as error:
        raise MachineError(
            "the misspelling rate needs the dictionary of the Python package pyspellchecker, which is not installed"
            " here: `pip install pyspellchecker`"
        ) from error
    words = set(SpellChecker(language="en"))
    return frozenset(words | {_plain(word) for word in words if not word.isascii()}) | frozenset(_YOUNG.split())


def spelling(text: str, dictionary: frozenset[str], also: frozenset[str] = frozenset()) -> Spelling:
    """Look up every lower-case word of the prose in `text`. `also` are words right here (those of the prompt).

    Left out: words with a capital (a name, an abbreviation, the first of a sentence, which may be a name), with a
    digit or of one letter, code, addresses, identifiers and whatever stands in quotes. Parts of a word with a
    hyphen are looked up each.
    """
    checked = [w for w in _prose(text) if len(w) > 1 and w == w.lower() and w.replace("'", "").isalpha()]
    wrong = tuple(word for word in checked if word not in also and not _is_known(word, dictionary))
    return Spelling(len(checked), wrong)


def words_of(text: str) -> frozenset[str]:
    """The words of a text in lower case, for `also`: an answer may use what the prompt uses."""
    return frozenset(word.lower() for word in WORD.findall(text.replace("’", "'")))


def _prose(text: str) -> Iterator[str]:
    plain = unicodedata.normalize("NFC", LEFT_OUT.sub(" ", text)).replace("’", "'")
    yield from WORD.findall(plain)


def _is_known(word: str, dictionary: frozenset[str]) -> bool:
    stem = re.sub(r"'(?:s|ll|d|ve|re)$", "", word)
    forms = (word, stem, _plain(word))
    return any(form in dictionary for form in forms) or any(form in dictionary for form in _american(stem))


def _american(word: str) -> Iterator[str]:
    for british, american in BRITISH:
        if british in word:
            yield word.replace(british, american)


def _plain(word: str) -> str:
    """Without its accents: cafe for café."""
    return "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
