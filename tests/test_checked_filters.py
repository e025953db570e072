"""Filters that check a row against something known: a language, numbering plans and check digits, its document."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.text import words
from harness.errors import UsageError
from harness.filters import Filter, Language, PersonalData, Support
from harness.records import Example, Message, Provenance, Row, Verdict
from tests.project import context, row, verdicts_of
from tests.test_row_filters import answered
from tests.test_steps import ANSWER, ASK, ROW, lost_of, project, run_it

ROOT = Path(__file__).parent.parent


def verdict(rule: Filter, one: Row) -> Verdict:
    return verdicts_of(rule, [one], context())[0]


# --- language ---

SENTENCES = {
    "de": ["Wo ist mein Paket?", "Wie setze ich mein Passwort zurück", "Nenne drei Flüsse in Afrika."],
    "fr": ["Où est mon colis ?", "Mon vélo a été volé hier soir", "Quelle est la capitale du Tchad ?"],
    "es": ["¿Dónde está mi paquete?", "Me robaron la bicicleta anoche", "Por favor cancele mi pedido"],
    "ru": ["Где же моя посылка?", "Мой велосипед украли вчера вечером"],
    "zh": ["我的包裹在哪里?", "请取消我的订单"],
}


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in SENTENCES.items() for text in texts])
def test_a_sentence_is_kept_in_its_language_and_dropped_in_another(code: str, text: str) -> None:
    assert verdict(Language(languages=(code,)), row(text)).keep
    said = verdict(Language(languages=("en",)), row(text))
    assert not said.keep
    assert said.score is not None
    assert said.score < 0.05
    assert said.reason == (
        f"it reads as {said.against}: en has a probability of {said.score:.3f}, at least 0.05 wanted"
    )


def test_no_english_text_of_the_shipped_suites_is_dropped() -> None:
    rule = Language(languages=("en",)).prepare(context())
    lines = [json.loads(line) for path in (ROOT / "suites").glob("*.jsonl") for line in path.read_text().splitlines()]
    texts = [text for line in lines for text in line.values() if isinstance(text, str)]
    rows = [row(text) for text in texts if not text.startswith("{")]  # an answer in JSON is of no language
    assert len(rows) > 900
    assert [(v.reason, v.row) for v in rule.verdicts(rows, [()] * len(rows)) if not v.keep] == []


def test_a_text_that_could_be_in_any_language_is_left_alone() -> None:
    assert verdict(Language(languages=("en",)), row("Wrong VAT rate. Order 969415.")).keep


def test_short_texts_and_texts_of_no_language_are_left_alone() -> None:
    rule = Language(languages=("en",))
    assert verdict(rule, row("Wo ist es?")) == Verdict(row=row("Wo ist es?").id, filter="language", keep=True)
    assert not verdict(Language(languages=("en",), min_words=3), row("Wo ist es?")).keep
    assert verdict(rule, row("12 + 30 = 42, 7 * 8 = 56")).keep


def test_both_parts_are_read_by_themselves() -> None:
    mixed = answered("What is the capital of Chad?", "Die Hauptstadt des Tschad heißt N'Djamena.")
    assert verdict(Language(languages=("en",)), mixed).against == "de"
    assert verdict(Language(languages=("en",), on="question"), mixed).keep
    assert verdict(Language(languages=("de", "en")), mixed).keep


def test_a_language_that_the_model_does_not_know_is_named() -> None:
    with pytest.raises(UsageError, match=r"languages: 'eng' is no code that the model knows \(did you mean 'en'\?\)"):
        Language(languages=("eng",)).prepare(context())


# --- personal data ---

FOUND = [
    ("Write to anna.lee+shop@mail.wheelhouse.io today", "the e-mail address 'anna.lee+shop@mail.wheelhouse.io'"),
    ("Call +49 30 901820 now.", "the phone number '+49 30 901820'"),
    ("IBAN DE89 3704 0044 0532 0130 00 PLEASE", "the IBAN 'DE89 3704 0044 0532 0130 00'"),
    ("GB29NWBK60161331926819", "the IBAN 'GB29NWBK60161331926819'"),
    ("card 4111 1111 1111 1111, valid to 12/27", "the card number '4111 1111 1111 1111'"),
    ("3782-822463-10005", "the card number '3782-822463-10005'"),
    ("It came from 8.8.8.8.", "the IP address '8.8.8.8'"),
    ("at 2001:4860:4860::8888 it answers", "the IP address '2001:4860:4860::8888'"),
]
NOBODYS = [
    "Write to anna@example.com or info@shop.example.",
    "me@home and you @ work",
    "DE88 3704 0044 0532 0130 00",  # a wrong check digit
    "card 4111 1111 1111 1112",
    "order 1234567890, of 2024-11-12, costs 1,200",
    "The router is at 192.168.0.1, the host at 127.0.0.1.",
    "Documents use 192.0.2.7 and 2001:db8::1.",
    "Update to version 8.15.7.1 or v8.15.7.1, chapter 1.2.3",
    "at 10:30:15 and 12:45",
    "999.8.8.8",
    "call 030 901820",  # of no region
]


@pytest.mark.parametrize(("text", "quoted"), FOUND)
def test_personal_data_is_quoted(text: str, quoted: str) -> None:
    said = verdict(PersonalData(), row(text))
    assert not said.keep
    assert said.reason == f"it holds {quoted}"


@pytest.mark.parametrize("text", NOBODYS)
def test_what_is_nobodys_is_kept(text: str) -> None:
    assert verdict(PersonalData(), row(text)).reason == ""


def test_national_phone_numbers_count_where_their_region_is_named() -> None:
    assert verdict(PersonalData(regions=("DE",)), row("call 030 901820")).reason.endswith("number '030 901820'")
    assert verdict(PersonalData(regions=("US",)), row("call 030 901820")).keep
    with pytest.raises(UsageError, match=r"regions: 'DEU' is no region with phone numbers \(did you mean 'DE'"):
        PersonalData(regions=("DEU",)).prepare(context())


def test_only_the_sorts_named_are_looked_for_and_each_is_said() -> None:
    text = "anna@mail.wheelhouse.io, +49 30 901820"
    assert verdict(PersonalData(sorts=("ip", "iban")), row(text)).keep
    assert verdict(PersonalData(), row(text)).reason == (
        "it holds the e-mail address 'anna@mail.wheelhouse.io'; it holds the phone number '+49 30 901820'"
    )


def luhn(digits: str) -> str:
    """The check digit, by the definition: every second digit from the right doubled, its digits summed."""
    total = sum(sum(map(int, str(int(d) * (2 - i % 2)))) for i, d in enumerate(reversed(digits)))
    return str(-total % 10)


@settings(deadline=None)
@given(st.integers(4 * 10**14, 5 * 10**14 - 1), st.integers(1, 9))
def test_a_card_number_is_found_by_its_check_digit_alone(number: int, wrong: int) -> None:
    check = luhn(str(number))
    rule = PersonalData(sorts=("card",))
    assert not verdict(rule, row(f"{number}{check}")).keep
    assert verdict(rule, row(f"{number}{(int(check) + wrong) % 10}")).keep


# --- support ---

DOCUMENT = "The hall may be rented from March to October. It holds eighty people. Mrs Okafor keeps the 2 keys."


def about(question: str, answer: str) -> Row:
    fields = {"document": DOCUMENT, "question": question}
    messages = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Row(messages=messages, example=Example(fields=fields, answer=answer), provenance=Provenance(source="own"))


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("How many people fit in?", "It holds 80 people.", ""),
        ("How many people fit in?", "eighty", ""),
        ("How many people fit in?", "90", "not in the document: the number 90"),
        ("How many people fit in?", "It holds ninety.", "not in the document: the number ninety"),
        ("Do 90 people fit in?", "No, not 90, eighty.", ""),
        ("Who has the keys?", "The two keys are kept by Mrs Okafor.", ""),
        (
            "Who has the keys?",
            "Mrs Okafor keeps 2 of the keys, like Smith.",
            "not in the document: the name Smith",
        ),
        ("When is it rented?", "from March to October", ""),
        ("When is it rented?", "It is rented out in March, at 10:30.", "not in the document: the number 10:30"),
        ("Who has the keys?", "The document does not say.", ""),
        ("Is it rented in June?", "Yes.", ""),
        (
            "What is it for?",
            "Weddings, parties and concerts with loud music",
            "0% of its words are in the document, at least 60% wanted: "
            "'weddings', 'parties', 'concerts', 'loud', 'music'",
        ),
    ],
)
def test_an_answer_is_held_to_the_document_in_its_row(question: str, answer: str, reason: str) -> None:
    assert verdict(Support(document="document"), about(question, answer)).reason == reason


def test_an_answer_is_held_to_the_piece_that_its_row_was_written_about() -> None:
    where = replace(context(), documents={"a": DOCUMENT, "b": "Line 4 runs every twelve minutes."})
    rows = [answered("How often?", "every twelve minutes", document=name) for name in ("a", "b", "")]
    said = verdicts_of(Support(), rows, where)
    assert [v.keep for v in said] == [False, True, False]
    assert said[0].score == 0
    assert said[2].reason == "it has no document"
    assert [v.keep for v in verdicts_of(Support(min_share=0, numbers=False), rows, where)] == [True, True, False]


def test_no_document_at_all_is_a_mistake_of_the_run() -> None:
    with pytest.raises(UsageError, match=r"support: rows have no document: give augment\.documents"):
        Support().prepare(context())


def test_the_answers_that_people_wrote_about_shipped_documents_are_supported() -> None:
    rule = Support(document="document").prepare(context())
    for path in (ROOT / "prompts/document/seeds.jsonl", ROOT / "suites/document.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            fields = {name: line[name] for name in ("document", "question")}
            one = Row(
                messages=(), example=Example(fields=fields, answer=line["answer"]), provenance=Provenance(source="own")
            )
            assert rule.verdicts([one], [()])[0].reason == "", line


SAID = st.lists(st.sampled_from(DOCUMENT.replace(".", "").split()), min_size=1, max_size=8).map(" ".join)


@settings(deadline=None)
@given(SAID)
def test_whatever_the_document_says_itself_is_supported(answer: str) -> None:
    assert verdict(Support(document="document", min_share=1), about("", answer)).keep


@settings(deadline=None)
@given(SAID, st.integers(100, 10**6))
def test_a_number_of_its_own_is_never_supported(answer: str, number: int) -> None:
    said = verdict(Support(document="document", min_share=0), about("", f"{answer} {number}"))
    assert f"the number {words(str(number))[0]}" in said.reason


def test_support_looks_at_what_a_step_wrote(tmp_path: Path) -> None:
    (tmp_path / "doc.txt").write_text(DOCUMENT)
    supported: dict[str, Any] = {"kind": "support", "on": "answer"}
    run = project(
        tmp_path, [ASK, {**ANSWER, "filters": [supported]}], ROW, rows=8, max_requests_per_row=1,
        documents={"path": "doc.txt"},
    )  # fmt: skip
    says = {"question": "how many fit in?", "answer": "It holds 80 people."}
    _, funnel = run_it(run, lambda r: says[r.origin.step] if r.sample_index < 5 else says[r.origin.step] + " 300 do.")
    assert (funnel.kept, funnel.filtered) == (5, {"answer: support": 3})
    assert {line.reason for line in lost_of(run)} == {"not in the document: the number 300"}


def test_a_field_that_holds_no_document_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"augment.filters.0.document: 'txt' \(did you mean 'text'\?\); fields: text"):
        project(tmp_path, [ASK, ANSWER], ROW, filters=[{"kind": "support", "document": "txt"}])
