from dataclasses import replace

from records import record

from fashiontl.core.case import PRESETS, Case, Settings
from fashiontl.records import from_json, to_json
from fashiontl.training.recipes import Recipe, pretraining_recipe, recipe_for

SETTINGS = Settings(epochs=10, batch_size=20, pretrain_epochs=3, pretrain_batch_size=50)


def test_settings_reach_the_recipe() -> None:
    recipe = recipe_for("full", SETTINGS, normalised=True)
    assert recipe == Recipe(10, 20, lr=1e-3, weight_decay=0.05, label_smoothing=0.1, warm_up=0.1, augment=False)
    assert recipe_for("full", PRESETS["full"], normalised=True).augment is True


def test_a_probe_takes_more_and_larger_steps_whatever_the_network() -> None:
    for normalised in (True, False):
        recipe = recipe_for("linear_probe", SETTINGS, normalised=normalised)
        assert recipe == Recipe(80, 20, lr=1e-2)


def test_a_plain_network_takes_smaller_steps() -> None:
    assert recipe_for("scratch", SETTINGS, normalised=False) == Recipe(10, 20, lr=3e-4)
    assert pretraining_recipe(SETTINGS, normalised=False) == Recipe(3, 50, lr=3e-4, label_smoothing=0.0)


def test_a_rate_of_ones_own_replaces_that_of_any_recipe() -> None:
    for name in ("tuned", "naive_adam", "naive_sgd"):
        for policy in ("scratch", "linear_probe"):
            settings = replace(SETTINGS, recipe=name)
            usual = recipe_for(policy, settings, normalised=False)
            assert recipe_for(policy, replace(settings, lr=2e-3), normalised=False) == replace(usual, lr=2e-3)
    assert pretraining_recipe(replace(SETTINGS, lr=2e-3), normalised=True).lr == 1e-3


def test_a_source_is_trained_without_label_smoothing_by_its_own_settings() -> None:
    assert pretraining_recipe(SETTINGS, normalised=True) == Recipe(3, 50, lr=1e-3, label_smoothing=0.0)


def test_naive_recipes_are_the_tutorials() -> None:
    plain = {"weight_decay": 0.0, "label_smoothing": 0.0, "warm_up": 0.0, "schedule": "constant"}
    for policy in ("scratch", "linear_probe"):
        for name, optimizer, rate in (("naive_adam", "adam", 1e-3), ("naive_sgd", "sgd", 0.1)):
            recipe = recipe_for(policy, replace(PRESETS["tutorial"], recipe=name), normalised=False)
            assert recipe == Recipe(20, 32, rate, optimizer=optimizer, **plain)


def test_records_from_when_lr_was_called_rate_are_read() -> None:
    made = record(Case("resnet18", "full"), settings=replace(SETTINGS, lr=4e-3))
    older = to_json(made).replace('"lr":', '"rate":')
    assert from_json(older, "here").settings.lr == 4e-3
