import dataclasses

import pytest

from milscope.configs import STAGES, PretrainConfig, TileConfig, TrainConfig, configure, identity
from milscope.types import InputError


@pytest.mark.parametrize("config_class", STAGES.values())
def test_every_field_says_what_it_means(config_class: type) -> None:
    for field in dataclasses.fields(config_class):
        assert field.metadata["meaning"]
        assert not field.metadata["choices"] or field.default in field.metadata["choices"]


def test_values_become_a_config() -> None:
    config = configure(TrainConfig, {"aggregators": ["abmil", "pamil"], "learning_rate": 1}, source="train")
    assert config.aggregators == ("abmil", "pamil")
    assert config.learning_rate == 1.0


def test_empty_is_a_value_where_it_may_be() -> None:
    assert configure(TileConfig, {"mpp": None}, source="tile").mpp is None


@pytest.mark.parametrize(("values", "line"), [
    ({"epoch": 3}, "Did you mean `epochs`?"),
    ({"epochs": "many"}, "`pretrain: epochs` should be int. Found 'many'."),
    ({"epochs": True}, "should be int"),
    ({"surgery": "scalpel"}, "should be one of empty, ags, ags-one-way, sum, pcgrad, upgrad, mgda. Found scalpel."),
])
def test_wrong_settings_are_refused(values: dict[str, object], line: str) -> None:
    with pytest.raises(InputError) as error:
        configure(PretrainConfig, values, source="pretrain")
    assert line in str(error.value)


def test_identity_leaves_out_what_cannot_change_a_result() -> None:
    assert identity(PretrainConfig(device="cpu")) == identity(PretrainConfig(device="cuda"))
    assert identity(PretrainConfig(seed=1)) != identity(PretrainConfig())
