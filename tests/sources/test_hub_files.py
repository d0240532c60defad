"""Repositories of the hub: what is fetched and recorded, and what is told without a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file
from sources.hub_models import PROCESSOR, resnet, saved

from compress import zoo
from compress.errors import UserError


def hub_answers(monkeypatch: pytest.MonkeyPatch, answer) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)


def test_without_a_network_one_line_says_what_and_what_to_do(tmp_path: Path) -> None:
    """In a process of its own, since the hub's library reads its settings once; the discard port refuses at once."""
    script = (
        "import time; from compress import zoo; from compress.errors import UserError\n"
        "begun = time.perf_counter()\n"
        "try: zoo.load('resnet18-imagenet')\n"
        "except UserError as error: print(error); print(time.perf_counter() - begun < 30)"
    )
    settings = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "no_proxy": "*"}
    environment = {**os.environ, **settings}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == (
        "microsoft/resnet-18 could not be fetched from the Hugging Face hub (ConnectionRefusedError: [Errno 111] Connection "
        "refused); fetch it elsewhere and give the folder: hf:FOLDER with config.json, model.safetensors and its other .json "
        "files\nTrue\n"
    )
    assert done.stderr == ""


def test_a_repository_is_recorded_with_its_commit_and_fetched_without_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = saved(tmp_path / commit, resnet(num_labels=3), PROCESSOR)
    asked: list[dict] = []
    hub_answers(monkeypatch, lambda repository, **options: asked.append({"of": repository, **options}) or str(folder))
    source = zoo.load("resnet18-imagenet")
    assert (source.origin["id"], source.origin["revision"]) == ("microsoft/resnet-18", commit)
    assert "folder" not in source.origin
    assert source.data is None
    assert asked[0]["of"] == "microsoft/resnet-18"
    assert "model.safetensors" in asked[0]["allow_patterns"]
    assert not [pattern for pattern in asked[0]["allow_patterns"] if pattern.endswith((".bin", ".py"))]
    save_file({n: t.contiguous() for n, t in resnet(num_labels=3).state_dict().items()}, tmp_path / "w.safetensors")
    zoo.load("resnet18-imagenet", str(tmp_path / "w.safetensors"))
    assert not [pattern for pattern in asked[1]["allow_patterns"] if "safetensors" in pattern]


def test_repositories_that_are_closed_or_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    def refuse(kind: type):
        def answer(*_: object, **__: object) -> str:
            raise kind.__new__(kind)

        return answer

    hub_answers(monkeypatch, refuse(RepositoryNotFoundError))
    with pytest.raises(UserError) as error:
        zoo.load("hf:some/model")
    assert str(error.value) == "there is no folder 'some/model' here, and the Hugging Face hub has no public model of that name"
    hub_answers(monkeypatch, refuse(GatedRepoError))
    with pytest.raises(UserError) as error:
        zoo.load("hf:some/model")
    assert str(error.value) == (
        "some/model asks for a licence to be accepted on huggingface.co; accept it there and log in with: hf auth login"
    )


def test_a_download_reports_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    """As the hub's library does it: one bar that is updated from another thread."""
    from concurrent.futures import ThreadPoolExecutor

    from compress.progress import watch
    from compress.sources.hub_files import fetch

    def download(repository: str, *, tqdm_class: type, **_: object) -> str:
        bar = tqdm_class(desc="Downloading", total=40_000_000, unit="B", unit_scale=True, name="hub")
        with ThreadPoolExecutor(1) as pool:
            for _ in range(4):
                pool.submit(bar.update, 10_000_000).result()
        bar.close()
        return str(tmp_path)

    hub_answers(monkeypatch, download)
    seen = []
    with watch(lambda *what: seen.append(what)):
        assert fetch("some/model", ["*"], "") == tmp_path
    assert seen == [("download some/model", done, 40, "MB") for done in (10, 20, 30, 40)]
    assert capfd.readouterr() == ("", "")
