"""Scripts of strangers with loops of their own, each with and without one fault: what does `sightline run` find?

The scripts were written before the guard was looked at, as users write them. A fault is planted by replacing lines of
the script, so that neither version shows a sign of it; a file's name begins with the check that must find it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.forked import Forks

SCRIPTS = Path(__file__).parent / "scripts"
PLANTS: dict[str, tuple[tuple[str, str], ...]] = {  # script -> what is replaced by what
    "l4_packed_by_hand": ((" & (document_ids[:, :, None] == document_ids[:, None, :])", "[None]"),),
    "l2_seq2seq": (("model(src, tgt[:, :-1])", "model(src, tgt)"), ("tgt[:, 1:].reshape", "tgt.reshape")),
    "t4_sigmoid_inside": (
        ("nn.Linear(32, tags)", "nn.Sequential(nn.Linear(32, tags), nn.Sigmoid())"),
        ("scores > 0)", "scores > 0.5)"),
    ),
    "t1_new_head": (
        ("x_new, y_new = stripes(384, 4)\n", "optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)\n"),
        ("optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)\nfit", "x_new, y_new = stripes(384, 4)\nfit"),
    ),
    "t1_list_of_experts": (("nn.ModuleList([Expert", "list([Expert"),),
    "t1_clip_in_parts": (("    text = model.text", "    with torch.no_grad():\n        text = model.text"),),
    "t1_two_part_loss": (
        ("return sum(parts)", "return torch.tensor([part.item() for part in parts], requires_grad=True).sum()"),
    ),
    "t1_blip2_projection": (('{"params": model.language_projection.parameters(), "lr": 1e-3},', ""),),
    "t2_lstm": (("opt.zero_grad()\n", "pass\n"),),
    "t5_accumulation": (
        ('ignore_index=-100, reduction="sum")\n            / total', "ignore_index=-100)\n            / ACCUM"),
    ),
    "x5_own_vlm": (("embeds[slots] = feats.reshape(-1, feats.size(-1))", "embeds[slots].copy_(feats.flatten(0, 1))"),),
    "i5_regression": (("outputs.squeeze(-1)", "outputs"),),
    "k1_best_by_reference": (("copy.deepcopy(self.student.state_dict())", "self.student.state_dict()"),),
    "k2_moments_left_behind": (('    opt.load_state_dict(state["opt"])\n', ""),),
    "l9_own_reference": (("copy.deepcopy(model)", "model"),),
    "t1_actor_critic": (
        (
            "        dist = Categorical(logits=actor(obs))\n        action",
            "        with torch.no_grad():\n            dist = Categorical(logits=actor(obs))\n        action",
        ),
    ),
    "t1_adapter_under_no_grad": (
        (r'r"llm\..*\.(q_proj|v_proj|up_proj|down_proj)"', '["q_proj", "v_proj", "up_proj", "down_proj"]'),
    ),
    "t1_two_optimizers": (("        encoder_optimizer.step()\n", ""),),
    "t6_micro_batches": (('len(loader) // t["accumulate"] * t["epochs"]', 'len(loader) * t["epochs"]'),),
    "x5_placeholder_is_padding": (('    "<img>",\n', ""), ('tok["<img>"]', "PAD")),
}
QUICK = {"t1_list_of_experts"}
PAIRS = [
    pytest.param(name, faulty, id=f"{name} {'faulty' if faulty else 'clean'}", marks=marks)
    for name in PLANTS
    for faulty in (True, False)
    for marks in ([] if name in QUICK else [pytest.mark.slow],)
]


def test_every_script_has_its_fault() -> None:
    assert {script.stem for script in SCRIPTS.glob("*.py")} == set(PLANTS)


@pytest.mark.parametrize(("name", "faulty"), PAIRS)
def test_scripts_of_strangers(name: str, faulty: bool, tmp_path: Path, forks: Forks) -> None:
    source = (SCRIPTS / f"{name}.py").read_text()
    for old, new in PLANTS[name] if faulty else ():
        assert source.count(old) == 1
        source = source.replace(old, new)
    (tmp_path / "train.py").write_text(source)
    forks.run("sightline", "run", "--findings", "told.json", "train.py", cwd=tmp_path)
    found = [f for f in json.loads((tmp_path / "told.json").read_text())["findings"] if f["severity"] != "note"]
    codes, messages = {f["code"] for f in found}, [f["message"] for f in found]
    assert name.partition("_")[0].upper() in codes if faulty else not codes, messages
