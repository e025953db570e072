"""What a student, and an untuned model, are asked with where a task file names no template of its own."""

from __future__ import annotations

from pathlib import Path

from harness.core import templates
from harness.core.templates import Template

STUDENT = "{{ text }}"
UNTUNED_LABELS = """\
{% if system %}
{{ system }}
{% endif %}
{% for label, description in labels.items() %}
{{ label }}{% if description %}: {{ description }}{% endif %}

{% endfor %}

{% for shot in shots %}
Text: {{ shot.text }}
Label: {{ shot.label }}

{% endfor %}
Text: {{ text }}
Label:"""
UNTUNED_ANSWERS = """\
{% if system %}
{{ system }}

{% endif %}
{% for shot in shots %}
Question: {{ shot.text }}
Answer: {{ shot.label }}

{% endfor %}
Question: {{ text }}
Answer:"""


def student_template(root: Path, path: str | None) -> Template:
    """The template of a student's user turn: the task's own, or the text as it is."""
    return templates.load(root / path) if path else templates.compile_template(Path("(built-in prompt)"), STUDENT)


def untuned_template(root: Path, path: str | None, free: bool) -> Template:
    """The template for an untuned model: the task's own, or the system message, the labels, examples and the text."""
    if path:
        return templates.load(root / path)
    source = UNTUNED_ANSWERS if free else UNTUNED_LABELS
    return templates.compile_template(Path("(built-in untuned_prompt)"), source)
