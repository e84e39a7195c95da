"""Checkpoints: what comes back, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from baselines.checkpoint import load_checkpoint, save_checkpoint
from baselines.sasrec import SASRec


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    tensors = {"b": torch.arange(6).view(2, 3).T, "a": torch.tensor(1.5)}
    save_checkpoint(tmp_path / "new" / "x.safetensors", tensors, {"model": "sasrec", "n": 3})
    read, header = load_checkpoint(tmp_path / "new" / "x.safetensors", "sasrec")
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert (header["model"], header["n"]) == ("sasrec", 3)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.safetensors"]


def test_a_damaged_or_foreign_checkpoint_is_one_clear_sentence(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match=r"no checkpoint at .*x.safetensors; fit a model"):
        load_checkpoint(path)
    save_checkpoint(path, {"a": torch.zeros(100)}, {"model": "comirec"})
    with pytest.raises(ValueError, match="holds a 'comirec', not a 'sasrec'"):
        SASRec.load(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="is no readable checkpoint"):
        load_checkpoint(path)
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ValueError, match="is no readable checkpoint"):
        load_checkpoint(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not one of ours"):
        load_checkpoint(path)


def test_weights_that_do_not_fit_their_header_are_refused(tmp_path, make_model, world):
    path = tmp_path / "x.safetensors"
    make_model("sasrec", epochs=1).fit(world).save(path)
    tensors, header = load_checkpoint(path)
    del tensors["network.positions.weight"]
    save_checkpoint(path, tensors, header)
    with pytest.raises(ValueError, match="does not fit the model that its header describes"):
        SASRec.load(path)


def test_a_checkpoint_whose_numbers_cannot_be_is_refused(tmp_path, make_model, world):
    path = tmp_path / "x.safetensors"
    make_model("sasrec", epochs=1).fit(world).save(path)
    tensors, header = load_checkpoint(path)

    def refused(match, changes=None, **weights):
        save_checkpoint(path, {**tensors, **weights}, {**header, **(changes or {})})
        with pytest.raises(ValueError, match=match) as told:
            SASRec.load(path)
        assert str(path) in str(told.value)

    refused("4 item counts for 40 items", item_counts=tensors["item_counts"][:5])
    broken = torch.full_like(tensors["network.items.weight"], torch.nan)
    refused(r"weights that are no numbers, in items.weight", **{"network.items.weight": broken})
    refused("does not know .*not enough values", {"runs": [[1]]})
    refused("does not know .*sasrec cannot be built", {"settings": {**header["settings"], "dim": -4}})


@pytest.mark.parametrize("name", ["sasrec", "recgpt"])
def test_a_checkpoint_of_another_version_is_one_clear_sentence(name, tmp_path, make_model, world):
    path = tmp_path / "x.safetensors"
    model = make_model(name, epochs=2)
    model.training = replace(model.training, max_targets=100)
    model.fit(world).save(path)
    tensors, header = load_checkpoint(path)
    kind, settings_type = type(model), type(model.settings).__name__

    def changed(**changes):
        save_checkpoint(path, tensors, {**header, **changes})
        return kind.load(path)

    assert changed().settings == model.settings
    with pytest.raises(
        ValueError, match=f"that {settings_type} does not know .mixers.*another version.*again"
    ):
        changed(settings={**header["settings"], "mixers": 3})
    with pytest.raises(ValueError, match=r"that LossSettings does not know .margin."):
        changed(settings={**header["settings"], "loss": {**header["settings"]["loss"], "margin": 1}})
    with pytest.raises(ValueError, match=r"that TrainingSettings does not know .warm_restarts."):
        changed(training={**header["training"], "warm_restarts": True})
    with pytest.raises(ValueError, match="that TrainingSettings refuses: lr is -1"):
        changed(training={**header["training"], "lr": -1})
    with pytest.raises(ValueError, match="that TrainingSettings refuses: '>' not supported"):
        changed(training={**header["training"], "lr": "fast"})
    old = {name: value for name, value in header["training"].items() if name != "averaging"}
    assert changed(training=old).training == model.training, "what an old file does not say has its default"
    with pytest.raises(ValueError, match="describes its model in a way that this version does not know"):
        changed(n_items="many")
    if name == "recgpt":
        with pytest.raises(ValueError, match=r"does not know \(KeyError\('tuned'\)\); train the model again"):
            changed(extra={})
    save_checkpoint(path, tensors, {key: value for key, value in header.items() if key != "n_items"})
    with pytest.raises(ValueError, match="lacks n_items, so another version of this program wrote it"):
        kind.load(path)
    save_checkpoint(path, {"a": torch.zeros(1)}, header)
    with pytest.raises(ValueError, match="lacks item_counts, so another version"):
        kind.load(path)
    metadata = json.dumps({**header, "format": "short-video-lab checkpoint 2"})
    save_file(tensors, path, metadata={"header": metadata})
    with pytest.raises(ValueError, match="has the format 'short-video-lab checkpoint 2', and this version"):
        kind.load(path)
    save_file(tensors, path, metadata={"header": "[1]"})
    with pytest.raises(ValueError, match="not one of ours"):
        kind.load(path)


def test_a_checkpoint_of_a_gpu_loads_where_there_is_none(tmp_path, make_model, world):
    path = tmp_path / "x.safetensors"
    make_model("sasrec", epochs=1).fit(world).save(path)
    tensors, header = load_checkpoint(path)
    save_checkpoint(path, tensors, {**header, "training": {**header["training"], "device": "cuda:63"}})
    assert SASRec.load(path).training.device == "cpu"
    with pytest.raises(ValueError, match=r"GPU|device 'cuda:63'"):
        SASRec.load(path, device="cuda:63")
