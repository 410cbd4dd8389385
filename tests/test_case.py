import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashiontl.core.case import PRESETS, Case, default_weights, expand, override
from fashiontl.core.errors import FashiontlError


def some(*names: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), min_size=1)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (Case("a", "full", precision="bf16"), "a-full-cpu-bf16"),
        (Case("a", "full", memory_format="channels_last", execution="compile"), "a-full-cpu-channels_last-compile"),
        (Case("a", "full", task="fashion10", image_size=64, batch=128), "a-full-cpu-fashion10-64px-batch128"),
        (Case("a", "full", precision="fp32", memory_format="contiguous", execution="eager"), "a-full-cpu"),
        (Case("resnet18", "linear_probe"), "resnet18-linear_probe-cpu"),
        (Case("resnet18", "scratch", "cuda:1"), "resnet18-scratch-cuda:1"),
        (Case("vgg11", "full", task="fashion10"), "vgg11-full-cpu-fashion10"),
        (Case("vgg11", "full", weights="imagenet"), "vgg11-full-cpu-imagenet"),
        (Case("vgg11", "full", weights="some/where/best.pt"), "vgg11-full-cpu-best.pt"),
    ],
)
def test_id_leaves_defaults_out(case: Case, expected: str) -> None:
    assert case.id == expected


def test_default_weights() -> None:
    assert Case("vgg11", "scratch", weights="imagenet") == Case("vgg11", "scratch")
    found = [
        default_weights(*names) for names in (("full", "fashion4"), ("full", "fashion10"), ("scratch", "fashion4"))
    ]
    assert found == ["fashion6", "imagenet", "none"]


@given(
    some("vgg11", "resnet18"), some("scratch", "full", "linear_probe"), some("fashion4", "fashion10"),
    some("", "none", "imagenet", "fashion6"),
)  # fmt: skip
def test_expanded_ids_are_unique(
    architectures: list[str], policies: list[str], tasks: list[str], weights: list[str]
) -> None:
    cases = expand(architectures, policies, ["cpu"], tasks, weights)
    assert len({case.id for case in cases}) == len(cases) == len(set(cases))
    assert {case.architecture for case in cases} == set(architectures)


def test_two_files_of_one_name_cannot_share_an_id() -> None:
    with pytest.raises(FashiontlError, match=r"two cases would be called vgg11-full-cpu-a\.pt"):
        expand(["vgg11"], ["full"], ["cpu"], ["fashion4"], ["one/a.pt", "two/a.pt"])


def test_file_name_has_no_separator() -> None:
    assert Case("timm/x", "full", "cuda:1").file_name == "timm_x-full-cuda_1"


def test_override_parses_each_type() -> None:
    changed = override(PRESETS["quick"], ["epochs=3", "seconds=0.5", "augment=true", "data=original"])
    assert (changed.epochs, changed.seconds, changed.augment, changed.data) == (3, 0.5, True, "original")


def test_override_lists_all_faults() -> None:
    with pytest.raises(FashiontlError) as caught:
        override(PRESETS["quick"], ["epoch=3", "seeds=many", "augment", "augment=maybe"])
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("unknown setting 'epoch'; did you mean epochs")
    assert lines[1:] == [
        "setting seeds: expected a whole number from 1 to 10,000, got 'many'",
        "expected name=value, got 'augment'",
        "setting augment: expected true or false, got 'maybe'",
    ]


@pytest.mark.parametrize(
    "assignment",
    [
        "epochs=0", "seconds=inf", "seconds=nan", "train_per_class=-1", "data=web", "timeout=1e300", "timeout=1e10",
        "lr=1e308", "half_width=2", "threads=100000", f"seeds={10**400}", "samples=" + "9" * 5000,
    ],
)  # fmt: skip
def test_override_refuses_what_cannot_be(assignment: str) -> None:
    with pytest.raises(FashiontlError, match="expected"):
        override(PRESETS["quick"], [assignment])


def test_variants_multiply() -> None:
    cases = expand(["a"], ["full"], ["cpu"], ["fashion4"], precision=["fp32", "bf16"], batch=[0, 8])
    assert [case.id for case in cases] == [f"a-full-cpu{more}" for more in ("", "-batch8", "-bf16", "-bf16-batch8")]
