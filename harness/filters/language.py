"""A filter by the language that a text is in."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from harness.core.record import Record
from harness.core.text import words
from harness.errors import UsageError, nearest
from harness.filters.base import Context, Needs, On, Rule, each_part, each_row
from harness.records import Row, Verdict

NO_LANGUAGE = "zxx"  # what the model calls formulas, code and numbers
TELLING = 0.2  # of the likeliest language, below which the model cannot tell: "Wrong VAT rate" has 0.07 for its first


class Language(Record):
    """Drops a text that is most likely in none of the languages allowed. Nothing is said of very short texts.

    A text is read as a whole, so that a few words of another language in it do not count.
    """

    needs: ClassVar = Needs()

    kind: Literal["language"] = "language"
    languages: Annotated[tuple[str, ...], Field(min_length=1)]  # ISO 639 codes, such as en and de
    min_words: Annotated[int, Field(ge=1)] = 4  # a part of fewer words with letters is kept unread
    min_probability: Annotated[float, Field(gt=0, lt=1)] = 0.05  # of the languages together, below which it is dropped
    on: On = "both"  # input and answer, each by itself

    def prepare(self, context: Context) -> Rule:
        """Loads the model of py3langid (a naive Bayes over byte n-grams, Lui and Baldwin 2012), which comes with it.

        The score is the probability of the languages together, of the worse part. `against` is the likeliest language.
        By default it drops none of the 1,556 English texts of 4 words and more in the shipped suites (one of the last
        400, until it was asked to be sure). Before that it dropped all of 47 such sentences in ten other languages, of
        which the tests have 13. Raises UsageError for a language that the model does not know.
        """
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError as error:
            raise UsageError("language: it needs py3langid, which is not installed: make setup EXTRAS=train") from error
        model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        for code in self.languages:
            if code not in model.labels:
                hint = f"{nearest(code, model.labels)}; there are: {', '.join(sorted(model.labels))}"
                raise UsageError(f"language: languages: {code!r} is no code that the model knows{hint}")
        return each_row(lambda row: self._verdict(row, model))

    def _verdict(self, row: Row, model: Any) -> Verdict:
        allowed = {*self.languages, NO_LANGUAGE}
        score, likeliest = 1.0, ""
        for text in each_part(row.example, self.on):
            if sum(map(_has_letters, words(text))) < self.min_words:
                continue
            ranked = model.rank(text)  # the likeliest first
            probability = sum(chance for code, chance in ranked if code in allowed)
            if probability < self.min_probability and ranked[0][1] < TELLING:
                continue
            if probability < score or not likeliest:
                score, likeliest = probability, ranked[0][0]
        keep = not likeliest or score >= self.min_probability
        reason = ""
        if not keep:
            reason = f"it reads as {likeliest}: {'/'.join(self.languages)} has a probability of {score:.3f}"
            reason += f", at least {self.min_probability:g} wanted"
        return Verdict(
            row=row.id,
            filter=self.kind,
            keep=keep,
            reason=reason,
            score=score if likeliest else None,
            against=likeliest,
        )


def _has_letters(word: str) -> bool:
    return any(character.isalpha() for character in word)
