"""What many tests share: a small project on disk (three labels, a scripted teacher, three suites), and rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml

from harness.augment.rows import own_rows, seed_rows
from harness.config.run import Run
from harness.filters import Context, Filter, Protected
from harness.models.teachers import Teachers
from harness.records import Example, Message, Provenance, Row, Verdict

LABELS = {
    "parcel": "Where a parcel is and when it comes",
    "invoice": "Bills, payments and money back",
    "account": "Login, password and profile",
}
THEMES = {
    "parcel": ("parcel", "box", "courier", "doorstep", "van"),
    "invoice": ("invoice", "charged", "refund", "card", "euros"),
    "account": ("password", "login", "email", "profile", "username"),
}
FRAMES = (
    "the {0} I waited for is still not right, and the {1} neither",
    "can someone tell me about my {0} before {1} trouble starts",
    "your {1} page says something else than my {0} does",
    "twice this week the {0} failed and nobody explained the {1}",
    "please look at the {0}, my neighbour had the same with a {1}",
    "is it normal that a {0} needs so long after the {1} came",
)


def no_judge(name: str) -> NoReturn:
    """No suite of the project needs one."""
    raise AssertionError(f"a judge {name!r} was asked for")


TOPICS = {"billing": "money", "delivery": "the bike on its way", "repair": "broken parts"}


def labelled(text: str, label: str) -> Example:
    """The example of a task with labels whose only field is `text`."""
    return Example(fields={"text": text}, answer=label, label=label)


def context(root: Path = Path(), seeds: Sequence[Example] = (), protected: Sequence[Protected] = ()) -> Context:
    """What a filter may look at, with TOPICS for labels."""
    return Context(
        root=root, seeds=tuple(seeds), labels=TOPICS, protected=tuple(protected), teachers=Teachers(own="t@1")
    )


def verdicts_of(rule: Filter, rows: Sequence[Row], where: Context) -> list[Verdict]:
    """What a filter that asks nothing says of all rows at once."""
    return rule.prepare(where).verdicts(rows, [()] * len(rows))


def row(text: str, label: str = "repair", finish: str = "stop", source: str = "teacher") -> Row:
    """A row of a bare text and its label, for what looks at no prompt."""
    provenance = Provenance.model_validate({"source": source, "finish_reason": finish})
    messages = (Message(role="user", content=text), Message(role="assistant", content=label))
    return Row(messages=messages, example=labelled(text, label), provenance=provenance)


def prompted_row(text: str, label: str) -> Row:
    """A row as the stages make them: a system message, a prompt around the text, the label."""
    turns = (
        Message(role="system", content="Name the topic."),
        Message(role="user", content=f"Message: {text}\nTopic:"),
        Message(role="assistant", content=label),
    )
    return Row(messages=turns, example=labelled(text, label), provenance=Provenance(source="own"))


def write_project(root: Path, student: str, **changes: Any) -> Path:
    """Write a whole project under `root`; returns its run file. `changes` replace sections of the run."""
    _write(root / "prompts/shop/task.yaml", yaml.safe_dump(_task(), sort_keys=False))
    _write(root / "prompts/shop/student.j2", "{{ text }}\nTopic:")
    untuned = "{% for name in labels %}{{ name }} {% endfor %}\n"
    untuned += "{% for s in shots %}{{ s.text }} -> {{ s.label }}\n{% endfor %}{{ text }} ->"
    _write(root / "prompts/shop/untuned.j2", untuned)
    listed = "Messages about {{ label }}:\n{% for s in shots %}- {{ s.text }}\n{% endfor %}-"
    _write(root / "prompts/shop/list.j2", listed)
    _write(root / "prompts/shop/judge.j2", "{{ shots | length }} examples. Message: {{ text }}\nTopic:")
    _write(root / "prompts/shop/teacher.json", json.dumps(_script()))
    _lines(root / "prompts/shop/seeds.jsonl", [{"text": t, "label": k} for k, t in texts(0, 4)])
    _lines(root / "suites/shop.jsonl", [{"text": t, "label": k} for k, t in texts(4, 6)])
    _write(
        root / "suites/shop.yaml",
        "kind: labels\nitems: suites/shop.jsonl\nmax_tokens: 4\nlimits: {accuracy: {margin: 0.4}}\n",
    )
    _lines(
        root / "suites/talk.jsonl",
        [{"prompt": p} for p in ("Say hello.", "Name a colour.", "Count to three.")],
    )
    _write(root / "suites/talk.yaml", "kind: open_ended\nitems: suites/talk.jsonl\nmax_tokens: 8\n")
    facts = [{"question": f"Which is {n}?", "choices": [str(n), str(n + 1)], "answer": 0} for n in range(6)]
    _lines(root / "suites/facts.jsonl", facts)
    _write(root / "suites/facts.yaml", "kind: choice\nitems: suites/facts.jsonl\n")
    run = _run(student) | changes
    _write(root / "runs/shop.yaml", yaml.safe_dump(run, sort_keys=False))
    return root / "runs/shop.yaml"


def write_judged_suite(root: Path, items: int, planted: int) -> None:
    """Write the suite `kind` into a project: open questions whose answers a judge reads, some of them planted."""
    questions = [{"question": f"What is {i} and {i}?", "answer": f"It is {2 * i}."} for i in range(items)]
    _lines(root / "suites/kind.jsonl", questions)
    rubric = {"kind": "rubric", "rubric": "the kinder answer", "planted": planted}
    spec = {"kind": "answers", "items": "suites/kind.jsonl", "asked": "plain", "answer": rubric, "max_tokens": 4}
    _write(root / "suites/kind.yaml", yaml.safe_dump(spec))


def texts(start: int, end: int) -> list[tuple[str, str]]:
    """(label, text) for some of the frames, five word pairs each."""
    found = []
    for label, words in THEMES.items():
        for frame in FRAMES[start:end]:
            for i, word in enumerate(words):
                found.append((label, frame.format(word, words[(i + 1) % len(words)])))
    return found


def _task() -> dict[str, Any]:
    return {
        "labels": LABELS,
        "system": "Sort messages by topic.",
        "prompt": "prompts/shop/student.j2",
        "untuned_prompt": "prompts/shop/untuned.j2",
    }


def _script() -> dict[str, Any]:
    return {
        "generate": [
            "{word} {label} {word} and {word} again {word} {number}",
            "why is the {label} {word} when {word} was {word} {number}",
            "{word} {word}",
            "nothing {word} about it {word} {word} {number} and one two three four five six seven",
        ],
        "judge": {"after": "Message:", "words": {k: list(v) for k, v in THEMES.items()}},
    }


def _run(student: str) -> dict[str, Any]:
    return {
        "random_seed": 0,
        "task": "prompts/shop/task.yaml",
        "teacher": {"model": "script", "engine": "scripted", "script": "prompts/shop/teacher.json"},
        "augment": {
            "seeds": "prompts/shop/seeds.jsonl",
            "rows": 24,
            "requests_per_row": 2.5,
            "templates": [{"path": "prompts/shop/list.j2", "shots": 2, "sampling": {"max_tokens": 16, "stop": ["\n"]}}],
            "filters": [
                {"kind": "finished"},
                {"kind": "length", "min_words": 3, "max_words": 20},
                {"kind": "duplicate"},
                {"kind": "near_duplicate", "threshold": 0.8},
                {"kind": "contamination", "ngram": 8},
                {"kind": "judge", "template": "prompts/shop/judge.j2", "shots": 1},
            ],
        },
        "train": {
            "students": [student],
            "data": ["filtered", "seeds_only"],
            "sizes": [0, 4, 12],
            "random_seeds": [0],
            "epochs": 1,
            "min_steps": 2,
            "batch_size": 4,
        },
        "eval": {"suites": ["shop", "talk", "facts"]},
        "ship": {"student": student, "data": "filtered", "size": 12, "random_seed": 0},
    }


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _lines(path: Path, lines: list[dict[str, Any]]) -> None:
    _write(path, "".join(json.dumps(line) + "\n" for line in lines))


@contextmanager
def unscored(run: Run) -> Iterator[None]:
    """A run as it was before eval: its scorecards are out of the way."""
    moved = {run.cache / "scores": run.cache / "scores.away", run.folder / "eval": run.folder / "eval.away"}
    for path, away in moved.items():
        path.rename(away)
    try:
        yield
    finally:
        for path, away in moved.items():
            away.rename(path)


def rows_given(run: Run) -> tuple[Row, ...]:
    """The rows of the file that a run names."""
    return own_rows(run.task, run.prompts.student, run.file.augment.rows_file, run.root, f"runs/{run.name}.yaml")


def rows_of_seeds(run: Run) -> tuple[Row, ...]:
    """A run's seeds as training rows."""
    return seed_rows(run.task, run.prompts.student, run.seeds)


def every_sixth(items: Path) -> None:
    """Leave a sixth of a shipped suite's items in a copy of it, where their kind is what a test is about."""
    items.write_text("".join(items.read_text(encoding="utf-8").splitlines(keepends=True)[::6]), encoding="utf-8")
