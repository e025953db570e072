"""Normalising, n-grams and similarity of texts: shared by filters and scoring. Imports nothing of ours.

Likeness is the Jaccard index of sets of shingles (Broder 1997, "On the resemblance and containment of
documents").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
Shingles = frozenset[str]

SHINGLE = 4  # characters; the reason is in `shingles`

_SURROGATE = re.compile("[\ud800-\udfff]")
_HAN_KANA, _THAI_TO_KHMER = "\u3040-\u30ff\u3400-\u9fff", "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_BY_TWOS, _BY_FOURS = re.compile(f"[{_HAN_KANA}]"), re.compile(f"[{_THAI_TO_KHMER}]")
_UNSPACED = re.compile(f"[〇零一二三四五六七八九十百千万億亿]+|[{_HAN_KANA}{_THAI_TO_KHMER}]")
WORD = re.compile(rf"[{_HAN_KANA}]|[^\s{_HAN_KANA}]+")

# --- characters that a file can hold ------------------------------------------------------------------------


def has_lone_surrogate(text: str) -> bool:
    """Whether half of a surrogate pair is in it: JSON can carry one, UTF-8 cannot."""
    return _SURROGATE.search(text) is not None


def printable(text: str) -> str:
    """`text` with a space for each control character but the line end: what a model wrote must not drive a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def one_line(text: str) -> str:
    """Text on one line: every run of white space and of control characters is one space."""
    return " ".join(printable(text).split())


def writable(text: str) -> str:
    """`text` with ? for each half of a surrogate pair."""
    return _SURROGATE.sub("?", text)


# --- typography: one way to write a character ---------------------------------------------------------------

_SAME = {
    **dict.fromkeys("‐‑‒–﹣－", "-"),  # the minus sign and the long dash depend on what stands around them
    **dict.fromkeys("'’‘‛ʼ`´′", "'"),
    **dict.fromkeys("“”„‟«»″", '"'),
    **dict.fromkeys("⁄∕", "/"),
    "٫": ".",
    "٬": ",",
}
_THIN = "\u00a0\u2007\u2008\u2009\u202f"  # spaces that group digits and part no words
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]+")
_LOW = "₀₁₂₃₄₅₆₇₈₉"
_SUBSCRIPT = re.compile(rf"(?<=\d)[{_LOW}]+|[{_LOW}]+(?=\d)")  # beside digits of another number; in H₂O it is a digit
_SPACED_GROUPS = re.compile(rf"(?<!\d)(?<!\d[.,])[1-9]\d{{0,2}}(?:[{_THIN}]\d{{3}}|'\d{{3}})+(?!\d)")
_SPACED_MINUS = re.compile(r"((?:^|[=(:,])\s*)−\s+(?=\.?\d)")  # after a value it subtracts
_LONG_MINUS = re.compile(r"(?<!\w)[—―](?=\.?\d)")


class _Plain(dict[int, str]):
    """For str.translate: a character in its plain form. Hidden characters go. Digits of any script are 0 to 9."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category, compatible = unicodedata.category(character), unicodedata.normalize("NFKC", character)
        if character in _SAME:
            written = _SAME[character]
        elif category == "Cf" or 0xFE00 <= code <= 0xFE0F:  # a zero-width space must not hide a copy
            written = ""
        elif category == "Nd":
            written = str(unicodedata.decimal(character))
        elif compatible != character and character not in _LOW and any(c.isdigit() for c in compatible):
            # ½ after a 2 is not 21/2
            written = f" {compatible.replace('⁄', '/')} ".replace("/ ", "/")
        else:
            written = character
        self[code] = written
        return written


_PLAIN = _Plain()


def plain(text: str) -> str:
    """`text` in one typography: NFKC, plain quotes, dashes and digits, 10³ as 10^3, 2½ as 2 1/2, 1 000 (thin space)
    as 1000. Case, words and punctuation stay.
    """
    raised = _SUPERSCRIPT.sub(lambda run: "^" + unicodedata.normalize("NFKC", run[0]).replace("−", "-"), text)
    lowered = _SUBSCRIPT.sub(lambda run: f" {run[0]} ", raised)
    digits = _SPACED_GROUPS.sub(lambda number: re.sub(r"\D", "", number[0]), lowered.translate(_PLAIN))
    signed = _LONG_MINUS.sub("-", _SPACED_MINUS.sub(r"\1-", unicodedata.normalize("NFKC", digits)))
    return signed.replace("−", "-").replace("—", " ").replace("―", " ")


# --- normalising: what makes no difference is dropped -------------------------------------------------------

_VALUED = "#%&*/@§‰"  # punctuation by its category that changes what is said: C#, 5%, R&D, km/h
_BY_PLACE = "-.,:'\""  # punctuation that carries value in some places: _MARK says where
_VALUELESS = "|´¨˜¯¸©®™"  # symbols by their category that do not


class _Bare(dict[int, str]):
    """For str.translate: letters, digits and what may carry value stay. Other punctuation becomes a space."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        stays = character in _VALUED + _BY_PLACE or (
            unicodedata.category(character)[0] in "LMNS" and character not in _VALUELESS
        )
        self[code] = character if stays else " "
        return self[code]


_BARE = _Bare()
_QUOTED = re.compile(r"(?<!\w)(['\"])(?=\S)([^\"\n]{1,200}?)(?<=\S)\1(?!\w)")
_EMPHASISED = re.compile(r"(?<![\w*])(\*{1,3})(?=[^\s*])([^\n]{1,200}?)(?<=[^\s*])\1(?![\w*])")
_MARKUP = re.compile(r"^\s*(?:\*|#+)\s", re.MULTILINE)  # a bullet, a heading
_GROUPS = re.compile(r"(?<!\d)(?<!\d[.,'])(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3})(?!,?\d)")
_INITIALS = re.compile(r"(?<!\w)[^\W\d_](?:\.[^\W\d_])+(?!\w)")  # U.S.
_HYPHEN = re.compile(r"(?<=[^\W_])-(?=[^\W\d_])|(?<=[^\W\d_])-(?=\d)")  # inside a word: e-mail, B-3
_SPACED_HYPHEN = re.compile(r"(?<=\d) +- +(?=\d++(?!\w))")  # a range, a difference
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])'(?=[^\W\d_])")
_MARK = re.compile(
    r"""(?P<valued>
      (?<=\d)[-.,:'](?=\d)            # 1.5, 10:30, 3-4
    | (?<![\w.])\.(?=\w)              # .5, .NET
    | (?<!\w)-(?=\.?\d)              # a sign
    | (?<!\w)-(?=[^\W\d_](?!\w))     # of a variable
    | (?<=\b[^\W\d_])-(?!\w)         # a grade, a blood group
    | (?<=\b[^\W\d_]{2})-(?!\w)      # an ion
    | (?<=\d)['"](?!\w)              # feet, inches
    ) | [-.,:'"]""",
    re.VERBOSE,
)
_TIGHT = (  # spaces that change nothing
    (re.compile(r"(?<=\d) *([+×÷*/^]) *(?=\d)"), r"\1"),
    (re.compile(r" *([<>≤≥±~≈]) *(?=[-+.$€£¥]?\d)"), r" \1"),
    (re.compile(r"(?<=\d) +(?=[%‰°])|(?<=[$€£¥]) +(?=\d)"), ""),
    (re.compile("="), " = "),
    (re.compile(r"(?<![\w.])(?<!\w-)\.(?=\d)"), "0."),
)


# most texts are words, plain numbers and sentence marks: the patterns above would change nothing else in them
_SIMPLE = re.compile(
    r"(?:[a-zA-Z\s,;:!?()]++|(?<!\S)\d++(?!\S)|\.(?=\s|\Z)|(?<=[a-zA-Z])['’-](?=[a-zA-Z]))++", re.ASCII
)
_SENTENCE_MARKS = str.maketrans(dict.fromkeys(",;:!?().", " ") | dict.fromkeys("'’", ""))


def normalise(text: str, hyphen: str = " ") -> str:
    """`text` in one case and one typography, without what makes no difference, words set apart by one space.

    Dropped: punctuation of sentences, quotes, brackets, emphasis, apostrophes in words, commas that group digits.
    Kept is what carries value: a sign, a decimal point, operators, C++, 10:30, 5%, A-. A hyphen inside a word becomes
    `hyphen`. A text of nothing but punctuation stays as it is (folded), so that two different ones are not equal.
    """
    if _SIMPLE.fullmatch(text):
        return " ".join(text.lower().replace("-", hyphen).translate(_SENTENCE_MARKS).split()) or " ".join(text.split())
    folded = unicodedata.normalize("NFKC", plain(text).casefold())
    unquoted = _MARKUP.sub(" ", _EMPHASISED.sub(r"\2", _QUOTED.sub(r"\2", folded)))
    joined = _INITIALS.sub(_without("."), _GROUPS.sub(_without(","), unquoted))
    hyphened = _HYPHEN.sub(hyphen, _SPACED_HYPHEN.sub("-", joined))
    bare = _APOSTROPHE.sub("", hyphened).translate(_BARE)
    tight = _MARK.sub(lambda mark: mark["valued"] or " ", bare)
    for pattern, replacement in _TIGHT:
        tight = pattern.sub(replacement, tight)
    return " ".join(tight.split()) or " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _without(mark: str) -> Callable[[re.Match[str]], str]:
    return lambda match: match[0].replace(mark, "")


def words(text: str) -> list[str]:
    """The normalised words of `text`, in order. A Han or Kana character counts as a word of its own."""
    return WORD.findall(normalise(text))


def with_spaces(text: str) -> str:
    """`text` with a space around each character of a script that puts none between words. Han numerals are one word.

    There a character is the smallest part that means something, but for numbers: 3 (三) is no part of 13 (十三).
    """
    return text if text.isascii() else _UNSPACED.sub(r" \g<0> ", text)


def spaced(text: str, hyphen: str = " ") -> str:
    """`text` normalised, its words as `with_spaces` parts them: so answers are compared."""
    return normalise(with_spaces(text), hyphen)


def is_unspaced(text: str) -> bool:
    """Whether something in it is of a script that puts no spaces between words."""
    return _UNSPACED.search(text) is not None


def is_one_character(text: str) -> bool:
    """Whether it is a single such character, which may be a part of many words: 是 (it is) of 不是 (it is not)."""
    return _UNSPACED.fullmatch(text.strip()) is not None


def about_words(text: str) -> float:
    """About how many words a text has: two Han or Kana characters are one, four of Thai, Lao, Burmese or Khmer."""
    by_twos, by_fours = len(_BY_TWOS.findall(text)), len(_BY_FOURS.findall(text))
    others = _BY_FOURS.sub(" ", _BY_TWOS.sub(" ", text)).split()
    return sum(any(map(str.isalnum, word)) for word in others) + by_twos / 2 + by_fours / 4


def named_label(text: str, labels: Sequence[str]) -> str | None:
    """The label an answer gives: it is the label, or the only label among its words, else None.

    Generous on purpose: an untuned model that writes "Topic: billing." has answered. Of labels inside one another, such
    as `bike` and `bike theft`, the longest one that the answer says is meant. Where a script has no spaces, a label may
    stand anywhere, if it has more than one character.
    """
    names = {normalise(label): label for label in labels}
    clean = normalise(text)
    if clean in names:
        return names[clean]
    apart = clean.replace("/", " ")  # "billing/refund" names two
    # "**billing" names one, unless A* is a label
    answers = [(names, f" {clean} / {apart} "), (names, f" {apart.replace('*', ' ')} ")]
    if is_unspaced(text):
        answers.append(({spaced(label): label for label in labels if not is_one_character(label)}, f" {spaced(text)} "))
    for known, answer in answers:
        named = sorted((name for name in known if f" {name} " in answer), key=len)
        if named:
            return known[named[-1]] if all(f" {name} " in f" {named[-1]} " for name in named) else None
    return None


def ngrams(items: Sequence[T], n: int) -> list[tuple[T, ...]]:
    """All runs of `n` consecutive items, in order. Empty when there are fewer than `n`."""
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


def shingles(text: str, n: int = SHINGLE) -> Shingles:
    """The set of character n-grams of the normalised text, with one space before and after it.

    A text shorter than that is its own single shingle. Only an empty text has none.

    Four characters, because the texts here are short. On 275 help messages of 7 to 16 words, changed by a
    program, a Jaccard index of 0.8 catches 96% of single typos, 99% of plurals, 90% of one word left
    out, 56% of one word replaced and 7% of two replaced, and no shuffled text. Two different messages reach
    0.48 at most. Five characters catch 88, 94, 79, 38 and 3%. Words with word pairs miss 60% of the typos.
    """
    clean = normalise(text)
    padded = f" {clean} "
    if len(padded) <= n:
        return frozenset([padded] if clean else [])
    return frozenset(padded[i : i + n] for i in range(len(padded) - n + 1))


def jaccard(a: Shingles, b: Shingles) -> float:
    """Shared elements over all elements, 0 to 1. Two empty sets are alike."""
    if not a and not b:
        return 1.0
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)
