from dataclasses import replace

import numpy as np
import pytest

from baselines.base import Interactions
from baselines.data import leave_one_out
from baselines.losses import LossSettings
from baselines.settings import TrainingSettings
from recgpt.recall import Split
from recgpt.recommender import RecGPT
from recgpt.settings import PRESETS, RecGPTSettings
from recgpt.stages import document, measure, train_and_measure

SETTINGS = RecGPTSettings(dim=16, dropout=0.1, loss=LossSettings("sampled", 30))
TRAINING = TrainingSettings(
    epochs=10, batch_targets=256, lr=1e-2, patience=20, validation_users=20, threads=1
)


@pytest.fixture(scope="module")
def world():
    """Everybody walks through a ring of 40 items, one step at a time; who is where differs."""
    generator = np.random.default_rng(4)
    users = np.repeat(np.arange(100), 12)
    items = (generator.integers(0, 40, 100)[:, None] + np.arange(12)).reshape(-1) % 40 + 1
    return Interactions.from_arrays(users, items, n_users=100, n_items=40)


@pytest.fixture(scope="module")
def model(world):
    return RecGPT(SETTINGS, TRAINING).fit(world)


def test_a_world_of_single_steps_is_learned_by_all_stages(model, world):
    histories = world.histories()
    following = histories[:, 11] % 40 + 1
    lists = model.recommend(np.arange(100), histories, 10, histories)
    assert (lists[:, 0] == following).mean() > 0.9
    assert model.tuned
    assert [len(run.epochs) for run in model.runs] == [8, 2]
    assert set(model.splits) == {5, 10, 20, 50}


def test_the_second_ranking_goes_a_step_further(world):
    """With slot loss skip, the slot of a prompt has learned to rank the item after it."""
    settings = replace(SETTINGS, tune_share=0.5, prompt_slot_loss="skip")
    model = RecGPT(settings, replace(TRAINING, epochs=20)).fit(world)
    histories = world.histories()
    first, second = model.rankings(np.arange(100), histories, histories, 3)
    assert (first[:, 0] == histories[:, 11] % 40 + 1).mean() > 0.9
    assert (second[:, 0] == (histories[:, 11] + 1) % 40 + 1).mean() > 0.9


@pytest.mark.parametrize("prompts", ["sequential", "last"])
def test_the_other_ways_of_prompting_learn_it_too(world, prompts):
    model = RecGPT(replace(SETTINGS, prompts=prompts), TRAINING).fit(world)
    histories = world.histories()
    lists = model.recommend(np.arange(100), histories, 1, histories)
    assert (lists[:, 0] == histories[:, 11] % 40 + 1).mean() > 0.8


def test_fit_is_pretraining_and_then_tuning(model, world):
    alone = RecGPT(SETTINGS, TRAINING).pretrain(world)
    assert not alone.tuned
    assert not alone.splits
    alone.tune(world)
    histories = world.histories()
    one, other = (m.rankings(np.arange(100), histories, histories, 20) for m in (model, alone))
    assert np.array_equal(one, other)
    assert alone.splits == model.splits


AUTHORS, PAPER = (
    replace(PRESETS[name].settings, dim=16, tune_epochs=None, tune_share=0.5) for name in ("authors", "paper")
)
AUTHORS = replace(AUTHORS, second_share=0.1)


@pytest.mark.parametrize("settings", [AUTHORS, PAPER], ids=["authors", "paper"])
def test_the_published_networks_learn_it_too(world, settings, tmp_path):
    model = RecGPT(settings, replace(TRAINING, epochs=24)).fit(world)
    histories = world.histories()
    following = histories[:, 11] % 40 + 1
    lists = model.recommend(np.arange(100), histories, 10, histories)
    assert (lists == following[:, None]).any(1).mean() > 0.9
    model.save(tmp_path / "m.safetensors")
    loaded = RecGPT.load(tmp_path / "m.safetensors")
    assert loaded.settings == settings
    assert np.array_equal(loaded.recommend(np.arange(100), histories, 10, histories), lists)


@pytest.mark.parametrize("stage", ["loss", "tune_loss"])
def test_each_stage_has_its_loss(world, stage):
    """A tuning loss of its own changes the second stage and not the first."""
    settings = replace(SETTINGS, **{stage: LossSettings("bce", 1)})
    one, other = (RecGPT(s, replace(TRAINING, epochs=2, patience=1)).fit(world) for s in (SETTINGS, settings))
    first, second = zip(one.runs, other.runs, strict=True)
    assert (first[0].epochs[0].loss == first[1].epochs[0].loss) == (stage == "tune_loss")
    assert second[0].epochs[0].loss != second[1].epochs[0].loss


@pytest.mark.parametrize("prompts", ["sequential", "parallel", "last"])
def test_prompts_are_never_generated_from_held_out_items(world, prompts):
    """Everybody's validation and test items are items that no training part has. None of them is ever a real
    input of the network, in either stage, so no prompt can come from one."""
    items = world.items.reshape(100, 12).copy()
    items[:, 10:] += 40
    everything = Interactions(world.users, items.ravel(), world.times, n_users=100, n_items=80)
    split = leave_one_out(everything)
    inputs, generated = set(), set()

    class Watched(RecGPT):
        def build(self, n_users, n_items):
            decoder = super().build(n_users, n_items)

            def look(_, given, named):
                segments = named.get("segments")
                real = given[0].new_ones(given[0].shape) if segments is None else 1 - segments
                real = real.expand(given[0].shape).bool()
                inputs.update(given[0][real].tolist())
                generated.update(given[0][~real].tolist())

            decoder.register_forward_pre_hook(look, with_kwargs=True)
            return decoder

    settings = replace(SETTINGS, prompts=prompts, tune_share=0.5)
    Watched(settings, replace(TRAINING, epochs=2)).fit(split.train, validation=split.valid)
    assert inputs == set(range(41))  # and padding
    assert generated - {0}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"attention": "flow"},
            "prompts 'parallel' need attention 'softmax' and positions 'start', not 'flow' and 'start'; "
            "there take prompts 'last'",
        ),
        ({"positions": "end", "prompts": "sequential"}, "prompts 'sequential' need .* 'softmax' and 'end'"),
        ({"prompts": "last", "prompt_leak": True}, "prompt_leak needs attention 'flow'"),
        ({"prompts": "last", "prompt_leak": True, "attention": "flow"}, "not 'flow' and 'start'"),
    ],
)
def test_prompts_that_do_not_go_with_the_network_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        RecGPTSettings(**wrong)


def test_an_interrupted_fit_ends_in_the_same_model(model, world, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(stage, fraction):
        if fraction >= 0.5:
            raise StoppedError

    again = RecGPT(SETTINGS, TRAINING)
    again.resume_folder = tmp_path
    with pytest.raises(StoppedError):
        again.fit(world, stop)
    assert (tmp_path / "pretrain.resume").exists()
    started = []
    again.fit(world, lambda stage, fraction: started.append(fraction))
    assert started[0] > 0.5
    assert not list(tmp_path.iterdir())
    histories = world.histories()
    lists = (m.recommend(np.arange(100), histories, 10, histories) for m in (model, again))
    assert np.array_equal(*lists)


def test_saved_and_loaded_keeps_the_chosen_recall(model, tmp_path):
    before = model.splits
    model.splits = {10: Split(8, 2, 5, 1)}
    model.save(tmp_path / "m.safetensors")
    model.splits = before
    loaded = RecGPT.load(tmp_path / "m.safetensors")
    assert loaded.splits == {10: Split(8, 2, 5, 1)}
    assert loaded.split(10) == (8, 2)
    assert loaded.tuned
    assert loaded.settings == SETTINGS


def test_tuning_on_other_interactions_is_refused(model, world):
    fewer = Interactions(
        *(c[:-1] for c in (world.users, world.items, world.times)), world.n_users, world.n_items
    )
    with pytest.raises(ValueError, match="not the interactions that the model was pre-trained on"):
        model.tune(fewer)


def test_a_share_for_the_second_step_overrules_validation(model):
    forced = RecGPT(replace(SETTINGS, second_share=0.2), TRAINING)
    forced.splits = {10: Split(10, 0)}
    assert forced.split(10) == (8, 2)
    assert forced.split(50) == (40, 10)


@pytest.mark.parametrize(
    "wrong", [{"tune_share": 1.0}, {"tune_epochs": -1}, {"second_share": 1.5}, {"tune_lr_factor": 0.0}]
)
def test_shares_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RecGPTSettings(**wrong)


def test_stage_rows_are_what_recommend_gives(world):
    split = leave_one_out(world)
    rows = train_and_measure(RecGPT(SETTINGS, TRAINING), split, split.test)
    assert [row.model for row in rows] == ["recgpt:pretrain", "recgpt:tuned", "recgpt"]
    model = RecGPT(replace(SETTINGS, second_share=0.5), TRAINING).fit(split.train, validation=split.valid)
    *_, two_step = measure(model, split.test)
    users, histories, targets, _ = split.test
    for k in (5, 10, 20):
        lists = model.recommend(users, histories, k, histories)
        expected = [[*row].index(t) + 1 if t in row else 0 for row, t in zip(lists, targets, strict=True)]
        assert two_step.ranks[k].tolist() == expected
    lines = document(rows)
    assert lines[1]["gained@10"] - lines[1]["lost@10"] == round(100 * (lines[1]["hr@10"] - lines[0]["hr@10"]))
    assert "gained@10" not in lines[0]
    assert "difference" not in lines[0]
    gap = lines[2]["difference"]
    assert (gap["of"], gap["to"]) == ("ndcg@10", "recgpt:pretrain")
    assert gap["low"] <= gap["difference"] <= gap["high"]
    assert gap["difference"] == pytest.approx(lines[2]["ndcg@10"] - lines[0]["ndcg@10"])


def test_user_vectors_learn_and_strangers_are_served(world):
    model = RecGPT(replace(SETTINGS, user_vectors=True), TRAINING).fit(world)
    histories = world.histories()
    strangers = model.recommend(np.full(100, -1), histories, 1, histories)
    assert (strangers[:, 0] == histories[:, 11] % 40 + 1).mean() > 0.8
    assert np.array_equal(strangers, model.recommend(np.full(100, 10**9), histories, 1, histories))
