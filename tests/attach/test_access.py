"""What a run needs of a hub, read from an environment of folders and variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.attach.access import access_seen

SECRET = "hf_this-must-never-be-shown"


def test_a_token_is_seen_and_never_kept(tmp_path: Path) -> None:
    home = {"HF_HOME": str(tmp_path)}
    assert not access_seen(environment=home).token
    for known in ({**home, "HF_TOKEN": SECRET}, {**home, "HUGGING_FACE_HUB_TOKEN": SECRET}):
        seen = access_seen(environment=known)
        assert seen.token and SECRET not in repr(seen)
    assert not access_seen(environment={**home, "HF_TOKEN": " "}).token
    (tmp_path / "token").write_text(SECRET)
    assert access_seen(environment=home).token
    assert not access_seen(environment={**home, "HF_TOKEN_PATH": str(tmp_path / "elsewhere")}).token


def test_only_what_must_be_downloaded_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hub" / "models--org--cached" / "snapshots").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint-5").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    names = ["org/cached", "org/new", "org/new", "out/checkpoint-5", str(tmp_path), "gpt2", ""]
    assert access_seen(names, environment={"HF_HOME": str(tmp_path)}).repos == ("org/new",)


def test_a_push_and_a_token_of_the_runs_own(tmp_path: Path) -> None:
    seen = access_seen(push="me/model", token=True, environment={"HF_HOME": str(tmp_path)})
    assert seen.push == "me/model" and seen.token and seen.repos == ()


def test_offline(tmp_path: Path) -> None:
    assert access_seen(environment={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}).offline
    assert not access_seen(environment={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}).offline
