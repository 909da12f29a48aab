"""L8 · The data set is not what the trainer takes it for: columns, pairs, answers or chat template are off.

Symptom: the loss is fine and the model learns nothing of what was meant: a preference margin that cannot grow, answers
that are empty or begin with the question, a chat model that speaks without its turns.
Root cause: rows of one objective under another trainer; `chosen` and `rejected` from one column, both with the prompt
once more; answers lost in a conversion; conversations made text by `str()` or joined, with no chat template; all roles
a user's, or one (`human`) that the template passes by; the Trainer drops a column that `forward(**kwargs)` names.
Fix: the schema of the objective: SFT `messages`, `text`, or `prompt` and `completion`; preference and reward `prompt`,
`chosen`, `rejected`, the prompt in its own column only; rollouts `prompt`. Give conversations as messages, or call
`tokenizer.apply_chat_template(messages, tokenize=False)`; set `remove_unused_columns=False` where it drops some.
Stays silent when: some pairs tie and some answers are empty, fewer than half (of what batches teach, two fifths); all
teach one token that is no end of texts; text has no roles; the tokenizer no chat template; prepared rows of unknown
origin; extra columns; a reward model has the prompt in both; views of a row.
Sources:
- https://github.com/huggingface/trl/issues/1541 (2024-04-15): an example script that put all messages into both answers
- https://github.com/axolotl-ai-cloud/axolotl/pull/2755 (2025-06-04): the columns that DPO needs, and no others
- https://github.com/huggingface/trl/issues/1687 (2024-06-01): no chat template in preference data
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from sightline.guard.check import CannotTell, Finding, Severity, Verdict
from sightline.guard.evidence import BatchSeen, DataSeen, PromptMasksSeen, PromptsSeen, Setup, TiedSeen
from sightline.guard.evidence.conversations import ANSWERS, PRINTED, glued, readable, said, turns, unanswered, unheard
from sightline.guard.evidence.empty_answers import empty_answers
from sightline.guard.evidence.ties import tied
from sightline.guard.evidence.unread_columns import unread
from sightline.guard.evidence.untemplated import passed_by, without_roles
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vlm")
PROMPT = 8  # characters: a shorter prompt may begin an answer by chance
OWN, ROLES = "the prompt in its own column only", 'the answers the role "assistant"'
NAMES, UNHEARD = "each turn a role that the chat template knows", "the text has the answer and nothing of who asks"


def find(
    data: DataSeen | None = None,
    masks: PromptMasksSeen | None = None,
    prompts: PromptsSeen | None = None,
    batch: BatchSeen | None = None,
    setup: Setup | None = None,
    ties: TiedSeen | None = None,
) -> Verdict:
    """A few rows against what the trainer does with them, and against what they say once tokenized."""
    wrong = unread(data) or tied(ties) or empty_answers(masks, setup)
    wrong = wrong or passed_by(batch) or without_roles(masks, prompts, batch.text if batch else str)
    taught = Finding("warning", wrong.message, wrong.fix, wrong.seen) if wrong else None
    if finding := (None if data is None else _columns(data)) or taught:
        return finding
    if data is None or not data.rows:
        return CannotTell("rows of the data set")
    rows = [{name: value for name, value in row.items() if readable(value)} for row in data.rows]
    pairs = [row for row in rows if "chosen" in row and "rejected" in row]
    answered = [row for row in rows if any(name in row for name in ANSWERS)]
    talks = [row for row in rows if turns(row)]
    told = [*data.texts, *(row["text"] for row in rows if isinstance(row.get("text"), str))]
    if not (pairs or answered or talks or told):
        return CannotTell("answers, conversations or text in the rows")
    return (
        _most(pairs, lambda r: r["chosen"] == r["rejected"], "chosen and rejected are the same", "a pair that differs")
        or _most(answered, lambda r: _empty(r, data), "an answer is empty", "the answers' text in their column")
        or _most(answered, lambda r: _prompt_again(r, data), "the answer begins with the prompt", OWN, sure=False)
        or _most(talks * (data.objective == "sft") or answered, unanswered, "no turn is an assistant's", ROLES)
        or _most(unheard(talks, data.texts), bool, UNHEARD, NAMES)
        or _template(data, talks, told)
    )


def _columns(data: DataSeen) -> Finding | None:
    if not (wanted := data.lacking):
        return None
    what = f"{data.trainer or 'the trainer'} ({data.objective}) needs {wanted}; it has {', '.join(data.columns)}"
    fix = f"rename or build the columns {wanted}, or use the trainer for {', '.join(data.known)}"
    return Finding("warning", what, fix, {"columns": list(data.columns), "objective": data.objective})


def _most(rows: list[Any], wrong: Callable[[Any], bool], what: str, fix: str, *, sure: bool = True) -> Finding | None:
    bad = [row for row in rows if wrong(row)]
    if not bad or 2 * len(bad) < len(rows):
        return None
    severity: Severity = "error" if sure and len(bad) == len(rows) > 1 else "warning"
    example = {name: str(bad[0][name])[:80] for name in ("prompt", "messages", *ANSWERS) if name in bad[0]}
    return Finding(severity, f"{what} in {len(bad)} of {len(rows)} rows", f"give {fix}", {"row": example})


def _empty(row: Mapping[str, Any], data: DataSeen) -> bool:
    """Whether an answer says nothing: its host may have ended it with a mark already."""
    marks = "|".join(re.escape(mark) for mark in data.marks)
    return not all(re.sub(marks, "", said(row[name])).strip() for name in ANSWERS if name in row)


def _prompt_again(row: Mapping[str, Any], data: DataSeen) -> bool:
    """Once too often: a reward model reads the answers alone, and has the prompt in them."""
    prompt, answers = row.get("prompt"), [row[name] for name in ANSWERS if name in row]
    times = 2 if data.objective == "reward" else 1
    if isinstance(prompt, list):
        return bool(prompt) and all(one[: times * len(prompt)] == times * prompt for one in answers)
    prompt = str(prompt or "").strip()
    return len(prompt) >= PROMPT and all(re.match(times * rf"\s*{re.escape(prompt)}", said(one)) for one in answers)


def _template(data: DataSeen, talks: list[Any], told: list[str]) -> Finding | None:
    printed = [text for text in told if PRINTED.search(text)]
    bare = [text for row, text in zip(talks, data.texts, strict=False) if glued(turns(row), text)]
    what = "printed lists in the text" if printed else "turns without roles in the text"
    if not printed and not (bare and data.templated):
        if not data.unmarked:
            return None
        bare, what = list(data.texts), f"no row has {data.roles[0]!r}, which the script puts around turns elsewhere"
    return Finding(
        severity="warning",
        message=f"no chat template was applied: {what}",
        fix="give the trainer the messages themselves, or tokenizer.apply_chat_template(messages, tokenize=False)",
        seen={"text": (printed or bare)[0][:200]},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """One pair of answers, shown as a host shows its data set."""
    from torch import nn
    from torch.optim import SGD

    rows = ({"prompt": "Is ice cold?", "chosen": "Yes.", "rejected": "Yes." if faulty else "No."},) * 2
    model = nn.Linear(2, 2)
    run.attach(model, SGD(model.parameters(), lr=0.1)).show(DataSeen(0, tuple(rows[0]), rows, "preference"))
