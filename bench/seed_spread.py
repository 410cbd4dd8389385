"""How far accuracy differs from seed to seed, and how a recipe changes that; chosen on images that nobody tests.

`python bench/seed_spread.py --arch vgg11 --policy full --lr 3e-4 1e-4` trains each policy with each learning rate and
seed as the default preset does, adds a line of JSON a training to `--out`, and prints their table. Validation images
are training images that no seed of these draws; the recipe is chosen by them alone.
"""

import argparse
import json
import statistics
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from fashiontl.core.case import PRESETS, Case
from fashiontl.data.select import select
from fashiontl.data.sources import load_images
from fashiontl.freezing import POLICIES
from fashiontl.runner.cell import cache_folder
from fashiontl.runner.messages import CaseJob
from fashiontl.runner.workload import Workload
from fashiontl.timing import torch_flags
from fashiontl.training.evaluation import evaluate
from fashiontl.training.fit import Examples, fit, is_normalised, predict
from fashiontl.training.pretraining import pretrained
from fashiontl.training.recipes import recipe_for

# Of each class; beyond it there are 245 in the embedded set, of which a seed draws 5.
_VALIDATION = 100


def trained(case: Case, seed: int, checkpoint: str, changes: dict[str, float]) -> dict[str, Any]:
    """One training: its recipe's changes, its losses, and its accuracies."""
    settings = PRESETS["quick"]
    work = Workload.of(CaseJob(case, settings, checkpoints={case.architecture: checkpoint} if checkpoint else {}))
    chosen = select(
        load_images(settings.data), work.task, settings.train_per_class, settings.test_per_class, seed, _VALIDATION
    )
    torch.manual_seed(seed)
    initial = work.start(case)
    work.prepare(initial.network)
    recipe = recipe_for(case.policy, settings, normalised=is_normalised(initial.network))
    recipe = replace(recipe, **changes)
    examples = Examples(chosen.train_images, chosen.train_labels)
    result = fit(initial.network, POLICIES[case.policy], examples, recipe, initial.preprocessing, seed=seed)
    found = {"losses": [round(loss, 4) for loss in result.losses]}
    for name, images, labels in (
        ("validation", chosen.validation_images, chosen.validation_labels),
        ("test", chosen.test_images, chosen.test_labels),
    ):
        found[name] = evaluate(predict(initial.network, images, initial.preprocessing), labels).accuracy
    return {"architecture": case.architecture, "policy": case.policy, "seed": seed, **changes, **found}


def table(lines: list[dict[str, Any]]) -> str:
    """Mean, spread and range over the seeds of each recipe, in Markdown."""
    groups = defaultdict(list)
    for line in lines:
        recipe = ", ".join(f"{name} {line[name]:g}" for name in ("lr", "warm_up") if name in line) or "as it is"
        groups[line["architecture"], line["policy"], line.get("backbone", 0), recipe].append(line)
    rows = []
    for names, group in groups.items():
        cells = []
        for which in ("validation", "test"):
            values = [100 * line[which] for line in group]
            deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
            cells += [f"{statistics.fmean(values):.1f} ({deviation:.1f})", f"{min(values):.1f} to {max(values):.1f}"]
        rows.append([*names, len(group), *cells])
    headers = ["Architecture", "Policy", "Backbone", "Recipe", "Seeds", "Validation, mean (sd)", "range"]
    return tabulate(rows, [*headers, "Test, mean (sd)", "range"], "pipe")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", nargs="+", default=["vgg11", "resnet18"])
    parser.add_argument("--policy", nargs="+", default=["full", "last_stage", "scratch"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--backbone", type=int, nargs="+", default=[0], help="seeds of the pretraining")
    parser.add_argument("--lr", type=float, nargs="*", help="peak learning rates in place of the recipe's")
    parser.add_argument("--warm-up", type=float, help="fraction of the steps in place of the recipe's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("seed_spread.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch_flags.deterministic()
    changes = {} if options.warm_up is None else {"warm_up": options.warm_up}
    recipes = [changes | {"lr": lr} for lr in options.lr] if options.lr else [changes]
    for seed in range(options.first, options.first + options.seeds):
        for name in options.arch:
            for backbone in options.backbone:
                source = pretrained("fashion6", name, "cpu", PRESETS["quick"], cache_folder(), print, seed=backbone)
                for policy in options.policy:
                    case = Case(name, policy)
                    for recipe in recipes:
                        line = trained(case, seed, source["checkpoint"] if policy != "scratch" else "", recipe)
                        with options.out.open("a") as file:
                            file.write(json.dumps(line | {"backbone": backbone}) + "\n")
    print(table([json.loads(line) for line in options.out.read_text().splitlines()]))


if __name__ == "__main__":
    main()
