"""What a student, and an untuned model, are asked with where a task file names no template of its own."""

from __future__ import annotations

from pathlib import Path

from harness import prompts
from harness.prompts import Template

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
    return prompts.load(root / path) if path else prompts.compile_template(Path("(built-in prompt)"), STUDENT)


def untuned_template(root: Path, path: str | None, free: bool) -> Template:
    """The template for an untuned model: the task's own, or the system message, the labels, examples and the text."""
    if path:
        return prompts.load(root / path)
    source = UNTUNED_ANSWERS if free else UNTUNED_LABELS
    return prompts.compile_template(Path("(built-in untuned_prompt)"), source)
