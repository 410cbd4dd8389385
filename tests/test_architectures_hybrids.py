import pytest
import torch

from fashiontl.core.errors import FashiontlError
from fashiontl.freezing import POLICIES
from fashiontl.freezing.apply import apply, parameter_groups
from fashiontl.freezing.proof import FreezeVerifier
from fashiontl.models.build import build
from fashiontl.models.ensembles import JoinedNetwork, MeanOfProbabilities
from fashiontl.models.network import Network
from fashiontl.models.registry import check_name, fitting_size, members, trained_separately

NAMES = ("resnet9", "squeezenet1_1", "shufflenet_v2_x0_5")

pytestmark = pytest.mark.usefixtures("one_thread")


def networks(*names: str) -> list[Network]:
    torch.manual_seed(0)
    return [build(name, 4, image_size=32) for name in names]


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def features(network: Network) -> torch.Tensor:
    last = len(network.stages) - 1
    found = network.run(images(), 0, last)
    return found.mean([2, 3]) if found.dim() == 4 else found


def test_names() -> None:
    assert members("joined:vgg11+resnet18+timm/resnet10t") == ("vgg11", "resnet18", "timm/resnet10t")
    assert trained_separately("joined:vgg11+resnet18") == ("joined:vgg11+resnet18",)
    assert trained_separately("mean:vgg11+resnet18") == ("vgg11", "resnet18")
    check_name("mean:vgg11+resnet18")
    with pytest.raises(FashiontlError) as caught:
        check_name("mean:vgg12+resnet19")
    assert [line.split(";")[0] for line in str(caught.value).splitlines()] == [
        "unknown architecture 'vgg12'", "unknown architecture 'resnet19'",
    ]  # fmt: skip
    for name in ("mean:vgg11", "joined:vgg11+vgg11"):
        with pytest.raises(FashiontlError, match="expected two or more different members"):
            check_name(name)
    assert fitting_size("joined:inception_v3+vit_b_16", 32) == 80


def test_mean_of_probabilities() -> None:
    parts = networks("resnet9", "squeezenet1_1")
    hybrid = MeanOfProbabilities(parts).eval()
    wanted = (parts[0](images()).softmax(1) + parts[1](images()).softmax(1)) / 2
    torch.testing.assert_close(hybrid(images()).softmax(1), wanted)
    assert sum(p.numel() for p in hybrid.parameters()) == sum(p.numel() for part in parts for p in part.parameters())


def test_joined_features_are_those_of_the_members() -> None:
    parts = [network.eval() for network in networks(*NAMES)]
    wanted = torch.cat([features(part) for part in parts], dim=1)
    hybrid = JoinedNetwork(parts, 4).eval()
    assert hybrid.stage_names == ("stage1", "stage2", "stage3", "stage4", "neck", "head")
    assert hybrid.head_layer.in_features == wanted.shape[1] == 192 + 512 + 1024
    assert torch.equal(hybrid.run(images(), 0, 5), wanted)
    assert hybrid(images()).shape == (2, 4)
    assert hybrid.cuts == (0, 5, 6)
    assert hybrid.classes == 4


@pytest.mark.parametrize("policy", ["linear_probe", "last_stage", "full", "bias_only"])
def test_policies_hold_on_a_joined_network(policy: str) -> None:
    hybrid = JoinedNetwork(networks(*NAMES), 4)
    plan = POLICIES[policy].plan(hybrid.stage_names, 0, 1)
    apply(hybrid, plan)
    verifier = FreezeVerifier(hybrid)
    verifier.begin(plan)
    optimizer = torch.optim.SGD(parameter_groups(hybrid, plan, 0.1, 0.0))
    torch.nn.functional.cross_entropy(hybrid(images(4)), torch.arange(4)).backward()
    optimizer.step()
    verifier.end()
    assert verifier.result().violations == ()
    trained = {name.split(".")[1] for name, p in hybrid.named_parameters() if p.requires_grad}
    expected = {"linear_probe": {"head"}, "last_stage": {"head", "stage4"}}
    assert trained == expected.get(policy, {"stage1", "stage2", "stage3", "stage4", "head"})


def test_a_member_that_does_not_run_in_stages() -> None:
    class Whole(Network):
        cuts = (0,)

    part = Whole({"head": [torch.nn.Linear(3, 2)]})
    with pytest.raises(FashiontlError, match="joined: expected members whose stages run one after the other"):
        JoinedNetwork([part, part], 4)
