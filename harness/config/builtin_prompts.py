"""What a student, and an untuned model, are asked with where a task file names no template of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.core import templates
from harness.core.templates import Template

LABELS = """\
{% for label, description in labels.items() %}
{{ label }}{% if description %}: {{ description }}{% endif %}

{% endfor %}

"""
TURNS = """\
{% for turn in turns %}
{{ turn.role | capitalize }}: {{ turn.content }}
{% endfor %}
"""


def student_template(root: Path, path: str | None, fields: Sequence[str]) -> Template:
    """The template of a user turn: the task's own, or its fields one after the other, empty ones left out."""
    if path:
        return templates.load(root / path)
    several = f"[{', '.join(fields)}] | select | join('\\n\\n')"
    source = f"{{{{ {fields[0] if len(fields) == 1 else several} }}}}"
    return templates.compile_template(Path("(built-in prompt)"), source)


def untuned_template(root: Path, path: str | None, fields: Sequence[str], free: bool) -> Template:
    """The template for an untuned model: the task's own, or the system message, the labels, examples and the fields."""
    if path:
        return templates.load(root / path)
    system = "{% if system %}\n{{ system }}\n" + ("\n" if free else "") + "{% endif %}\n"
    shots = "{% for shot in shots %}\n" + _example(fields, free, "shot.") + " {{ shot.answer }}\n\n{% endfor %}\n"
    source = system + ("" if free else LABELS) + shots + TURNS + _example(fields, free, "")
    return templates.compile_template(Path("(built-in untuned_prompt)"), source)


def _example(fields: Sequence[str], free: bool, owner: str) -> str:
    """The lines of an example up to its answer: each field under its own name, empty ones left out."""
    if tuple(fields) == ("text",):
        named = {"text": "Question" if free else "Text"}
    else:
        named = {name: name.replace("_", " ").capitalize() for name in fields}
    lines = [
        f"{title}: {{{{ {owner}{name} }}}}\n"
        if len(named) == 1
        else f"{{% if {owner}{name} %}}\n{title}: {{{{ {owner}{name} }}}}\n{{% endif %}}\n"
        for name, title in named.items()
    ]
    return "".join(lines) + ("Answer:" if free else "Label:")
