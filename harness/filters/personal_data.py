"""A filter for what could reach or harm a person: addresses and numbers, each checked by its own rules."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from harness.core.record import Record
from harness.errors import UsageError, nearest
from harness.filters.base import Context, Needs, On, Rule, each_row, part_of
from harness.records import Row, Verdict

Sort = Literal["email", "phone", "iban", "card", "ip"]
Find = Callable[[str], Iterator[str]]  # what is found of one sort in a text

WORDS: Mapping[Sort, str] = {
    "email": "e-mail address", "phone": "phone number", "iban": "IBAN", "card": "card number", "ip": "IP address",
}  # fmt: skip
EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}@((?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,24})\b", re.IGNORECASE
)
RESERVED = re.compile(r"(?:^|\.)(?:example|invalid|test|localhost|example\.(?:com|net|org))$")  # RFC 2606: nobody's
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")
CARD = re.compile(r"(?<![\w.,-])[2-6](?:[ -]?\d){12,18}(?![\w-])")  # no issuer's numbers begin otherwise
IPV4 = re.compile(r"(?<![\w.:])(?<!version )\d{1,3}(?:\.\d{1,3}){3}(?![\w.]\w|\w)")
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:])")


class PersonalData(Record):
    """Drops texts with an e-mail address, a phone number, an IBAN, a card number or an IP address.

    Each is checked by its own rules: numbering plans, check digits, address ranges. Addresses set aside for examples
    (example.com, 192.168.0.1) are nobody's. Names and street addresses are not looked for.
    """

    needs: ClassVar = Needs()

    kind: Literal["personal_data"] = "personal_data"
    sorts: Annotated[tuple[Sort, ...], Field(min_length=1)] = ("email", "phone", "iban", "card", "ip")
    regions: tuple[str, ...] = ()  # ISO 3166 codes, such as DE: whose national phone numbers count beside +49 ones
    on: On = "both"

    def prepare(self, context: Context) -> Rule:
        """The first of its kind is quoted. Raises UsageError for a region without a numbering plan."""
        try:
            from phonenumbers import SUPPORTED_REGIONS
            from stdnum import iban  # noqa: F401
        except ImportError as error:
            what = "phonenumbers and python-stdnum, which are not installed: make setup EXTRAS=train"
            raise UsageError(f"personal_data: it needs {what}") from error
        for region in self.regions:
            if region not in SUPPORTED_REGIONS:
                hint = nearest(region, SUPPORTED_REGIONS)
                raise UsageError(f"personal_data: regions: {region!r} is no region with phone numbers{hint}")
        finders: dict[Sort, Find] = {
            "email": _emails, "phone": self._phones, "iban": _ibans, "card": _cards, "ip": _addresses,
        }  # fmt: skip
        return each_row(lambda row: self._verdict(row, finders))

    def _verdict(self, row: Row, finders: Mapping[Sort, Find]) -> Verdict:
        text = part_of(row.example, self.on)
        found = {sort: quoted for sort in self.sorts if (quoted := next(finders[sort](text), ""))}
        reason = "; ".join(f"it holds the {WORDS[sort]} {quoted!r}" for sort, quoted in found.items())
        return Verdict(row=row.id, filter=self.kind, keep=not found, reason=reason)

    def _phones(self, text: str) -> Iterator[str]:
        from phonenumbers import Leniency, PhoneNumberMatcher

        for region in (None, *self.regions):
            for match in PhoneNumberMatcher(text, region, leniency=Leniency.VALID):
                yield match.raw_string


def _emails(text: str) -> Iterator[str]:
    for match in EMAIL.finditer(text):
        if not RESERVED.search(match[1].lower()):
            yield match[0]


def _ibans(text: str) -> Iterator[str]:
    from stdnum import iban

    for match in IBAN.finditer(text):
        written = match[0]
        while written and not iban.is_valid(written):  # words in capitals may follow it
            written = written[:-1].rstrip()
        if written:
            yield written


def _cards(text: str) -> Iterator[str]:
    from stdnum import luhn

    for match in CARD.finditer(text):
        if luhn.is_valid(re.sub(r"\D", "", match[0])):
            yield match[0]


def _addresses(text: str) -> Iterator[str]:
    for pattern in (IPV4, IPV6):
        for match in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(match[0])
            except ValueError:
                continue
            if address.is_global:  # private and documentation ranges are nobody's
                yield match[0]
