"""Templates come from strangers: what they may not do, and how a mistake in one is told."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.sandbox import FILTERS, METHODS, TESTS
from harness.core.templates import MAX_RENDERED, check_pattern, compile_template, fill, load
from harness.errors import UsageError

HERE = Path("a.j2")


def test_a_template_renders() -> None:
    template = compile_template(HERE, "{% for x in xs %}\n- {{ x | upper }}\n{% endfor %}\nend")
    assert template.render(xs=["a", "b"]) == "- A\n- B\nend"
    assert len(template.digest) == 16


def test_an_undefined_variable_is_named_with_its_line_and_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        compile_template(HERE, "one\n{{ lable }}").render(label="x", text="y")
    assert str(caught.value).startswith("a.j2:2: 'lable' is undefined (did you mean 'label'?)")
    assert "given: label, text" in str(caught.value)


def test_a_syntax_error_has_its_line() -> None:
    with pytest.raises(UsageError, match=r"a.j2:2: "):
        compile_template(HERE, "one\n{% if %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ x.__class__.__mro__ }}",
        "{{ x.__init__.__globals__ }}",
        "{{ ''.__class__ }}",
        "{{ x['__class__'] }}",
        "{{ x | map(attribute='__class__') | list }}",
        "{{ x | map(' spend', -9) | list }}",
        "{{ [1] | map('attr', '__class__') | list }}",
        "{{ x | attr('__class__') }}",
        "{% for i in range(10**9) %}a{% endfor %}",
        "{{ range(10000000) | list }}",
        "{{ 'a' * 10**10 }}",
        "{{ [0] * 999999999 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ 9**9**9 }}",
        "{{ 'x'.format.__self__ }}",
        "{{ '{0.__class__}'.format(x) }}",
        "{{ 'x'.ljust(10000000000) }}",
        "{{ x.append(1) }}",
        "{{ x.copy() }}",
        "{{ 'x'.encode() }}",
        "{{ self.__init__ }}",
        "{% macro m() %}{% endmacro %}{{ m.name }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ x.foo() }}",
        "{{ x() }}",
        "{{ (x or 1)() }}",
        "{{ lipsum() }}",
        "{{ range(9) | random }}",
        "{{ namespace(a=1) }}",
        "{% call range(3) %}{% endcall %}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(source: str) -> None:
    with pytest.raises(UsageError, match=r"^a\.j2:1: "):
        compile_template(HERE, source).render(x=[1])


GROWS = "{% set a = START %}" + 60 * "{% set a = STEP %}"
ROUNDS = "{% for i in range(99999) %}{% set y = VALUE %}{% endfor %}"


COSTLY = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ [1] | slice(99999999) | list | length }}",
    "{{ {'a': 1} | tojson(indent=300000000) }}",
    "{{ 1 | round(999999999, 'ceil') }}",
    GROWS.replace("START", "'x'").replace("STEP", "a ~ a"),
    GROWS.replace("START", "'x'").replace("STEP", "a + a"),
    GROWS.replace("START", "[1]").replace("STEP", "a + a"),
    GROWS.replace("START", "[1]").replace("STEP", "[a, a]") + "{{ a == a }}",
    GROWS.replace("START", "(1,)").replace("STEP", "(a, a)") + "{{ {a: 1}.get(a) }}",
    "{% macro m(text) %}{{ m(text ~ text) }}{% endmacro %}{{ m('x') }}",
    "{% macro a() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + 11 * "{% call a() %}" + "{% for i in range(999) %}x{% endfor %}" + 11 * "{% endcall %}",
    "{% set y %}{% for i in range(99999) %}" + 9999 * "z" + "{% endfor %}{% endset %}",
    "{% for i in range(99999) %}" + 900 * "{% if i == 1 %}{% endif %}" + "{% endfor %}",
    "{{ text.replace('y', text) }}",
    "{{ text | replace('y', text) }}",
    "{{ text.join(text) }}",
    "{% set x %}{% for i in range(999) %}" + 90_000 * "y" + "{% endfor %}{% endset %}",
    f"{{% macro m() %}}{90_000 * 'y'}{{% endmacro %}}" + ROUNDS.replace("VALUE", "m()"),
    "{{ text | join(text) }}",
    *(
        ROUNDS.replace("VALUE", value)
        for value in (
            "text[::-1]", "text == text ~ 'z'", "(text[:50000] ~ 'z') in text", "text.split('y')", "text | list",
            "text | title", "text | e", "text | tojson", "range(999) | sort", "text | map('upper') | list",
            "text.count('z')", "[text, text] | unique | list", "text is lower",
        )
    ),
)  # fmt: skip


@pytest.mark.parametrize("source", COSTLY)
def test_no_template_takes_much_time(source: str) -> None:
    """By counted steps, so in any thread, at any load, and while a template is compiled."""
    started = time.process_time()
    with pytest.raises(UsageError, match=r"^a\.j2:1: "):
        compile_template(HERE, source).render(text=100_000 * "y")
    assert time.process_time() - started < 5  # measured: 1


@pytest.mark.slow
def test_no_template_takes_much_memory() -> None:
    for source in COSTLY[4:12]:
        tracemalloc.start()
        with pytest.raises(UsageError):
            compile_template(HERE, source).render(text=100_000 * "y")
        assert tracemalloc.get_traced_memory()[1] < 200 * 2**20, source
        tracemalloc.stop()


NAMES = ("text", "items", "n", "1", "''", "[]", "{}", "loop", "self", "m", "none", "missing", "'a\\ud800'")
METHOD_NAMES = sorted(METHODS | {"format", "parse_raw"})
FILTER_NAMES = sorted(FILTERS | {"random", "attr"})
OPERATORS = ("+", "-", "*", "/", "//", "%", "**", "~", "==", "<", "in", "and", "or")


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Expressions of Jinja around other ones."""
    return st.one_of(
        st.tuples(inner, st.sampled_from(METHOD_NAMES), inner).map("{0[0]}.{0[1]}({0[2]})".format),
        st.tuples(inner, st.sampled_from(FILTER_NAMES)).map("({0[0]}) | {0[1]}".format),
        st.tuples(inner, st.sampled_from(FILTER_NAMES), inner).map("({0[0]}) | {0[1]}({0[2]})".format),
        st.tuples(inner, st.sampled_from(sorted(TESTS))).map("({0[0]} is {0[1]})".format),
        st.tuples(inner, st.sampled_from(OPERATORS), inner).map("({0[0]} {0[1]} {0[2]})".format),
        st.tuples(inner, inner).map("[{0[0]}, {0[1]}]".format),
        st.tuples(inner, inner).map("{{ {0[0]}: {0[1]} }}".format),
        st.tuples(inner, inner).map("({0[0]})[{0[1]}]".format),
        st.tuples(inner, inner).map("({0[0]})[{0[1]}:]".format),
        inner.map("range({})".format),
    )


EXPRESSIONS = st.recursive(st.sampled_from(NAMES), _larger, max_leaves=12)
BLOCKS = (
    "{{{{ {0} }}}}",
    "{{% set text = {0} %}}{{{{ {1} }}}}",
    "{{% for n in {0} %}}{{{{ {1} }}}}{{% endfor %}}",
    "{{% macro m(text=1) %}}{{{{ {0} }}}}{{% endmacro %}}{{{{ m({1}) }}}}",
    "{{% if {0} %}}{{% set items %}}{{{{ {1} }}}}{{% endset %}}{{% endif %}}{{{{ items | tojson }}}}",
    "{{% filter upper %}}{{{{ {0} }}}}{{{{ {1} }}}}{{% endfilter %}}",
    "{{% call {0} %}}{{{{ {1} }}}}{{% endcall %}}",
)


@given(st.sampled_from(BLOCKS), EXPRESSIONS, EXPRESSIONS)
def test_whatever_a_template_does_is_a_text_or_a_usage_error(block: str, one: str, two: str) -> None:
    source = block.format(one, two)
    try:
        text = compile_template(HERE, source).render(text="it's ü", items=[{"a": "b"}, {"a": "c"}], n=3)
    except UsageError:
        return
    text.encode()
    assert " object at 0x" not in text
    assert "<built-in" not in text


def test_a_prompt_has_a_size() -> None:
    with pytest.raises(UsageError, match=f"longer than {MAX_RENDERED}"):
        compile_template(HERE, "{% for i in range(9999) %}{{ x }}{% endfor %}").render(x="y" * 1000)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ text.title }}", "'title' is a method of text: write title()"),
        ("{{ shots }}", "list is no text"),
        ("{{ shots[0] }}", "dict is no text"),
        ("{{ shots[0].lable }}", "no field 'lable' (did you mean 'label'?)"),
        ("{{ shots[0].keys }}", "write keys() to call the method"),
        ("{{ shots[9].text }}", "list has no 9"),
        ("{{ [] | first }}", "No first item, sequence was empty"),
        ("{% macro m(a) %}{{ a }}{% endmacro %}{{ m() }}", "parameter 'a' was not provided"),
        ("{{ none }}", "none is no text"),
        ("{{ loop }}", "'loop' is undefined"),
        ("{% macro m() %}{% endmacro %}{{ m }}", "Macro is no text"),
        ("{{ text | dictsort }}", "AttributeError: "),
        ("{{ text | xmlattr }}", "no filter 'xmlattr'"),
        ("{{ '\\ud83d' }}", "half of a surrogate pair"),
        ("{{ 1 // 0 }}", "ZeroDivisionError: "),
        (25 * "{% for i in [1] %}" + "x" + 25 * "{% endfor %}", "nested too deeply"),
        ("{{ " + 5000 * "(" + "1" + 5000 * ")" + " }}", "nested too deeply"),
        ("{{ " + 5000 * "1+" + "1 }}", "nested too deeply"),
        ("{{ " + 5000 * "9" + " }}", "digits"),
        ("{{ text | frobnicate }}", "no filter 'frobnicate'"),
        ("{{ text is callable }}", "no test 'callable'"),
    ],
)
def test_a_mistake_in_a_template_is_told_with_its_line(source: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        compile_template(HERE, f"{{# one #}}\ntwo\n{source}").render(text="t", shots=[{"text": "t", "label": "l"}])
    assert str(caught.value).startswith("a.j2:3: ")
    assert said in str(caught.value)


def test_text_stays_as_a_person_wrote_it() -> None:
    text = 'isn\'t <b> & "ü" 漢 \\ 😀'
    assert compile_template(HERE, "{{ x }}{{ 'never' if x == '' }}").render(x=text) == text
    for source in ("{{ x }}", "{{ x ~ '' }}", "{{ x | string }}", "{{ [x] | join }}", "{{ x | trim }}"):
        assert compile_template(HERE, source).render(x=text) == text
    written = compile_template(HERE, "{{ {'z': x, 'a': [1, true, none]} | tojson }}").render(x=text)
    for part in ("isn't <b> & ", "ü", "漢", "😀"):
        assert part in written
    assert list(json.loads(written).items()) == [("z", text), ("a", [1, True, None])]
    with pytest.raises(UsageError, match=r"a\.j2:1: .*surrogate"):
        compile_template(HERE, "{{ x }}").render(x="\ud83d")


def test_templates_keep_what_prompts_need() -> None:
    source = """\
{% macro line(shot, mark='-') %}{{ mark }} {{ shot.text | upper }} {{ shot['label'] }}{% endmacro %}
{% for name, about in labels.items() if name != 'b' %}{{ loop.index }}/{{ loop.length }} {{ name }}: {{ about }}
{% endfor %}
{% for shot in shots | sort(attribute='text') %}{{ line(shot, mark=loop.cycle('*', '+')) }}
{% endfor %}
{{ shots | map(attribute='label') | unique | join(', ') }}; {{ labels.c | default('no c') }}; {{ shots[:1] | length }}
{{ ['one', 'two', 'three'][index % 3] }} {{ text.split()[0].title() }} {{ 2 * index + 1 }} {{ text[:3] }}
{%- for label, group in shots | groupby('label') %} {{ label }}{{ group | length }}{% endfor %}"""
    rendered = compile_template(HERE, source).render(
        labels={"a": "A", "b": "B"},
        shots=({"text": "y", "label": "b"}, {"text": "x", "label": "a"}),
        index=4,
        text="hi you",
    )
    assert rendered == "1/1 a: A\n* X a\n+ Y b\nb, a; no c; 1\ntwo Hi 9 hi  a1 b1"


def test_a_byte_order_mark_is_no_part_of_a_template(tmp_path: Path) -> None:
    (tmp_path / "a.j2").write_bytes(b"\xef\xbb\xbf{{ x }}")
    (tmp_path / "b.j2").write_bytes(b"{{ x }}")
    assert load(tmp_path / "a.j2").render(x="y") == "y"
    assert load(tmp_path / "a.j2").digest == load(tmp_path / "b.j2").digest


@pytest.mark.parametrize("source", ["{{ t }}{{ t }}", "{% for i in range(3) %}{{ i }}{% endfor %}{{ t | tojson }}"])
def test_a_template_renders_the_same_every_time(source: str) -> None:
    template = compile_template(HERE, source)
    assert len({template.render(t="x") for _ in range(5)}) == 1


@pytest.mark.parametrize(
    "pattern",
    [
        "{}",
        "{0}",
        "{x}",
        "{question.__class__}",
        "{question[0]}",
        "{question!r}",
        "{question:>999999999}",
        "{",
        "}",
        "{question",
    ],
)
def test_a_pattern_takes_its_own_names_and_nothing_in_them(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"braces|'}'|'{'"):
        check_pattern(pattern, "question")
    with pytest.raises(ValueError, match=r"braces|'}'|'{'"):
        fill(pattern, question="x")


def test_a_pattern_is_filled() -> None:
    assert fill("{{Q}} {question}\nA:", question="{x} 50%?") == "{Q} {x} 50%?\nA:"


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "judge.j2").write_text("x")
    with pytest.raises(UsageError, match=r"did you mean 'judge\.j2'"):
        load(tmp_path / "juge.j2")
