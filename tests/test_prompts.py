"""Templates come from strangers: what they may not do, and how a mistake in one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.prompts import MAX_RENDERED, compile_template, load

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
        "{% for i in range(10**9) %}a{% endfor %}",
        "{{ 'a' * 10**10 }}",
        "{{ [0] * 999999999 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ 9**9**9 }}",
        "{{ 'x'.format.__self__ }}",
        "{{ '{0.__class__}'.format(x) }}",
        "{{ x.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ x.foo() }}",
    ],
)
def test_a_template_cannot_leave_the_sandbox_or_eat_the_machine(source: str) -> None:
    with pytest.raises(UsageError, match=r"^a\.j2"):
        compile_template(HERE, source).render(x=[1])


def test_a_prompt_has_a_size_and_a_time() -> None:
    with pytest.raises(UsageError, match=f"longer than {MAX_RENDERED}"):
        compile_template(HERE, "{% for i in range(9999) %}{{ x }}{% endfor %}").render(x="y" * 1000)
    slow = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(UsageError, match="longer than 2 s"):
        compile_template(HERE, slow).render()


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "judge.j2").write_text("x")
    with pytest.raises(UsageError, match=r"did you mean 'judge\.j2'"):
        load(tmp_path / "juge.j2")
