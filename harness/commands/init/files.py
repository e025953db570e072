"""The files that init writes, as texts: a task, a template for a teacher, rows, items, a suite, a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from statistics import median
from typing import Any

from harness.check.rules import LEVEL
from harness.commands.init.examples import MOST_TOKENS, Known, tokens_bound
from harness.commands.init.plan import FLIPS, Plan, Wishes, detectable, length_bounds
from harness.core.text import about_words, one_line
from harness.data.examples import QUESTION, TEXT
from harness.models.resolve import BUNDLED
from harness.records import Example
from harness.stats.power import items_needed

DEFAULT_TEACHER = next(iter(BUNDLED))
LIST_WORDS = 60  # of a typical text, up to which a small teacher is given a list to continue
JSON_SPACES = 64  # tokens, for the spaces and line breaks that a model puts into JSON
LONG_ROW = 1024  # tokens, from which on two rows are shown in place of four: a context holds 8,192 or less
MARGIN_ITEMS = 40  # test items, below which no margin can be decided


def yaml_text(text: str) -> str:
    """A text as a YAML scalar: JSON is YAML, but for what cannot be printed beyond the first 65,536 characters."""
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in json.dumps(text, ensure_ascii=False))


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def all_files(plan: Plan, origin: str, remarks: Sequence[str], columns: str) -> dict[str, str]:
    """Path -> content. `origin` says which file the examples are from, `columns` which of its columns, `remarks` what
    was left out.
    """
    name = plan.wishes.name
    rows = plan.rows if plan.source != "teacher" else ()
    return {
        f"prompts/{name}/task.yaml": task_file(plan),
        f"prompts/{name}/write.j2": template(plan),
        f"prompts/{name}/seeds.jsonl": lines([example_line(plan, seed) for seed in plan.seeds]),
        **({f"prompts/{name}/rows.jsonl": lines([example_line(plan, row) for row in rows])} if rows else {}),
        f"suites/{name}.jsonl": lines([item_line(plan, held) for held in plan.items]),
        f"suites/{name}.yaml": suite_file(plan, origin),
        f"runs/{name}.yaml": run_file(plan, origin, remarks, columns),
    }


def lines(rows: Sequence[dict[str, Any]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def example_line(plan: Plan, example: Example) -> dict[str, Any]:
    """An example as rows and seeds have it."""
    if plan.conversation:
        turns = [{"role": turn.role, "content": turn.content} for turn in example.turns]
        last = [{"role": "user", "content": example.fields[TEXT]}, {"role": "assistant", "content": example.answer}]
        return {"messages": [*turns, *last]}
    if plan.task.fields == (TEXT,) and plan.task.free:
        return {QUESTION: example.fields[TEXT], "answer": example.answer}
    return {**example.fields, plan.task.shape.answer_name: example.answer}


def item_line(plan: Plan, held: Known) -> dict[str, Any]:
    """An item of the suite: the same, with every answer that is right, and its group."""
    line = example_line(plan, held.example)
    grouped = {"group": held.group} if held.group else {}
    if plan.conversation:
        return {**line, **({"answers": list(held.answers)} if len(held.answers) > 1 else {}), **grouped}
    name = plan.task.shape.answer_name
    several = len(held.answers) > 1
    inputs = {key: value for key, value in line.items() if key != name}
    return {**inputs, **({"answers": list(held.answers)} if several else {name: held.answers[0]}), **grouped}


# --- the task ----------------------------------------------------------------------------------------------------


def task_file(plan: Plan) -> str:
    """What the student is asked to do."""
    task, name = plan.task, plan.wishes.name
    text = [
        "# What the student is asked to do. Say it better in `system`: every prompt begins with it.",
        f"system: {yaml_text(task.system)}",
    ]
    if task.fields != (TEXT,):
        text += [f"fields: [{', '.join(task.fields)}]"]
    if task.optional:
        text += [f"optional: [{', '.join(task.optional)}]  # these are empty in some examples"]
    if task.labels:
        text += ["labels:  # label: what it means, in your words; untuned models and teachers read this"]
        text += [f"  {yaml_text(label)}: {yaml_text(about)}" for label, about in task.labels.items()]
    if plan.conversation:
        text += ["loss: last  # or all: every turn of the assistant is learned"]
    text += [
        "# A student is asked with the text alone, an untuned model with the system message, the labels and examples.",
        f"# Templates of your own: `prompt: prompts/{name}/student.j2`, `untuned_prompt: prompts/{name}/untuned.j2`.",
    ]
    return "\n".join(text) + "\n"


def writes_text(plan: Plan) -> bool:
    """Whether the teacher writes a bare text of one line to a label. Else it writes JSON, which holds line breaks."""
    one_line_each = not any("\n" in row.text for row in (*plan.rows, *plan.seeds))
    return bool(plan.task.labels) and len(plan.task.fields) == 1 and one_line_each


def continues_list(plan: Plan) -> bool:
    """Whether the teacher is given a list to continue: a small one does it better than it follows instructions."""
    typical = median(about_words(seed.text) for seed in plan.seeds)
    return writes_text(plan) and _bundled_teacher(plan) and typical <= LIST_WORDS


def _bundled_teacher(plan: Plan) -> bool:
    return (plan.wishes.teacher or DEFAULT_TEACHER) in BUNDLED and not plan.wishes.base_url


def template(plan: Plan) -> str:
    """What a teacher is given to write one row."""
    if writes_text(plan):
        shown = "{% for shot in shots %}\n- {{ shot.text }}\n{% endfor %}\n"
        if continues_list(plan):
            return 'Texts of the kind "{{ description }}":\n\n' + shown + "-"
        listed = "{% for name, about in labels.items() %}\n- {{ name }}: {{ about }}\n{% endfor %}\n"
        return (
            f'Texts are of these kinds:\n{listed}\nTexts of the kind "{{{{ label }}}}":\n{shown}\n'
            'Write one new text of the kind "{{ label }}" that nobody could take for another kind, about something else'
            " than these. Write the text only.\n"
        )
    if plan.conversation:
        turns = '[{"role": "user", "content": shot.text}, {"role": "assistant", "content": shot.answer}]'
        shown = f'{{{{ {{"messages": shot.turns + {turns}}} | tojson }}}}'
    else:
        answer = {} if plan.task.labels else {"answer": "answer"}
        pairs = ", ".join(f'"{name}": shot.{name}' for name in (*plan.task.fields, *answer))
        shown = f"{{{{ {{{pairs}}} | tojson }}}}"
    asked = "Write one more example like these, about something else."
    if plan.choices:
        asked = (
            "Write one more question with its choices like these, about something else. Of its choices"
            " {{ label }} must be the right one, and the only right one, as it is in these."
        )
    elif plan.task.labels:
        asked = (
            'Write one more example with the label "{{ label }}" ({{ description }}) like these, about something else.'
        )
    return f"{asked} Answer with one JSON object.\n\n{{% for shot in shots %}}\n{shown}\n{{% endfor %}}\n"


# --- the suite ---------------------------------------------------------------------------------------------------


def suite_file(plan: Plan, origin: str) -> str:
    """How the student is scored, and what so many items can show."""
    name, tests = plan.wishes.name, plan.tests
    power = power_words(tests, plan.primary)
    text = [
        f"# {len(plan.items)} examples of {origin} that nobody tunes on: held out by digest, near duplicates and groups"
        " as a whole.",
        f"# {len(plan.items) - tests} of them are for choosing (dev), {tests} for claims (test). {power}",
        f"kind: {'labels' if plan.scored == 'labels' else 'answers'}",
        f"items: suites/{name}.jsonl",
    ]
    if plan.scored == "number":
        text += ["answer: {kind: number}  # the last number of what the student writes, which is all of an answer here"]
    elif plan.scored == "text":
        text += [f"# {_metric(plan)}"]
    text += [f"max_tokens: {length_bounds(plan)[1]}  # of an answer"]
    margin = _margin(plan)
    if margin:
        text += [
            "limits:  # what `make bless check` lets pass: worse by at most this, which so many items can decide",
            f"  accuracy: {{margin: {margin:.2f}}}",
        ]
    return "\n".join(text) + "\n"


def power_words(tests: int, primary: str = "accuracy") -> str:
    """What difference so many test items find."""
    if primary != "accuracy":
        return "Which difference they find depends on how much answers vary: the report says it."
    least = detectable(tests)
    if least is None:
        return f"Where two students differ on {FLIPS:.0%} of them, they are too few to show which is better."
    return (
        f"Where two students differ on {FLIPS:.0%} of them, a difference of {100 * least:.0f} points or more is found"
        " (power 0.8)."
    )


def _metric(plan: Plan) -> str:
    because = {
        "accuracy": "Answers are short, so that the same words count (accuracy).",
        "token_f1": "Answers are phrases, so that shared words count (token F1).",
        "rouge_l": "Answers are long, so that words in common and in order count (ROUGE-L), which tells little of what"
        " is right: {kind: rubric, rubric: ..., judge: MODEL} as `answer:` has a strong model compare.",
    }
    return because[plan.primary]


def _margin(plan: Plan) -> float | None:
    """A margin for accuracy that the test items can decide. None where there is none, and for other metrics."""
    tests = plan.tests
    if plan.primary != "accuracy" or tests < MARGIN_ITEMS:
        return None
    return next((m / 100 for m in range(5, 31) if items_needed(FLIPS, m / 100, LEVEL) <= tests), None)


# --- the run -----------------------------------------------------------------------------------------------------


def run_file(plan: Plan, origin: str, remarks: Sequence[str], columns: str) -> str:
    """The run, every choice with its reason."""
    name, student = plan.wishes.name, yaml_text(plan.wishes.student)
    reference = "tfidf_logistic_regression" if plan.task.labels else "null  # TF-IDF picks labels, and here are none"
    broken = "  # the first is yours; what did tuning break in the others?" if plan.also else ""
    text = [
        f"# {origin}: {columns}.",
        *(f"# {one_line(remark)}" for remark in remarks),
        f"# make augment train eval RUN={name}",
        "random_seed: 0",
        f"task: prompts/{name}/task.yaml",
        *(teacher_lines(plan.wishes) if plan.source != "own" else []),
        "augment:",
        *_sources(plan),
        *_filters(plan),
        "train:",
        f"  students: [{student}]",
        *_sizes(plan),
        "eval:",
        f"  suites: [{', '.join((name, *plan.also))}]{broken}",
        "  prompting: [zero_shot, few_shot, retrieval]  # what the untuned model can do: the rivals",
        f"  reference: {reference}",
        f"ship: {{student: {student}, data: filtered, size: {plan.sizes[-1]}}}  # what `make check` judges",
    ]
    return "\n".join(text) + "\n"


def teacher_lines(wishes: Wishes) -> list[str]:
    """The teacher that a person named, else the bundled one."""
    model = yaml_text(wishes.teacher or DEFAULT_TEACHER)
    if wishes.base_url:
        return [f"teacher: {{engine: openai, model: {model}, base_url: {yaml_text(wishes.base_url)}}}"]
    engine = "vllm" if find_spec("vllm") else "transformers"
    weak = "" if wishes.teacher else "  # small: a stronger one, also behind an endpoint, writes better rows"
    return [f"teacher: {{engine: {engine}, model: {model}}}{weak}"]


def _sources(plan: Plan) -> list[str]:
    name = plan.wishes.name
    folder = f"prompts/{name}"
    if plan.source == "own":
        human = plan.kept - len(plan.seeds)  # what a teacher is shown is no row then
        most = f", with at most {human} in `train.sizes` and `ship`" if plan.sizes[-1] > human else ""
        more = [
            f"seeds: {folder}/seeds.jsonl  # {len(plan.seeds)} of the rows, to be shown to it",
            f"rows: {2 * len(plan.rows)}  # yours come first, it writes what is missing",
            *_template_lines(plan),
        ]
        return [
            f"  rows_file: {folder}/rows.jsonl",
            f"  rows: {len(plan.rows)}",
            "  # No teacher writes here. To have one write more, name it above, as in `teacher: {engine: openai,",
            "  # model: NAME, base_url: http://HOST:8000/v1}`, take `rows` out, and the marks off these lines. Then",
            f"  # `train.data: [filtered, human, synthetic]` says what it is worth{most}:",
            *(f"  # {line}" for line in more),
        ]
    if plan.source == "own and teacher":
        return [
            f"  rows_file: {folder}/rows.jsonl  # yours come first, the teacher writes as many again",
            f"  seeds: {folder}/seeds.jsonl  # {len(plan.seeds)} of yours, which it is shown; none is in rows_file",
            f"  rows: {2 * len(plan.rows)}",
            "  max_requests_per_row: 8",
            *(f"  {line}" for line in _template_lines(plan)),
        ]
    return [
        f"  # {len(plan.seeds)} rows are few: a teacher is shown some of them, and writes more.",
        f"  seeds: {folder}/seeds.jsonl",
        f"  rows: {max(plan.sizes)}  # as the largest size",
        "  requests_per_row: 2  # twice as many are asked for, since filters drop some",
        "  max_requests_per_row: 8  # and more of them, up to so many for each row, where too few are kept",
        *(f"  {line}" for line in _template_lines(plan)),
    ]


def _template_lines(plan: Plan) -> list[str]:
    form, output, more = "chat", "json", ""
    if writes_text(plan):
        output = "text"
        if continues_list(plan):
            form, more = "completion", ', stop: ["\\n"]'
    elif plan.conversation:
        output = "messages"
    else:
        parts = (*plan.task.fields, *(() if plan.task.labels else ("answer",)))
        written = ", ".join(f"{part}: {{type: string}}" for part in parts)
        more = f", json_schema: {{type: object, properties: {{{written}}}, required: [{', '.join(parts)}]}}"
    room = written_tokens(plan, output == "text")
    cut = "  # your longest row may need more: what is cut is dropped" if room > MOST_TOKENS else ""
    return [
        "templates:",
        f"  - path: prompts/{plan.wishes.name}/write.j2",
        f"    form: {form}",
        *([f"    output: {output}"] if output != "text" else []),
        f"    shots: {4 if room <= LONG_ROW else 2}",
        f"    sampling: {{temperature: 0.9, top_p: 0.95, max_tokens: {min(MOST_TOKENS, room)}{more}}}{cut}",
    ]


def written_tokens(plan: Plan, bare: bool) -> int:
    """About how many tokens a row takes at most as the teacher writes it, bare or as JSON, by the rows there are."""
    rows = (*plan.rows, *plan.seeds)
    if bare:
        return max(48, *(tokens_bound(row.text) for row in rows))
    lines_of_json = (json.dumps(example_line(plan, row), ensure_ascii=False) for row in rows)
    return JSON_SPACES + max(48, *map(tokens_bound, lines_of_json))


def _filters(plan: Plan) -> list[str]:
    text = ["  filters:"]
    if plan.source != "own":
        text += ["    - {kind: finished}"]
    text += ["    - {kind: duplicate}"]
    if plan.source != "own":
        text += ["    - {kind: near_duplicate, threshold: 0.8}"]
    if plan.guarded is None:
        text += [
            "    # no contamination: it would drop over a tenth of the rows, or most of a label, for phrases that they",
            "    # share (equal and nearly equal texts are on one side anyhow)",
        ]
    else:
        drops = f"  # what gives away an item: {plan.guarded} rows" if plan.source == "own" else ""
        text += [f"    - {{kind: contamination}}{drops}"]
    return text


def _sizes(plan: Plan) -> list[str]:
    sizes = ", ".join(map(str, plan.sizes))
    arms = {"own": "[filtered]", "own and teacher": "[filtered, human, synthetic]", "teacher": "[filtered, seeds_only]"}
    reason = {
        "own": "all that the filters keep" if plan.all_kept else f"of {plan.kept}; more take longer",
        "own and teacher": "at most half of your rows, so that each kind of data has as many",
        "teacher": "what the teacher wrote",
    }[plan.source]
    if plan.wishes.sizes:
        reason = "as asked for"
    asked = {
        "own": "",
        "own and teacher": "  # together, yours alone, the teacher's alone",
        "teacher": f"  # the teacher's rows; your {len(plan.seeds)} alone",
    }[plan.source]
    longest, _ = length_bounds(plan)
    return [
        f"  data: {arms[plan.source]}{asked}",
        f"  sizes: [{sizes}]  # rows; 0 is the untuned model, each size contains the smaller ones; the last: {reason}",
        "  random_seeds: [0]  # [0, 1, 2] asks about the recipe, not about one set of weights: three times the work",
        "  learning_rate: auto",
        *([f"  max_length: {longest}  # tokens of the longest row at most"] if longest > 512 else []),
    ]
