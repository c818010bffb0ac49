"""Encoders of torchvision, of timm and of a user's own code, held to one contract."""

import pytest
import torch
from torch import nn

from bt_ray.config import Settings, override
from bt_ray.errors import LaunchError, SettingsError
from bt_ray.model.encoder import build_encoder, of_timm
from bt_ray.model.encoder.contract import check_encoder

OWN = "tests.model.encoder.own_encoders:"
BUILT = {
    "conv4": {},
    "conv6": {"data.channels": 7},
    "resnet18": {"model.stem": "cifar", "data.channels": 5},
    "timm:resnet18": {"model.stem": "cifar", "views.image_px": 16},
    "timm:vit_tiny_patch16_224": {"model.patch_px": 8, "model.drop_path": 0.1},
    "timm:convnext_atto": {"model.patch_px": 2, "data.channels": 1},
    "timm:mobilenetv3_small_050": {"data.channels": 4},
    "torchvision:mobilenet_v3_small": {},
    "torchvision:shufflenet_v2_x0_5": {"data.channels": 2},
    f"{OWN}good": {"data.channels": 6},
    f"{OWN}of_rgb": {"views.image_px": 16},
    f"{OWN}Frozen": {"views.image_px": 16},
}


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    return override(small_settings, {"views.image_px": 32})


@pytest.mark.parametrize("name", BUILT)
def test_each_kind_of_encoder_keeps_to_the_contract(settings: Settings, name: str) -> None:
    chosen = override(settings, {"model.encoder": name, **BUILT[name]})
    state = torch.get_rng_state()
    check_encoder(chosen)
    assert torch.equal(torch.get_rng_state(), state), "a check draws nothing from the run"
    encoder = build_encoder(chosen).eval()
    px = chosen.views.image_px
    found = encoder(torch.randn(2, chosen.data.channels, px, px))
    assert found.shape == (2, encoder.num_features)


def test_an_encoder_of_one_size_is_refused_smaller_views(settings: Settings) -> None:
    """Those of the larger ones' size it takes, and a convolutional one takes any."""
    vit = {"model.encoder": "timm:vit_tiny_patch16_224", "model.patch_px": 8}
    smaller = {"views.small_count": 2, "views.small_px": 16}
    said = r"views\.small_px=16: .*timm:vit.* fails on images \(3, 3, 16, 16\).*small_px=32, which"
    with pytest.raises(SettingsError, match=said):
        check_encoder(override(settings, vit | smaller))
    check_encoder(override(settings, vit | smaller | {"views.small_px": 32}))
    check_encoder(override(settings, vit | smaller | {"views.small_count": 0}))
    check_encoder(override(settings, smaller | {"model.encoder": "timm:resnet18"}))


def test_new_weights_are_drawn_by_the_global_generator(settings: Settings) -> None:
    for name in ("timm:convnext_atto", "torchvision:shufflenet_v2_x0_5", f"{OWN}good"):
        chosen = override(settings, {"model.encoder": name})
        drawn = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            drawn.append(torch.cat([p.flatten() for p in build_encoder(chosen).parameters()]))
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])


def test_a_vision_transformer_is_made_for_the_settings_patches_and_size(settings: Settings) -> None:
    name = {"model.encoder": "timm:vit_tiny_patch16_224", "model.patch_px": 4}
    encoder = build_encoder(override(settings, name))
    assert encoder.pos_embed.shape == (1, 1 + (32 // 4) ** 2, 192)  # type: ignore[union-attr]


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "torchvision:convnext_tiny"])
def test_stochastic_depth_is_off_unless_it_is_asked_for(
    settings: Settings, name: str, rate: float
) -> None:
    with torch.device("meta"):
        encoder = build_encoder(
            override(settings, {"model.encoder": name, "model.drop_path": rate})
        )
    found = [
        getattr(part, "drop_prob", getattr(part, "p", None))
        for part in encoder.modules()
        if type(part).__name__ in ("DropPath", "StochasticDepth")
    ]
    assert max(found, default=0.0) == pytest.approx(rate)
    if rate:
        assert min(found) < rate, "it grows from block to block"


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("maps", {}, r"own_encoders:maps must give \(n, F\), not \(2, 8, 30, 30\); pool its maps"),
        ("maps_that_say_so", {}, r"here \(3, 8\), and gives \(3, 8, 30, 30\); pool its maps"),
        ("raising", {}, "raised RuntimeError: no weights today"),
        ("no_module", {}, r"must return a torch\.nn\.Module, not <class 'str'>"),
        ("HalfEncoder", {}, r"must give float32, not torch\.float16"),
        ("Infinite", {}, "values that are not finite"),
        ("Failing", {}, r"fails on images \(3, 3, 32, 32\): ValueError: 224 pixels, please"),
        ("Idle", {}, r"has 2 parameters that get no gradient, such as left\.weight, left\.bias"),
        ("BatchStandardized", {}, "mixes the images of a batch by something that is no torch"),
        ("own_norm", {}, r"OwnNorm is a batch norm of its own kind"),
        ("cumulative", {}, r"cumulative average \(momentum=None\)"),
        ("of_rgb", {"data.channels": 5}, r"expected input\[2, 5, 32, 32\] to have 3 channels"),
        ("missing", {}, r"cannot be imported \(AttributeError"),
        ("torch_constant", {}, "must be a function or class, not <class 'torch.Tensor'>"),
    ],
)  # fmt: skip
def test_an_encoder_that_breaks_the_contract_is_refused_in_one_sentence(
    settings: Settings, name: str, changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence) as refused:
        check_encoder(override(settings, {"model.encoder": f"{OWN}{name}", **changes}))
    assert f"model.encoder={OWN}{name}" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model.encoder": "resnet19"}, "must be one of conv4, conv6, resnet18"),
        ({"model.encoder": "timm:no_such_net"}, r"timm [\d.]+ has no model 'no_such_net'"),
        ({"model.encoder": "torchvision:no_such_net"}, "has no classifier 'no_such_net'; it has"),
        ({"model.encoder": "torchvision:fcn_resnet50"}, "has no classifier 'fcn_resnet50'"),
        ({"model.encoder": "nowhere.at_all:make"}, "No module named 'nowhere'"),
        ({"model.encoder": "timm:resnet18", "model.patch_px": 4}, "built with .*patch_size=4"),
        ({"model.encoder": "torchvision:convnext_tiny", "model.patch_px": 4}, "sizes are fixed"),
        ({"model.encoder": "torchvision:vit_b_16", "views.image_px": 50}, "views.image_px=50"),
        ({"model.encoder": "torchvision:mobilenet_v3_small", "model.drop_path": 0.1}, "stochastic"),
        ({"model.encoder": "timm:convnext_atto", "model.stem": "cifar"}, "a ResNet's first"),
        ({"model.encoder": "torchvision:squeezenet1_1"}, "ends without a fully connected layer"),
        ({"model.drop_path": 1.0}, r"model\.drop_path=1\.0 must lie in \[0, 1\)"),
        ({"model.patch_px": 0}, r"model\.patch_px=0 must be a finite number above 0"),
    ],
)  # fmt: skip
def test_an_encoder_that_cannot_be_built_is_refused_in_one_sentence(
    settings: Settings, changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        build_encoder(override(settings, changes))


def test_without_timm_the_sentence_says_how_to_get_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(LaunchError, match=r"need timm: `pip install bt-ray\[encoders\]`"):
        build_encoder(override(settings, {"model.encoder": "timm:resnet18"}))


def test_timm_says_what_its_weights_were_trained_with() -> None:
    mean, std = of_timm.statistics("vit_tiny_patch16_224")
    assert (mean, std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_the_names_of_torchvisions_weights_stay(settings: Settings) -> None:
    import torchvision

    theirs = torchvision.models.mobilenet_v3_small(weights=None).state_dict()
    ours = build_encoder(override(settings, {"model.encoder": "torchvision:mobilenet_v3_small"}))
    kept = {name: value.shape for name, value in theirs.items() if "classifier" not in name}
    assert {name: value.shape for name, value in ours.state_dict().items()} == kept


def test_dropout_of_a_users_encoder_is_there(settings: Settings) -> None:
    encoder = build_encoder(override(settings, {"model.encoder": f"{OWN}good"}))
    assert any(isinstance(part, nn.Dropout) for part in encoder.modules())
