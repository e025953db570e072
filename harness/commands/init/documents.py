"""From documents to a run: a teacher asks about most of them, and gaps in the sentences of the others are the items.

Nobody has written questions yet, so that the items are made by rule: a sentence of a held-out piece with a word left
out, and the piece to find it in. Of some items the sentence is from another piece: then it does not say.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.commands.init.files import lines, power_words, teacher_lines, yaml_text
from harness.commands.init.plan import ALSO, Wishes
from harness.commands.init.split import hold_out, units_of
from harness.core.record import digest
from harness.core.text import one_line
from harness.data.documents import Documents, Piece, read_documents
from harness.errors import UsageError
from harness.records import Example, Item
from harness.suites.shaped import located

WORDS = 120  # of a piece
FEWEST = 8  # pieces
FEW_FILES = 6  # below which headings, and not files, say which pieces belong together
SUITE, SHARE = 160, 1 / 4  # items wanted, and the share of the pieces that is held out at most
UNANSWERABLE = 4  # every so many-th item asks for what its piece does not say
NOT_SAID = "It does not say."
SENTENCE = re.compile(r"[^.!?\n]{20,300}[.!?]")
WORD = re.compile(r"[^\W_][\w'-]*(?:[.,]\d+)*")
FILE = re.compile(r"(:\d+|, page \d+|, word \d+)+$")
SYSTEM = f"Answer the question from the document, in as few words as possible. If it does not tell, answer: {NOT_SAID}"


@dataclass(frozen=True)
class Gap:
    """A sentence with a word left out."""

    sentence: str
    word: str


@dataclass(frozen=True)
class DocumentPlan:
    """All that the files say."""

    wishes: Wishes
    pieces: tuple[Piece, ...]  # for rows
    items: tuple[Item, ...]
    held: int  # pieces that are held out
    also: tuple[str, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of students."""
        return self.wishes.stated_sizes or ((0, 16, 64, 256) if self.wishes.teacher else (0, 16, 64))


def decide_documents(wishes: Wishes, path: Path, root: Path, remarks: list[str]) -> DocumentPlan:
    """Everything, from a folder or file. Raises UsageError for what cannot be read, and for too few pieces."""
    folder = path.resolve()
    pieces = read_documents(Documents(path=folder.name, words=WORDS), folder.parent, "--from", remarks.append)
    unlike = tuple({" ".join(piece.text.split()): piece for piece in pieces}.values())
    if len(unlike) < FEWEST:
        raise UsageError(
            f"--from {path}: {len(unlike)} pieces of up to {WORDS} words are too few: {FEWEST} at least, for some are"
            " held out as questions"
        )
    wanted = min(wishes.items or SUITE, max(int(len(unlike) * SHARE), 2))
    held = held_out(unlike, wanted)
    gaps = {place: gap for place in held if (gap := gap_of(unlike[place].text))}
    items = gap_items(unlike, gaps, held)
    if {item.split for item in items} != {"dev", "test"}:
        raise UsageError(f"--from {path}: {len(items)} items can be made of {len(held)} held-out pieces: too few")
    also = tuple(name for name in ALSO if (root / f"suites/{name}.yaml").is_file())
    rest = tuple(piece for place, piece in enumerate(unlike) if place not in held)
    return DocumentPlan(wishes, rest, items, len(held), also)


def held_out(pieces: Sequence[Piece], wanted: int) -> dict[int, str]:
    """Place -> group of the pieces that no row is written about: whole files, or sections where files are few."""
    files = [FILE.sub("", piece.source) for piece in pieces]
    many = len(set(files)) >= FEW_FILES
    groups = [
        file if many else f"{file} {piece.title}" if piece.title else ""
        for file, piece in zip(files, pieces, strict=True)
    ]
    units = units_of([piece.text for piece in pieces], groups)
    digests = [digest("held out", piece.text) for piece in pieces]
    held = hold_out(units.members, digests, [""] * len(pieces), wanted)
    return {place: digests[unit[0]][:8] if len(unit) > 1 else "" for unit in held for place in unit}


def gap_of(text: str) -> Gap | None:
    """A sentence with its most telling word left out: a number, a name, else a long word. It stands in the text once.

    None where there is no such word.
    """
    count = Counter(word.casefold() for word in WORD.findall(text))
    best: tuple[tuple[int, int, str], Gap] | None = None
    for sentence in SENTENCE.findall(text):
        clean = " ".join(sentence.split())
        for i, match in enumerate(WORD.finditer(clean)):
            word = match[0]
            kind = 2 if word[0].isdigit() else 1 if i and word[0].isupper() else 0
            if count[word.casefold()] != 1 or not (kind or len(word) > 5):
                continue
            rank = (kind, len(word), digest("gap", clean, word))
            if best is None or rank > best[0]:
                best = (rank, Gap(f"{clean[: match.start()]}___{clean[match.end() :]}", word))
    return best[1] if best else None


def gap_items(pieces: Sequence[Piece], gaps: dict[int, Gap], groups: dict[int, str]) -> tuple[Item, ...]:
    """An item for each gap, and for every fourth one more about a piece that its sentence is not from."""
    places = sorted(gaps, key=lambda place: digest("gap item", pieces[place].text))
    items = [_item(pieces[place], gaps[place], gaps[place].word, groups[place], "answered") for place in places]
    for i in range(0, len(places) - 1, UNANSWERABLE):
        place, other = places[i], places[i + 1]
        if gaps[other].word.casefold() not in pieces[place].text.casefold():
            items.append(_item(pieces[place], gaps[other], NOT_SAID, groups[place], "unanswerable"))
    return tuple(items)


def _item(piece: Piece, gap: Gap, answer: str, group: str, tag: str) -> Item:
    fields = {"document": piece.text.strip(), "question": f"Which word is missing? {gap.sentence}"}
    of_piece = group or digest("piece", piece.text)[:8]  # two items may be about one piece
    return located("", Example(fields=fields, answer=answer), answers=(answer,), group=of_piece, tags=(tag,))[1]


# --- the files ---------------------------------------------------------------------------------------------------

ASK = """\
{% if kind == "answered" %}
Read the passage. Write one question that it answers, and the answer in the passage's own words.
{% else %}
Read the passage. Write one question about the same thing that the passage does not answer.
{% endif %}

Passage: {{ document.text }}
"""


def document_files(plan: DocumentPlan, origin: str, remarks: Sequence[str]) -> dict[str, str]:
    """Path -> content."""
    name = plan.wishes.name
    task = [
        "# What the student is asked to do. Every prompt begins with `system`; rows and items answer so where the",
        f"# document does not tell: {NOT_SAID}",
        f"system: {yaml_text(plan.wishes.system or SYSTEM)}",
        "fields: [document, question]",
    ]
    return {
        f"prompts/{name}/task.yaml": "\n".join(task) + "\n",
        f"prompts/{name}/ask.j2": ASK,
        f"prompts/{name}/documents.jsonl": lines(
            [{"title": f"{piece.source} {piece.title}".strip(), "text": piece.text} for piece in plan.pieces]
        ),
        f"suites/{name}.jsonl": lines(
            [
                {**item.fields, "answer": item.answers[0], "group": item.group, "tags": list(item.tags)}
                for item in plan.items
            ]
        ),
        f"suites/{name}.yaml": _suite_file(plan, origin),
        f"runs/{name}.yaml": _run_file(plan, origin, remarks),
    }


def _suite_file(plan: DocumentPlan, origin: str) -> str:
    tests = sum(item.split == "test" for item in plan.items)
    text = [
        f"# {len(plan.items)} items on {plan.held} pieces of {origin} that no row is about: a sentence with a gap, and",
        "# the piece to find the word in. They are made by rule, since nobody has written questions yet. Questions of",
        "# your own tell more: lines of the same form in the items' file, answers in the words of the document.",
        f"# {len(plan.items) - tests} are for choosing (dev), {tests} for claims (test). {power_words(tests)}",
        "kind: answers",
        f"items: suites/{plan.wishes.name}.jsonl",
        "max_tokens: 24  # of an answer",
    ]
    return "\n".join(text) + "\n"


def _run_file(plan: DocumentPlan, origin: str, remarks: Sequence[str]) -> str:
    name, student, largest = plan.wishes.name, yaml_text(plan.wishes.student), plan.sizes[-1]
    rows = 2 * largest
    text = [
        f"# {origin}: {len(plan.pieces)} pieces, of up to {WORDS} words, that a teacher asks about.",
        *(f"# {one_line(remark)}" for remark in remarks),
        f"# make augment train eval RUN={name}",
        "random_seed: 0",
        f"task: prompts/{name}/task.yaml",
        *teacher_lines(plan.wishes),
        "augment:",
        f"  rows: {rows}  # twice the largest size",
        "  requests_per_row: 2",
        "  max_requests_per_row: 8",
        f"  documents: {{path: prompts/{name}/documents.jsonl, words: {WORDS}}}",
        "  attributes:",
        "    kind: {values: {answered: 3, unanswerable: 1}}  # so that a student learns to say that it does not know",
        f"    none: {{compute: {yaml_text(NOT_SAID)}, when: {{kind: unanswerable}}}}",
        f"  quotas: {{kind: {{unanswerable: {rows // 4}}}}}",
        "  steps:",
        "    - name: asked",
        f"      path: prompts/{name}/ask.j2",
        "      form: chat",
        "      shots: 0",
        "      output: json",
        "      attempts: 2",
        "      sampling:",
        "        temperature: 0.8",
        "        top_p: 0.95",
        "        max_tokens: 96",
        "        json_schema:",
        "          type: object",
        "          properties: {question: {type: string, minLength: 8}, answer: {type: string}}",
        "          required: [question, answer]",
        "  row: {document: document.text, question: asked.question, answer: [none, asked.answer]}",
        "  filters:",
        "    - {kind: finished}",
        "    - {kind: duplicate, on: question}",
        "    - {kind: length, on: answer, max_words: 20}",
        "    - {kind: contamination}",
        "train:",
        f"  students: [{student}]",
        "  data: [filtered]",
        f"  sizes: [{', '.join(map(str, plan.sizes))}]  # rows; 0 is the untuned model",
        "  random_seeds: [0]  # [0, 1, 2] asks about the recipe, not about one set of weights: three times the work",
        "  learning_rate: auto",
        "  max_length: 1024",
        "eval:",
        f"  suites: [{', '.join((name, *plan.also))}]",
        "  prompting: [zero_shot, few_shot]",
        "  reference: null  # TF-IDF picks labels, and here are none",
        f"ship: {{student: {student}, data: filtered, size: {largest}}}",
    ]
    return "\n".join(text) + "\n"
