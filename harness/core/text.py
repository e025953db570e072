"""Normalising, n-grams and similarity of texts: shared by filters and scoring. Imports nothing of ours.

Likeness is the Jaccard index of sets of shingles (Broder 1997, "On the resemblance and containment of
documents").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

T = TypeVar("T")
Shingles = frozenset[str]

SHINGLE = 4  # characters; the reason is in `shingles`
EXACT_CELLS = 4_000_000  # up to 2,000 x 2,000 texts every pair is compared, so nothing can be missed
LIKELY_TEXTS = 1_000  # texts that references are indexed for where their number is not known before
CHUNK_CELLS = 2_000_000  # cells of one slice of that comparison: a few tens of MiB
PERMUTATIONS = 240  # of a MinHash; has many divisors, so that bands fit any threshold
RECALL = 0.999  # chance that a pair just at the threshold becomes a candidate

_SURROGATE = re.compile("[\ud800-\udfff]")
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")

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


def named_label(text: str, labels: Sequence[str]) -> str | None:
    """The label an answer gives: it is the label, or the only label among its words, else None.

    Generous on purpose: an untuned model that writes "Topic: billing." has answered. Of labels inside one another, such
    as `bike` and `bike theft`, the longest one that the answer says is meant.
    """
    names = {normalise(label): label for label in labels}
    clean = normalise(text)
    if clean in names:
        return names[clean]
    apart = clean.replace("/", " ")  # "billing/refund" names two
    # "**billing" names one, unless A* is a label
    for answer in (f" {clean} / {apart} ", f" {apart.replace('*', ' ')} "):
        named = sorted((name for name in names if f" {name} " in answer), key=len)
        if named:
            return names[named[-1]] if all(f" {name} " in f" {named[-1]} " for name in named) else None
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


@dataclass(frozen=True)
class Twin:
    """The text that another is a near duplicate of."""

    index: int  # its place in the list that was searched
    score: float  # Jaccard index of the two shingle sets, 0 to 1


def similar_pairs(
    texts: Sequence[str], references: Sequence[str], threshold: float, exact_cells: int = EXACT_CELLS
) -> Iterator[tuple[int, int, float]]:
    """(place in `texts`, place in `references`, Jaccard) of all pairs at or above `threshold`.

    Up to `exact_cells` pairs all are compared: that takes under a second and misses none. Above that, MinHash
    bands propose the pairs (each true one with a chance of at least 0.999), and the exact index decides.
    Raises ValueError for a threshold outside (0, 1].
    """
    return _search(references, threshold, len(texts), exact_cells)([shingles(text) for text in texts])


class Nearest:
    """Looks for each text's most alike reference. The references are indexed once, for texts that come in parts.

    What is found for a text does not depend on the texts beside it. Raises ValueError for a threshold outside (0, 1].
    """

    def __init__(self, references: Sequence[str], threshold: float) -> None:
        self._search = _search(references, threshold, LIKELY_TEXTS)

    def __call__(self, texts: Sequence[str]) -> list[Twin | None]:
        """For each text the most alike reference at or above the threshold (ties: the first), or None."""
        nearest: list[Twin | None] = [None] * len(texts)
        for i, j, score in self._search([shingles(text) for text in texts]):
            nearest[i] = _better(nearest[i], Twin(j, score))
        return nearest


def near_duplicates(texts: Sequence[str], threshold: float, exact_cells: int = EXACT_CELLS) -> list[Twin | None]:
    """For each text the earlier kept text it is most like, at or above `threshold`, or None: it is kept.

    First come stays. A text is compared with kept earlier ones only, so a chain of small changes does not
    eat everything: its members stay as soon as they differ enough from what was kept.
    """
    # equal texts are looked at once: a teacher that repeats itself would make quadratically many pairs
    first: dict[str, int] = {}
    place = [first.setdefault(normalise(text), i) for i, text in enumerate(texts)]
    unique = sorted(set(place))
    earlier: dict[int, list[Twin]] = {i: [] for i in unique}
    distinct = [texts[i] for i in unique]
    for i, j, score in similar_pairs(distinct, distinct, threshold, exact_cells):
        if j < i:
            earlier[unique[i]].append(Twin(unique[j], score))
    twin: list[Twin | None] = []
    for i, original in enumerate(place):
        best: Twin | None = None
        if original == i:
            for candidate in earlier[i]:
                if twin[candidate.index] is None:
                    best = _better(best, candidate)
        else:
            best = twin[original] or Twin(original, 1.0)
        twin.append(best)
    return twin


def _better(a: Twin | None, b: Twin) -> Twin:
    return b if a is None or (b.score, -b.index) > (a.score, -a.index) else a


Search = Callable[[Sequence[Shingles]], Iterator[tuple[int, int, float]]]


def _search(references: Sequence[str], threshold: float, texts: int, exact_cells: int = EXACT_CELLS) -> Search:
    """The references indexed for about so many texts, by the method that `similar_pairs` states."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold:g} must be above 0 and at most 1")
    right = [shingles(text) for text in references]
    if texts * len(right) <= exact_cells:
        return all_pairs(right, threshold)
    return minhash_pairs(right, threshold)


def all_pairs(right: Sequence[Shingles], threshold: float) -> Search:
    """Every pair, by a sparse matrix product in slices: shared[i, j] counts the shingles that both have."""
    import numpy as np

    column: dict[str, int] = {}
    for shingle in (s for text in right for s in text):
        column.setdefault(shingle, len(column))
    b = _incidence(right, column).T.tocsr()
    size_b = np.array([len(text) for text in right])
    step = max(1, CHUNK_CELLS // max(1, len(right)))

    def pairs(texts: Sequence[Shingles]) -> Iterator[tuple[int, int, float]]:
        size_a = np.array([len(text) for text in texts])
        for start in range(0, len(texts) if right else 0, step):
            shared = (_incidence(texts[start : start + step], column) @ b).tocoo()
            union = size_a[start + shared.row] + size_b[shared.col] - shared.data
            for k in np.flatnonzero(shared.data >= threshold * union - 1e-9):
                yield start + int(shared.row[k]), int(shared.col[k]), float(shared.data[k] / union[k])

    return pairs


def _incidence(texts: Sequence[Shingles], column: Mapping[str, int]) -> csr_matrix:
    """[texts, shingles of `column`] with 1 where the text has the shingle."""
    import numpy as np
    from scipy.sparse import csr_matrix

    places = [[column[s] for s in text if s in column] for text in texts]
    starts = np.cumsum([0, *map(len, places)])
    indices = [place for text in places for place in text]
    return csr_matrix((np.ones(len(indices), np.int32), indices, starts), shape=(len(texts), len(column)))


def minhash_pairs(right: Sequence[Shingles], threshold: float) -> Search:
    """Pairs that share a band of their MinHashes (rensa, fixed random seed), checked by the exact index."""
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(threshold, PERMUTATIONS, bands(threshold))
    index.insert_many(RMinHash.from_token_sets(right, PERMUTATIONS, 0))

    def pairs(texts: Sequence[Shingles]) -> Iterator[tuple[int, int, float]]:
        for start in range(0, len(texts), 4096):
            part = texts[start : start + 4096]
            hashes = RMinHash.from_token_sets(part, PERMUTATIONS, 0)
            for i, (text, proposed) in enumerate(zip(part, index.query_all(hashes), strict=True), start):
                for j in sorted(proposed):
                    score = jaccard(text, right[j])
                    if text and score >= threshold - 1e-9:
                        yield i, j, score

    return pairs


def bands(threshold: float) -> int:
    """The fewest bands of a MinHash that propose a pair at `threshold` with a chance of at least 0.999.

    With b bands of r values the chance is 1 - (1 - threshold^r)^b (Leskovec, Rajaraman, Ullman, "Mining of
    Massive Datasets", 3.4). Fewer, longer bands propose fewer pairs in vain.
    """
    for count in range(1, PERMUTATIONS):
        values, rest = divmod(PERMUTATIONS, count)
        if not rest and 1 - (1 - threshold**values) ** count >= RECALL:
            return count
    return PERMUTATIONS
