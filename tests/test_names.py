"""Names that would be refused once a run is trained are refused before."""

import pytest

from bt_ray.config import check_pretraining, override
from bt_ray.errors import SettingsError
from bt_ray.presets import preset


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("tracking.registered_model", name)
          for name in ("team/x", "a:b", "a@b", "a?b", " ", ".", "..", "..a", "a\nb", "m" * 251)),
        *(("name", name) for name in ("a:b", "a@b", "a\tb", " ", "x" * 201, "shards", "mlflow.db")),
        *(("tracking.experiment", name) for name in ("", "  ", "a\nb", "e" * 501)),
    ],
)  # fmt: skip
def test_a_name_that_mlflow_or_the_storage_refuses(key: str, value: str) -> None:
    settings = override(preset("digits"), {key: value})
    with pytest.raises(SettingsError, match=rf"^{key}=.* give another"):
        check_pretraining(settings)


@pytest.mark.parametrize("name", ["bob's", "50%", "ü", 'say "x"', "a b", "[old] x", "a#b", "a;b"])
def test_any_other_name_will_do(name: str) -> None:
    check_pretraining(override(preset("digits"), {"name": name}))
    check_pretraining(override(preset("digits"), {"tracking.registered_model": name}))
    check_pretraining(override(preset("digits"), {"tracking.experiment": f"{name}/:@"}))


def test_a_run_may_be_called_what_no_model_may_if_its_model_has_a_name() -> None:
    check_pretraining(override(preset("digits"), {"name": "a:b", "tracking.registered_model": "m"}))
