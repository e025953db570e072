"""Rows made in steps: what each step sees, what is picked, what ends early, where a row came from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.augment.funnel import Funnel
from harness.augment.plan import plan_rows
from harness.augment.rows import Lost, read_rejected
from harness.augment.stage import augment
from harness.commands.dry_run import describe_augment
from harness.config.inputs import rows_source
from harness.config.load import load_run
from harness.config.run import Run
from harness.config.teacher import VLLMTeacher
from harness.core.json_file import read_jsonl
from harness.core.terminal import Advance, Stop
from harness.engines.scripted import ScriptedEngine
from harness.errors import MachineError, UsageError
from harness.models.teachers import Teachers
from harness.models.token_count import fast_tokenizer
from harness.records import Pair, Request, Row
from tests.fakes import FakeGenerator, Passing, Quiet, answered, prompt_of

TEACHERS = Teachers(own="t@1")
ASK = {"path": "prompts/q/ask.j2", "name": "question", "shots": 1, "sampling": {"max_tokens": 40}}
ANSWER = {"path": "prompts/q/answer.j2", "name": "answer", "shots": 0, "form": "chat", "sampling": {"max_tokens": 40}}
CHECK = {"path": "prompts/q/check.j2", "name": "critique", "shots": 0, "sampling": {}}
ROW = {"text": "question", "answer": "answer"}
Say = Callable[[Request], str]


TEMPLATES = {
    "ask": "Write question {{ index }} like: {% for s in shots %}{{ s.text }} {% endfor %}",
    "answer": "Answer: {{ question }}",
    "check": "Criticise {{ answer }} to {{ question }}",
}
OF_OBJECT = {"answer": "{{ qa.level + 1 }} {{ qa.question }}"}


def project(
    root: Path,
    steps: list[dict[str, Any]],
    row: dict[str, Any] | None = ROW,
    files: dict[str, str] = TEMPLATES,
    **changes: Any,
) -> Run:
    """A question-answer project whose rows are made in these steps."""
    for name, text in (TEMPLATES | files).items():
        path = root / f"prompts/q/{name}.j2"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "prompts/q/seeds.jsonl").write_text(
        "".join(json.dumps({"question": f"what is {i}?", "answer": f"it is {i}"}) + "\n" for i in range(6))
    )
    (root / "prompts/q/few.jsonl").write_text('{"question": "who?", "answer": "me"}\n')
    (root / "suites").mkdir(exist_ok=True)
    (root / "suites/talk.jsonl").write_text('{"prompt": "Say hello."}\n')
    (root / "suites/talk.yaml").write_text("kind: open_ended\nitems: suites/talk.jsonl\nmax_tokens: 8\n")
    section = {"seeds": "prompts/q/seeds.jsonl", "rows": 20, "requests_per_row": 1, "max_requests_per_row": 2}
    section |= {"steps": steps, **({"row": row} if row else {}), **changes}
    run = {
        "task": {"system": "Answer."},
        "teacher": {"engine": "openai", "model": "t", "base_url": "http://127.0.0.1:9/v1"},
        "augment": section,
        "train": {"students": ["nobody"], "sizes": [0, 4]},
        "eval": {"suites": ["talk"]},
    }
    (root / "runs").mkdir(exist_ok=True)
    (root / "runs/q.yaml").write_text(yaml.safe_dump(run, sort_keys=False))
    return load_run(root / "runs/q.yaml")


def say(request: Request) -> str:
    """A question that tells its number, an answer that tells its question."""
    prompt, step = prompt_of(request), request.origin.step
    if step == "question":
        return f"why {prompt.split()[2]}?"
    return f"{step} of <{prompt}>"


def run_it(run: Run, say: Say = say) -> tuple[Passing, Funnel]:
    engine = Passing(FakeGenerator(say))
    funnel = augment(run, TEACHERS, lambda: engine, Quiet(), Stop())
    assert funnel is not None
    return engine, funnel


class Watching(Quiet):
    """Keeps how far work was said to be: (done, of how many)."""

    def __init__(self) -> None:
        super().__init__()
        self.moves: list[tuple[float, int]] = []

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Advance]:
        """As Terminal."""
        yield lambda done, note: self.moves.append((done, total))


def rows_of(run: Run) -> list[Row]:
    return [row for _, row in read_jsonl(run.folder / "augment/train.jsonl", Row)]


def lost_of(run: Run) -> tuple[Lost, ...]:
    return read_rejected(run.folder / "augment/rejected.jsonl")[1]


def test_a_step_sees_what_earlier_ones_wrote_and_the_row_says_who_wrote_what(tmp_path: Path) -> None:
    run = project(tmp_path, [ASK, ANSWER, CHECK], {"text": "question", "answer": "critique"})
    engine, funnel = run_it(run)
    assert (funnel.kept, funnel.requested, len(engine.completed)) == (20, 20, 60)
    row = rows_of(run)[3]
    assert row.text == "why 3?"
    assert row.answer == "critique of <Criticise answer of <Answer: why 3?> to why 3?>"
    assert [step.name for step in row.provenance.steps] == ["question", "answer", "critique"]
    assert [step.text for step in row.provenance.steps][1] == "answer of <Answer: why 3?>"
    assert row.provenance.request == row.provenance.steps[-1].request
    assert len({step.template_digest for step in row.provenance.steps}) == 3
    assert len({request.key for request in engine.requests}) == 60


def test_progress_counts_rows_however_often_a_step_asks(tmp_path: Path) -> None:
    run = project(tmp_path, [{**OBJECT, "attempts": 3}, ANSWER], OF_QA, OF_OBJECT, max_requests_per_row=1)

    asked: Counter[int] = Counter()

    def at_last(request: Request) -> str:
        if request.origin.step != "qa":
            return say(request)
        place = request.sample_index % 10_000_000
        asked[place] += 1
        return json.dumps({"question": f"why {place}?", "level": 1}) if asked[place] > 2 or not place else "no JSON"

    terminal = Watching()
    engine = Passing(FakeGenerator(at_last))
    augment(run, TEACHERS, lambda: engine, terminal, Stop())
    assert len(engine.completed) == 20 * 3 + 20 - 2  # the first row needs one attempt, the others three
    done = [done for done, _ in terminal.moves]
    assert max(done) == done[-1] == 20
    assert {total for _, total in terminal.moves} == {20}


def test_a_row_may_be_a_template_over_steps_and_attributes(tmp_path: Path) -> None:
    row = {"text": "{{ greeting }} {{ question }}", "answer": '{"greeting": {{ greeting | tojson }}, "n": {{ n * 2 }}}'}
    run = project(tmp_path, [ASK], row, attributes={"greeting": ["Hi,", "Dear team,"], "n": {"range": [3, 3]}})
    _, funnel = run_it(run)
    assert funnel.kept == 20
    rows = rows_of(run)
    assert {row.text.split(" why")[0] for row in rows} == {"Hi,", "Dear team,"}
    for made in rows:
        assert json.loads(made.answer) == {"greeting": made.provenance.attributes["greeting"], "n": 6}
        assert made.text.startswith(made.provenance.attributes["greeting"])


def test_what_a_filter_of_a_step_drops_costs_no_further_call(tmp_path: Path) -> None:
    short = {**ASK, "filters": [{"kind": "length", "max_words": 1}]}
    run = project(tmp_path, [short, ANSWER, CHECK], max_requests_per_row=1)
    engine, funnel = run_it(run, lambda r: "one two" if "question 1" in prompt_of(r) else "one")
    dropped = 11  # 1 and 10 to 19
    assert (funnel.requested, funnel.kept) == (20, 20 - dropped)
    assert funnel.filtered == {"question: length": dropped}
    assert funnel.calls_saved == 2 * dropped == 60 - len(engine.completed)
    assert {(line.lost, line.step, line.filter) for line in lost_of(run)} == {("filtered", "question", "length")}
    assert "question: length" in funnel.table()
    assert "saved 22 calls" in funnel.table()


SCHEMA = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "level": {"type": "integer", "minimum": 1}},
    "required": ["question", "level"],
}
OF_QA = {"text": "qa.question", "answer": "answer"}
OBJECT = {**ASK, "name": "qa", "output": "json", "sampling": {"json_schema": SCHEMA, "max_tokens": 40}}


def test_an_object_is_validated_and_its_keys_are_there_for_later_steps(tmp_path: Path) -> None:
    run = project(tmp_path, [OBJECT, ANSWER], OF_QA, OF_OBJECT, max_requests_per_row=1)

    def answer(request: Request) -> str:
        number = prompt_of(request).split()[2]
        if request.origin.step != "qa":
            return say(request)
        return json.dumps({"question": f"why {number}?", "level": 0 if number == "5" else 3})

    _, funnel = run_it(run, answer)
    assert rows_of(run)[0].answer == "answer of <4 why 0?>"
    assert (funnel.kept, funnel.unparsed, funnel.ended_at) == (19, 1, {"qa": 1})
    (line,) = lost_of(run)
    assert "level: 0 is less than the minimum of 1" in line.reason


def test_what_is_not_in_the_form_asked_for_is_asked_again_a_stated_number_of_times(tmp_path: Path) -> None:
    asked: Counter[int] = Counter()

    def answer(request: Request) -> str:
        if request.origin.step != "qa":
            return say(request)
        place = request.sample_index % 10_000_000
        asked[place] += 1
        good = {"question": f"why {place}?", "level": 1}
        return json.dumps(good) if asked[place] > place % 4 else "I would rather not"

    run = project(tmp_path, [{**OBJECT, "attempts": 3}, ANSWER], OF_QA, OF_OBJECT, max_requests_per_row=1)
    engine, funnel = run_it(run, answer)
    assert funnel.kept == 15
    assert Counter(asked.values()) == {1: 5, 2: 5, 3: 10}
    assert len({request.key for request in engine.requests}) == len(engine.requests)
    assert {line.lost for line in lost_of(run)} == {"unparsed"}


def test_the_answer_that_most_completions_give_is_taken(tmp_path: Path) -> None:
    many = {**ANSWER, "samples": 5, "pick": {"by": "majority", "min_share": 0.5}}
    run = project(tmp_path, [ASK, many], max_requests_per_row=1)

    def answer(request: Request) -> str:
        if request.origin.step == "question":
            return say(request)
        sample = request.sample_index // 160_000_000
        number = int(prompt_of(request).split()[-1].strip("?"))
        return ["red", "Red.", "blue", "green", "RED" if number % 2 else "grey"][sample]

    engine, funnel = run_it(run, answer)
    assert len(engine.completed) == 20 + 100
    assert (funnel.kept, funnel.not_picked) == (10, 10)
    assert {row.answer for row in rows_of(run)} == {"red"}
    assert "2 of 5 completions agree" in lost_of(run)[0].reason


def test_a_computed_value_decides_which_completion_is_right(tmp_path: Path) -> None:
    attributes = {"a": {"range": [2, 9]}, "b": {"range": [10, 90], "step": 10}, "gold": {"compute": "{{ a * b }}"}}
    sums = {**ANSWER, "samples": 2, "pick": {"by": "equals", "to": "gold"}}
    run = project(tmp_path, [ASK, sums], attributes=attributes, max_requests_per_row=1)
    (tmp_path / "prompts/q/answer.j2").write_text("{{ a }} times {{ b }}")
    run = load_run(run.root / "runs/q.yaml")

    def answer(request: Request) -> str:
        if request.origin.step == "question":
            return say(request)
        a, _, b = prompt_of(request).split()
        right = request.sample_index >= 160_000_000 and int(a) != 7
        return f"So {a} x {b} = {int(a) * int(b) if right else 1}"

    _, funnel = run_it(run, answer)
    rows = rows_of(run)
    assert funnel.not_picked == 20 - len(rows) > 0
    for row in rows:
        drawn = row.provenance.attributes
        assert row.answer.endswith(f"= {drawn['gold']}")
        assert int(drawn["gold"]) == int(drawn["a"]) * int(drawn["b"])
        assert drawn["b"] in {str(n) for n in range(10, 91, 10)}


def test_a_python_function_picks_and_may_refuse(tmp_path: Path) -> None:
    (tmp_path / "longest.py").write_text(
        "def score(c):\n    return None if 'why 4' in c['question'] else float(len(c['candidate']))\n"
    )
    many = {**ANSWER, "samples": 3, "pick": {"by": "python", "file": "longest.py"}}
    run = project(tmp_path, [ASK, many], max_requests_per_row=1)
    _, funnel = run_it(run, lambda r: say(r) + "!" * (r.sample_index // 160_000_000))
    assert (funnel.kept, funnel.not_picked) == (19, 1)
    assert all(row.answer.endswith("!!") for row in rows_of(run))
    assert lost_of(run)[0].reason == "score in longest.py refuses every completion"


def test_a_judge_picks_the_likeliest(tmp_path: Path) -> None:
    many = {**ANSWER, "samples": 3, "pick": {"by": "judge", "template": "prompts/q/best.j2"}}
    best = {"best": "Is {{ candidate }} a good answer to {{ question }}?"}
    run = project(tmp_path, [ASK, many], ROW, best)
    engine = Passing(FakeGenerator(
        lambda r: f"{say(r)} v{r.sample_index // 160_000_000}" if not r.sampling.choices
        else (" yes", {" yes": -0.1 if "v1 a good" in prompt_of(r) else -3.0, " no": -1.0})
    ))  # fmt: skip
    funnel = augment(run, TEACHERS, lambda: engine, Quiet(), Stop())
    assert funnel is not None
    assert len(engine.completed) == 20 * (1 + 3 + 3)
    assert all(row.answer.endswith("v1") for row in rows_of(run))
    planned = describe_augment(load_run(run.root / "runs/q.yaml", ["augment.rows=10"]), TEACHERS, len)
    assert [line.split()[:3] for line in planned.splitlines()[1:4]] == [
        ["question", "10", "requests"], ["answer", "30", "requests"], ["answer:", "judge", "30"],
    ]  # fmt: skip


def test_attributes_are_drawn_by_weight_under_conditions_and_again_the_same(tmp_path: Path) -> None:
    attributes = {
        "tone": {"values": {"calm": 3, "angry": 1, "never": 0}},
        "why": {"values": ["late", "broken"], "when": {"tone": "angry"}},
    }
    run = project(tmp_path, [ASK, ANSWER], attributes=attributes)
    plan = plan_rows(run, TEACHERS)
    drawn = [plan.begin(("", j)).attributes for j in range(4000)]
    tones = Counter(str(one["tone"]) for one in drawn)
    assert 0.72 < tones["calm"] / 4000 < 0.78
    assert "never" not in tones
    assert {one["why"] for one in drawn if one["tone"] == "calm"} == {""}
    assert {one["why"] for one in drawn if one["tone"] == "angry"} == {"late", "broken"}
    assert [plan.begin(("", j)).attributes for j in range(50)] == drawn[:50]


def test_every_piece_of_the_documents_has_its_turn_and_a_row_names_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "bike.md").write_text(
        "# Bikes\n\n" + "\n\n".join(f"Part {i} of the bike is made of steel and glue." for i in range(5))
    )
    run = project(tmp_path, [ASK, ANSWER], documents={"path": "texts", "words": 12})
    (tmp_path / "prompts/q/ask.j2").write_text(
        "Write question {{ index }} on {{ document.title }}: {{ document.text }}"
    )
    run = load_run(run.root / "runs/q.yaml")
    run_it(run)
    pieces = {piece.id: piece for piece in plan_rows(run, TEACHERS).documents}
    assert len(pieces) == 5
    assert Counter(row.provenance.document for row in rows_of(run)) == dict.fromkeys(pieces, 4)
    assert {piece.title for piece in pieces.values()} == {"Bikes"}


def with_teacher(run: Run, model: Path, most: int) -> Run:
    """The same run with a teacher in vLLM that reads so many tokens."""
    teacher = VLLMTeacher(engine="vllm", model=str(model), max_model_len=most)
    return replace(run, file=run.file.model_copy(update={"teacher": teacher}))


def test_a_piece_that_the_teacher_cannot_read_is_named_before_it_is_asked(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "a.txt").write_text("short words stand here\n\n" + "extraordinarily " * 30)
    cited = {"answer": "On {{ document.text }} answer {{ question }}"}
    documents = {"path": "a.txt", "words": 30, "min_words": 1}
    run = project(tmp_path, [ASK, {**ANSWER, "form": "completion"}], files=cited, documents=documents)
    count = fast_tokenizer(tiny_model)
    assert count is not None
    tokens = count("On " + " ".join(["extraordinarily"] * 30) + " answer word")
    with pytest.raises(UsageError) as caught:
        augment(with_teacher(run, tiny_model, tokens), TEACHERS, lambda: pytest.fail("asked"), Quiet(), Stop())
    assert str(caught.value) == (
        "runs/q.yaml: augment.documents: 1 of 2 pieces are too long for the teacher: a.txt:3 makes a prompt of"
        f" {tokens} tokens with prompts/q/answer.j2, and teacher.max_model_len is {tokens}, completion included:"
        " lower documents.words, or raise it"
    )
    run_it(with_teacher(run, tiny_model, tokens + 1))


def test_another_document_in_the_folder_makes_other_rows(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("the first document has these eight words in it")
    run = project(tmp_path, [ASK, ANSWER], documents={"path": "texts"})
    before = rows_source(run)
    (tmp_path / "texts/b.txt").write_text("a second document")
    assert rows_source(run) != before


def test_kept_rows_join_the_pool_and_the_same_calls_give_the_same_rows(tmp_path: Path) -> None:
    growing = {**ASK, "pool_shots": 2}

    def grown(root: Path) -> Run:
        return project(root, [growing, ANSWER], pool_every=6, requests_per_row=2)

    run = grown(tmp_path / "a")
    engine, _ = run_it(run)
    asked = [r for r in engine.requests if r.origin.step == "question"]
    kept = [row.example.id for row in rows_of(run)]
    assert all(len(r.origin.seeds) == 1 for r in asked[:6])
    for r in asked[6:]:
        _, *pool = r.origin.seeds
        assert len(pool) == 2
        assert set(pool) <= set(kept[: 6 * (r.sample_index // 6)])
    before = (run.folder / "augment/train.jsonl").read_bytes()
    (run.folder / "augment/manifest.json").unlink()
    again, funnel = run_it(run)
    assert (again.completed, funnel.calls_paid) == ([], 0)
    assert (run.folder / "augment/train.jsonl").read_bytes() == before
    other = grown(tmp_path / "b")
    run_it(other)
    assert (other.folder / "augment/train.jsonl").read_bytes() == before


def test_a_conversation_is_put_together_of_what_steps_wrote(tmp_path: Path) -> None:
    follow = {**CHECK, "name": "follow_up"}
    reply = {**ANSWER, "name": "reply"}
    run = project(tmp_path, [ASK, ANSWER, follow, reply],
                  {"turns": ["question", "answer"], "text": "follow_up", "answer": "reply"})  # fmt: skip
    run_it(run)
    roles = [message.role for message in rows_of(run)[0].messages]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert rows_of(run)[0].messages[1].content == "why 0?"


def test_nothing_kept_names_the_step_and_its_cause(tmp_path: Path) -> None:
    run = project(tmp_path, [OBJECT, ANSWER], OF_QA, OF_OBJECT)
    with pytest.raises(MachineError, match=r"40 of 40 completions gave no row.*there is no JSON in it"):
        run_it(run, lambda r: "no")


WRONG: list[tuple[str, list[dict[str, Any]], dict[str, Any] | None, dict[str, Any], str]] = [
    ("unnamed", [{**ASK, "name": None}, ANSWER], ROW, {}, "steps.0: name: this key is missing"),
    ("twice", [ASK, {**ANSWER, "name": "question"}], ROW, {}, "steps.1.name: 'question' is the name of steps.0 too"),
    ("shots", [{**ASK, "name": "shots"}], ROW, {}, "'shots' is what templates call something else"),
    ("attribute", [ASK, ANSWER], ROW, {"attributes": {"question": ["a", "b"]}}, "'question' is the name of an attribute too"),
    ("later", [{**ASK, "path": "prompts/q/answer.j2", "name": "first"}, {**ANSWER, "name": "question"}], {"text": "first", "answer": "question"}, {}, "the step 'question' writes after 'first'"),
    ("itself", [{**ASK, "path": "prompts/q/answer.j2"}, ANSWER], ROW, {}, "'question' is this step itself, which has not written yet"),
    ("unknown", [{**ASK, "path": "prompts/q/check.j2"}], {"text": "question", "answer": "question"}, {}, "'answer' is undefined"),
    ("row", [ASK, ANSWER], {"text": "question", "answer": "anser"}, {}, "augment.row: answer: 'anser': there is no step 'anser' (did you mean 'answer'?)"),
    ("field", [ASK, ANSWER], {"txt": "question", "answer": "answer"}, {}, "augment.row: 'txt' (did you mean 'text'?)"),
    ("lacking", [ASK, ANSWER], {"text": "question"}, {}, "augment.row: answer: this key is missing"),
    ("schema", [{**ASK, "output": "json"}, ANSWER], ROW, {}, "sampling.json_schema: this key is missing"),
    ("no schema", [{**OBJECT, "sampling": {"json_schema": {"type": "objekt"}}}, ANSWER], ROW, {}, "sampling.json_schema: not a JSON Schema"),
    ("list", [{**OBJECT, "sampling": {"json_schema": {"type": "array"}}}, ANSWER], ROW, {}, "json_schema.type: 'array': what a step writes as JSON is an object"),
    ("nowhere", [{**OBJECT, "sampling": {"json_schema": {"properties": {"a": {"$ref": "#/$defs/b"}}}}}, ANSWER], ROW, {}, "$ref '#/$defs/b' points to nothing"),
    ("key", [OBJECT, ANSWER], {"text": "qa.qestion", "answer": "answer"}, {"files": OF_OBJECT}, "text: 'qa.qestion': the schema of the step 'qa' has no 'qestion' (did you mean 'question'?): "),
    ("object", [OBJECT, ANSWER], {"text": "qa", "answer": "answer"}, {"files": OF_OBJECT}, "text: 'qa': the step 'qa' writes a value of type object there"),
    ("text", [ASK, ANSWER], {"text": "question.words", "answer": "answer"}, {}, "the step 'question' writes a text, which has no keys"),
    ("drawn", [ASK, ANSWER], {"text": "tone.of", "answer": "answer"}, {"attributes": {"tone": ["a"]}}, "the attribute 'tone' has no keys"),
    ("samples", [ASK, {**ANSWER, "samples": 3}], ROW, {}, "samples is 3, and pick does not say"),
    ("pick", [ASK, {**ANSWER, "pick": {"by": "majorty"}}], ROW, {}, "majority"),
    ("judge", [{**ASK, "samples": 2, "pick": {"by": "judge", "template": "prompts/q/check.j2"}}, ANSWER], ROW, {}, "the step 'answer' writes after 'question'"),
    ("weights", [ASK, ANSWER], ROW, {"attributes": {"tone": {"values": {"a": 0}}}}, "all weights are 0"),
    ("no values", [ASK, ANSWER], ROW, {"attributes": {"tone": []}}, "augment.attributes.tone: values: it names no value"),
    ("when", [ASK, ANSWER], ROW, {"attributes": {"tone": {"values": ["a"], "when": {"mood": "b"}}}}, "'mood' is no attribute above this one"),
    ("compute", [ASK, ANSWER], ROW, {"attributes": {"tone": {"compute": "{{ mood }}"}}}, "tone.compute:1: 'mood' is undefined; a template here is given: nothing"),
    ("pool", [{**ASK, "pool_shots": 2}, ANSWER], ROW, {}, "pool_every: this key is missing"),
    ("filter", [{**ASK, "filters": [{"kind": "length", "on": "answer"}]}, ANSWER], ROW, {}, "a step wrote: input, question"),
    ("document", [ASK, ANSWER], ROW, {"documents": {"path": "nowhere"}}, "nowhere"),
    ("row template", [ASK, ANSWER], {"text": "{{ quesion }}", "answer": "answer"}, {}, "augment.row.text:1: 'quesion' is undefined (did you mean 'question'?)"),
    ("row syntax", [ASK, ANSWER], {"text": "question", "answer": "{{ answer "}, {}, "augment.row.answer:1: "),
    ("both", [ASK, ANSWER], ROW, {"templates": [ASK]}, "give one of templates and steps"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "row", "changes", "expected"), [case[1:] for case in WRONG], ids=[c[0] for c in WRONG]
)
def test_a_mistake_in_steps_is_named_before_anything_is_spent(
    tmp_path: Path, steps: list[dict[str, Any]], row: dict[str, Any] | None, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UsageError) as caught:
        plan_rows(project(tmp_path, steps, row, **changes), TEACHERS)
    assert expected in str(caught.value)


def test_a_filter_that_compares_rows_is_refused_in_a_step(tmp_path: Path) -> None:
    run = project(tmp_path, [{**ASK, "filters": [{"kind": "duplicate"}]}, ANSWER])
    with pytest.raises(UsageError, match="the filter duplicate compares rows with each other: it belongs in"):
        run_it(run)


def test_a_cap_ends_the_work_keeps_everything_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    def capped(caps: dict[str, float], terminal: Quiet) -> tuple[Run, Passing, Funnel | None]:
        run = project(tmp_path / "capped", [ASK, ANSWER], caps=caps)
        tokens = {"prompt_tokens": 90, "completion_tokens": 10}
        counted = ScriptedEngine(lambda r: answered(r, say(r)).model_copy(update=tokens), concurrency=4)
        engine = Passing(counted)
        return run, engine, augment(run, TEACHERS, lambda: engine, terminal, Stop())

    terminal = Quiet()
    run, first, funnel = capped({"tokens": 1700}, terminal)
    assert funnel is not None
    assert 17 <= len(first.completed) < 40
    assert 0 < funnel.kept < 20
    assert "augment.caps.tokens (1700) is reached: 1700 tokens" in terminal.said[-1]
    _, second, funnel = capped({"tokens": 100_000}, terminal)
    assert funnel is not None
    assert (funnel.kept, len(first.completed) + len(second.completed)) == (20, 40)
    whole = project(tmp_path / "whole", [ASK, ANSWER])
    run_it(whole)
    rows = [(row.text, row.answer) for row in rows_of(whole)]
    assert [(row.text, row.answer) for row in rows_of(run)] == rows


def test_the_funnel_says_what_is_kept_of_each_attribute_and_document(tmp_path: Path) -> None:
    short = {**ASK, "filters": [{"kind": "length", "max_words": 2}]}
    run = project(tmp_path, [short, ANSWER], attributes={"tone": ["calm", "angry"]}, files={
        "ask": "Write question {{ index }} {{ tone }}"}, max_requests_per_row=1)  # fmt: skip
    _, funnel = run_it(run, lambda r: "one two three" if prompt_of(r).endswith("angry") else say(r))
    begun = {tone: counts[0] for tone, counts in funnel.by["attribute tone"].items()}
    assert sum(begun.values()) == 20
    assert funnel.by["attribute tone"] == {"calm": (begun["calm"],) * 2, "angry": (begun["angry"], 0)}
    assert f"  kept by attribute tone: angry 0 of {begun['angry']} (0% [0%, " in funnel.table()
    assert all(line.attributes == {"tone": "angry"} for line in lost_of(run))


def test_a_teacher_writes_what_the_own_rows_lack(tmp_path: Path) -> None:
    run = project(tmp_path, [ASK, ANSWER], rows_file="prompts/q/seeds.jsonl", filters=[{"kind": "duplicate"}], seeds="prompts/q/few.jsonl", files={})  # fmt: skip
    engine, funnel = run_it(run)
    assert (funnel.kept, funnel.requested, len(engine.completed)) == (20, 20, 2 * 14)
    assert [row.provenance.source for row in rows_of(run)] == ["own"] * 6 + ["teacher"] * 14
    assert funnel.wanted == 20
    planned = describe_augment(load_run(run.root / "runs/q.yaml", ["augment.rows=16"]), TEACHERS, len)
    assert "6 rows are read from prompts/q/seeds.jsonl\n" in planned
    assert [line.split()[:2] for line in planned.splitlines()[1:3]] == [["question", "10"], ["answer", "10"]]


def test_prompts_show_the_examples_of_the_file_in_place_of_the_seeds(tmp_path: Path) -> None:
    run = project(tmp_path, [ASK, ANSWER], shots_file="prompts/q/few.jsonl")
    engine, _ = run_it(run)
    assert {prompt_of(r).split("like:")[1].strip() for r in engine.requests if r.origin.step == "question"} == {"who?"}


def test_a_student_picks_what_it_finds_likeliest_a_token(tmp_path: Path, tiny_model: Path) -> None:
    from harness.engines.transformers import TransformersEngine

    many = {**ANSWER, "samples": 3, "pick": {"by": "student", "model": "tiny"}}
    run = project(tmp_path, [ASK, many], rows=6)
    texts = ["so it is", "it is so so it is", "why not"]
    engine = Passing(
        FakeGenerator(lambda r: say(r) if r.origin.step == "question" else texts[r.sample_index // 160_000_000])
    )
    student = TransformersEngine(tiny_model)
    augment(run, TEACHERS, lambda: engine, Quiet(), Stop(), lambda name: student)
    for row in rows_of(run):
        prompt = row.messages[:-1]
        pairs = [Pair(context=student.prompt_ids(prompt), continuation=student.answer_ids(prompt, t)) for t in texts]
        means = [measured.logprob / measured.tokens for measured in student.loglikelihood(pairs)]
        assert row.answer == texts[means.index(max(means))]
    early = {**ASK, "samples": 2, "pick": {"by": "student", "model": "tiny"}}
    with pytest.raises(UsageError, match="before its question is written"):
        run_it(project(tmp_path / "early", [early, ANSWER], {"text": "answer", "answer": "question"}))
