"""The clean corpus: correct scripts of strangers, through `sightline run`. No error, no warning, the same output.

`scripts/<group>/*.py` are ordinary programs that know nothing of Sightline; a new one needs no list to be edited.
Every script runs twice, plainly and watched, each time in a fork of a process that has imported the group's libraries.
Of each kind of script some run by default, the others with `-m slow`.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.forked import HF, LIGHTNING, TORCH, Forks

HERE = Path(__file__).parent
SCRIPTS = sorted((HERE / "scripts").glob("*/*.py"))
PRELOAD = {"torch": TORCH, "hf": HF, "trl": HF, "lightning": LIGHTNING, "slow": TORCH}
SLOW = {  # the longest; of each library, and of each kind of model and loss, others are left
    *("ddp_gloo", "torch_compile", "qlora_nf4", "sft_packing", "t5_seq2seq", "vit_trainer", "dpo", "grpo"),
    *("llama_pretrain", "trainer_lm", "char_gpt", "seq2seq_transformer", "reinforce", "grad_accumulation", "char_lstm"),
    *("binary_early_stopping", "distillation", "cnn_adam", "gan", "siamese_triplet", "gradient_checkpointing"),
    *("amp_bf16", "classifier", "vit_mixup", "text_gru_packed", "accelerate_loop", "byol_target", "llava_tiny"),
    *("trainer_classification", "masked_lm", "checkpoint_resume", "reward", "wgan_gp", "diffusion", "mnist_nll"),
    *("regression_mse", "multitask", "recommender", "trainer_class", "lbfgs_closure", "vae", "segmentation"),
    *(
        "transfer_frozen",
        "word2vec",
        "clip_contrastive",
        "manual_gan",
        "fp16_scaler",
        "two_phase_unfreeze",
        "packed_documents",
    ),
}
KNOWN: dict[str, str] = {}  # script -> why it still fails
VARIES = re.compile(r"'?\w*(runtime|per_second|step_time)'?: '?[\d.e+-]+'?")  # what a library prints of the clock
TEXT = (HERE / "input.txt").read_text(encoding="utf-8")


def _cases() -> list[object]:
    cases = []
    for script in SCRIPTS:
        marks = [pytest.mark.slow] if script.stem in SLOW else []
        marks += [pytest.mark.ddp] if script.stem.startswith("ddp") else []
        marks += [pytest.mark.xfail(strict=True, reason=KNOWN[script.stem])] if script.stem in KNOWN else []
        cases.append(pytest.param(script, id=f"{script.parent.name}/{script.stem}", marks=marks))
    return cases


@pytest.mark.parametrize("script", _cases())
def test_nothing_is_wrong_with_it(script: Path, tmp_path: Path, forks: Forks) -> None:
    plain, watched = (_ran(forks, script, tmp_path / way, way == "watched") for way in ("plain", "watched"))
    assert VARIES.sub("", watched.stdout) == VARIES.sub("", plain.stdout)
    told = json.loads((tmp_path / "watched" / "findings.json").read_text(encoding="utf-8"))
    assert not told["run"]["problems"]  # watched to the end
    serious = [f for f in told["findings"] if f["severity"] != "note"]
    assert not serious, "\n".join(f"{f['code']} at step {f['step']}: {f['message']} {f['evidence']}" for f in serious)


def _ran(forks: Forks, script: Path, folder: Path, watched: bool) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    (folder / "input.txt").write_text(TEXT, encoding="utf-8")
    ours = ("sightline", "run", "--findings", "findings.json") if watched else ()
    return forks.run(*ours, str(script), cwd=folder, knows=PRELOAD[script.parent.name])


def test_no_script_knows_that_it_is_watched() -> None:
    assert len(SCRIPTS) >= 25
    for script in SCRIPTS:
        assert "sightline" not in script.read_text(encoding="utf-8")
