"""The card of an exported student: what the hub reads (YAML), and for people base, rows, recipe, scores and limits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import yaml

from harness.augment.funnel import Funnel
from harness.check.exported import ScoredAgain
from harness.check.formats import HEADS as HEADS_OF_CHECK
from harness.check.formats import row
from harness.check.rules import overall
from harness.commands.card import stamp
from harness.commands.dataset_card import funnel_text, limits_of_rows, recipe_of_rows
from harness.config.run import Run
from harness.core.json_file import read_json
from harness.core.markdown import escaped, fenced, table
from harness.models.resolve import BUNDLED, Model
from harness.records import Row
from harness.report.one_student import Scored
from harness.train.grid import GridCell

SOURCES = {  # of rows, in the words of a card
    "teacher": "written by a model",
    "own": "a person's own",
    "seed": "human-written seeds",
    "replay": "general instructions, against forgetting",
    "document": "raw text",
}
Form = Literal["adapter", "merged", "gguf"]
HEADS = ("suite", "metric", "test items", "this student", "untuned", "difference to untuned")


@dataclass(frozen=True)
class ModelCard:
    """What the card says beside what the run's file does."""

    name: str  # of the student, without a path of this machine
    planned: GridCell
    log: dict[str, Any]  # cell.json
    form: Form
    check: str  # how a merged model was compared with its parts
    again: ScoredAgain | None  # what this form changed; None where eval scored it as it is, or nobody did
    serve: str  # the command that serves this folder
    licence: str  # of the export: as the user says, else the base's; empty where nobody says it
    base_licence: str  # empty where it is not known
    languages: tuple[str, ...]
    scores: tuple[Scored, ...]
    against: tuple[tuple[str, str], ...]  # (suite, how it stands to the strongest alternative there)
    score_limits: tuple[str, ...]
    funnel: Funnel | None  # None where augment made none of the rows
    template: str  # the student's chat template
    longest: int  # tokens of the longest row
    files: tuple[str, ...]  # that are exported beside the card

    @property
    def hub_base(self) -> str:
        """The base's id on the hub. Empty for a bundled model and a local folder."""
        return self.planned.model.name if "/" in self.planned.model.name else ""

    @property
    def merged(self) -> bool:
        """Whether it is a whole model, not an adapter."""
        return self.form != "adapter"


def model_card(run: Run, card: ModelCard) -> str:
    """README.md of a student."""
    rows = card.planned.rows
    front = yaml.safe_dump(front_matter(card), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---\n{stamp('export-student', card.files)}",
        f"# {escaped(card.name)}",
        _summary(run, card),
        f"## How it is asked\n\n{_asked(run, card)}",
        f"## How it is served\n\n{_served(card)}",
        f"## Scores\n\n{_scores(card)}",
        *([f"## Scored again in this form\n\n{_again(card.again)}"] if card.again else []),
        f"## How it was tuned\n\n{_recipe(run, card)}",
        f"## Its rows\n\n{_rows(run, card)}",
        "## Known limits\n\n" + "\n".join(f"- {escaped(limit)}" for limit in _limits(run, card, rows)),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(card: ModelCard) -> dict[str, Any]:
    """What the hub reads of a card, by its names."""
    relation = {"base_model": card.hub_base, "base_model_relation": "finetune" if card.merged else "adapter"}
    return {
        "license": card.licence or "unknown",
        **(relation if card.hub_base else {}),
        **({"language": list(card.languages)} if card.languages else {}),
        "library_name": {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}[card.form],
        "pipeline_tag": "text-generation",
        "tags": ["harness", *([] if card.planned.method.lora is None else ["lora"])],
    }


def _summary(run: Run, card: ModelCard) -> str:
    model, method = card.planned.model, card.planned.method
    name, rows = escaped(model.name), len(card.planned.rows)
    if first := card.planned.pretraining:
        name = f"{name}, pre-trained further on {len(first.rows)} pieces of raw text,"
    what = f"{name} with a LoRA adapter merged into it" if card.merged else f"A LoRA adapter of {name}"
    what = f"{name.removesuffix(',')}, all of whose weights were tuned" if method.lora is None else what
    licence = f"its licence is {escaped(card.base_licence)}" if card.base_licence else "its licence is not known here"
    return (
        f"{what}. It was tuned on {rows} rows for one task, and is exported from the run {escaped(run.name)}."
        f" The base is {escaped(model.name)}, {_revision(model)}; {licence}."
    )


def _revision(model: Model) -> str:
    if "/" in model.name:
        return f"revision {model.revision}"
    return f"whose files have the digest {model.weights_digest[:16]}"


def _asked(run: Run, card: ModelCard) -> str:
    row = card.planned.rows[0]
    messages = [{"role": message.role, "content": message.content} for message in row.messages]
    parts = [
        "It was tuned on this form and is scored in it: the system message and the user's turn as here, through the"
        " chat template of its base, up to where the assistant begins. In another form it is another, worse model.",
        fenced(json.dumps(messages[:-1], indent=1, ensure_ascii=False)),
        f"The answer to this one, a row it was tuned on: {escaped(row.answer)}",
    ]
    if run.task.labels:
        parts += ["It answers with one of these labels.", table(("label", "meaning"), list(run.task.labels.items()))]
    if "enable_thinking" in card.template:
        parts.append("Its chat template can think, and was told not to: pass `enable_thinking` false.")
    if "strftime_now" in card.template:
        parts.append("Its chat template writes the date. It was tuned and scored with 26 July 2024.")
    return "\n\n".join(parts)


def _served(card: ModelCard) -> str:
    merging = [f"Merged before it was packed, and {escaped(card.check)}."] if card.check else []
    if card.form == "gguf":
        how = "The Modelfile beside it has Ollama answer greedily and under the system message above. With llama.cpp or"
        how += " Ollama (THIS_FOLDER is where these files lie):"
        return "\n\n".join([how, fenced(card.serve), *merging])
    folder, base = json.dumps("THIS_FOLDER"), json.dumps(card.hub_base or card.planned.model.name)
    opened = (
        f'model = AutoModelForCausalLM.from_pretrained({folder}, dtype="auto")'
        if card.merged
        else f'model = AutoModelForCausalLM.from_pretrained({base}, dtype="auto")\n'
        f"model = PeftModel.from_pretrained(model, {folder})"
    )
    imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    code = [
        *([] if card.merged else ["from peft import PeftModel"]),
        imports,
        f"tokenizer = AutoTokenizer.from_pretrained({folder if card.merged else base})",
        opened,
        "messages = [...]  # as above",
        'form = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}',
        "ids = tokenizer.apply_chat_template(messages, **form)",
        "written = model.generate(**ids, max_new_tokens=64, do_sample=False)",
        'print(tokenizer.decode(written[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))',
    ]
    parts = ["With transformers, greedily, as it was scored:", f"```python\n{chr(10).join(code)}\n```"]
    parts += ["With vLLM:", fenced(card.serve)]
    if not card.hub_base and not card.merged:
        parts.append(
            f"Its base, {escaped(card.planned.model.name)}, is a folder of the machine on which it was tuned"
            f"{_bundled(card.planned.model)}: put the path of that folder in its place."
        )
    return "\n\n".join([*parts, *([f"Merged, and {escaped(card.check)}."] if card.check else [])])


def _bundled(model: Model) -> str:
    package = BUNDLED[model.name].package if model.name in BUNDLED else ""
    return f" (made from the Python package {escaped(package)}, in runs/.cache/models)" if package else ""


def _scores(card: ModelCard) -> str:
    if not card.scores:
        return "It has not been scored."
    about = (
        "95% intervals, each of its own number. Every number is on test items; nothing was chosen on them. The"
        " differences are paired, item by item, and about these weights: training again with another random seed gives"
        " other ones. The untuned base is asked without examples, in the form that suits it best on dev items."
    )
    rivals = [f"- {escaped(suite)}: {escaped(said)}" for suite, said in card.against]
    against = "Against what could be used in its place:\n\n" + "\n".join(rivals) if rivals else ""
    return "\n\n".join(filter(None, [table(HEADS, [scored.cells for scored in card.scores]), about, against]))


def _again(again: ScoredAgain) -> str:
    """What this form changed against the scores above, which are of base and adapter apart."""
    changed = [f"- {escaped(change.words)}" for change in again.changes]
    changed += [f"- not asked: {escaped(why)}" for why in again.left_out]
    about = "The scores above are of the student as eval scored it. This form was asked the same items:"
    gate = table(HEADS_OF_CHECK, [row(decision) for decision in again.decisions]) if again.decisions else ""
    judged = f"By the limits of its suites: {overall(again.decisions)}." if again.decisions else ""
    return "\n\n".join(filter(None, [about, "\n".join(changed), gate, judged]))


def _recipe(run: Run, card: ModelCard) -> str:
    planned, log, train = card.planned, card.log, run.file.train
    few = max(1, len(log["losses"]) // 10)
    lines = [
        ("method", planned.method.words),
        *_pretraining(planned),
        (
            "learning rate",
            f"{planned.learning_rate:g} at its peak, warmed up over {train.warmup_ratio:.0%} of the steps",
        ),
        ("steps", _steps(planned.steps, log, train.batch_size, len(planned.rows))),
        ("optimizer", "AdamW, no weight decay, gradients clipped at 1"),
        ("loss", f"on {'every' if run.task.loss == 'all' else 'the last'} answer and the token that ends its turn"),
        (
            "loss, first and last tenth",
            f"{_mean(log['losses'][:few]):.3f}, {_mean(log['losses'][-few:]):.3f} nats a token",
        ),
        ("tokens read", f"{log['tokens']} in {log['seconds']:.0f} s on {log['device']} in {log['dtype']}"),
        ("random seed", str(planned.cell.random_seed)),
        ("chat template", f"digest {log.get('chat_template', 'not recorded')}"),
        ("made by", f"harness {version('harness')}{_commit(log)}, {_packages(log)}"),
    ]
    return table(("setting", "value"), lines)


def _pretraining(planned: GridCell) -> Iterator[tuple[str, str]]:
    """What came before tuning, where something did."""
    if first := planned.pretraining:
        log = read_json(first.folder / "cell.json")
        yield (
            "continued pre-training",
            f"{first.steps} steps of all weights on {len(first.rows)} pieces of raw text, {log['tokens']} tokens read,"
            f" learning rate {first.learning_rate:g}, loss {log['losses'][0]:.3f} -> {log['losses'][-1]:.3f}",
        )


def _steps(most: int, log: dict[str, Any], batch_size: int, rows: int) -> str:
    """How many optimizer steps its weights have had."""
    best = log.get("best_step")
    passes = f"{(best or most) * batch_size / rows:.3g} passes over the rows"
    if best is None:
        return f"{most} of {batch_size} rows: {passes}"
    loss = dict(log["validation"]).get(best)
    reached = f", {loss:.3f} nats a token" if loss is not None else ""
    return (
        f"{best} of {batch_size} rows: {passes}. Of {log['steps_done']} steps done and {most} at most, these are the"
        f" weights with the lowest loss on dev items{reached}"
    )


def _rows(run: Run, card: ModelCard) -> str:
    rows = card.planned.rows
    sources = Counter(row.provenance.source for row in rows)
    counted = ", ".join(f"{count} {SOURCES[source]}" for source, count in sources.most_common())
    parts = [
        f"{len(rows)} rows ({counted}), drawn from {card.planned.available} by the arm"
        f" {escaped(card.planned.cell.data)}. Rows with a card of their own are written by harness export"
        f" {escaped(run.name)}."
    ]
    if sources.keys() & {"teacher", "own"}:
        parts.append(recipe_of_rows(run, rows))
    if card.funnel and sources["teacher"]:
        parts += [f"What became of {card.funnel.requested} requests:", funnel_text(card.funnel)]
    return "\n\n".join(parts)


def _limits(run: Run, card: ModelCard, rows: Sequence[Row]) -> Iterator[str]:
    yield "It is made for the one task above. What else it can do was changed by tuning and is known as far as scored."
    if not card.scores:
        yield "Nobody has scored it."
    yield f"Its longest row has {card.longest} tokens: nothing is known of longer inputs."
    yield from card.score_limits
    if card.planned.method.kind == "qlora" and card.merged:
        yield "It was tuned on a base in 4 bits, and merged into the base in full: as it was scored."
    if run.file.shuffle_labels:
        yield "Its labels were dealt at random: a negative control, of no use."
    if card.funnel and any(row.provenance.source == "teacher" for row in rows):
        yield from (f"Of its rows: {limit}" for limit in limits_of_rows(run, rows, card.funnel))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _commit(log: dict[str, Any]) -> str:
    made = log.get("environment", {})
    return f" (commit {made['commit'][:12]}{', with changes' if made.get('dirty') else ''})" if "commit" in made else ""


def _packages(log: dict[str, Any]) -> str:
    packages = log.get("environment", {}).get("packages", {})
    return ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "peft") if name in packages)
