"""Recipes: what is wrong is told with file and line, and a resolved recipe says everything."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from compress.errors import UserError
from compress.passes import BUILT_IN, find
from compress.passes.finetune import Finetune
from compress.passes.int8 import Int8
from compress.passes.prune_weights import PruneWeights
from compress.recipe import Recipe, default_text, make_pass, read, resolved

KEYS = "model, weights, data, seed, limit_train, limit_eval, fp16, passes"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_recipe_is_read(tmp_path: Path) -> None:
    recipe = read(write(tmp_path, "model: resnet18\nseed: 3\npasses:\n- prune_channels: {ratio: 0.25}\n- int8\n"))
    assert recipe == Recipe(model="resnet18", seed=3, passes=(("prune_channels", {"ratio": 0.25}), ("int8", {})))


def test_a_pattern_is_no_number_to_the_base_of_60(tmp_path: Path) -> None:
    steps = (
        "passes:\n- prune_weights: {pattern: 2:4}\n- prune_weights:\n    pattern: 1:4\n- prune_weights: {sparsity: 0.5, lr: 1}"
    )
    recipe = read(write(tmp_path, f"seed: 12\n{steps}"))
    assert recipe.seed == 12
    assert recipe.make_passes() == [PruneWeights(pattern="2:4"), PruneWeights(pattern="1:4"), PruneWeights(0.5, lr=1.0)]
    again = read(write(tmp_path, yaml.safe_dump(resolved(recipe, recipe.make_passes()))))
    assert again.make_passes() == recipe.make_passes()


def test_a_resolved_recipe_writes_every_default_and_reads_back(tmp_path: Path) -> None:
    recipe = Recipe(model="resnet18", passes=(("finetune", {"epochs": "2"}), ("int8", {"exclude": "a.*,b"})))
    plain = resolved(recipe, recipe.make_passes())
    assert list(plain["passes"][1]) == ["int8"]
    assert plain["passes"][1]["int8"].items() >= {"exclude": ["a.*", "b"], "ranges": "auto", "weight_bits": None}.items()
    assert set(plain["passes"][1]["int8"]) == {field.name for field in dataclasses.fields(Int8)}
    again = read(write(tmp_path, yaml.safe_dump(plain)))
    assert again.make_passes() == [Finetune(epochs=2), Int8(exclude=("a.*", "b"))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "line 1: not valid YAML: expected the node content, but found '<stream end>'"),
        ("- int8", f": a recipe is a mapping with the keys {KEYS}"),
        ("model: r\npass: []", "line 2: unknown key 'pass'. Did you mean 'passes'?"),
        ("model: r\nmodel: s", "line 2: 'model' is there twice"),
        ("seed: many", "line 1: seed must be a whole number, got 'many'"),
        ("seed: true", "line 1: seed must be a whole number, got True"),
        (
            "seed: 1\nmodel: !!python/name:os.system x",
            "line 2: only plain YAML is read, and could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/name:os.system'",
        ),
        ("passes: int8", "line 1: passes must be a list of '- NAME: {option: value}'"),
        ("passes:\n- int8\n- prune: {}", "line 3: unknown pass 'prune'. Did you mean 'prune_channels'?"),
        ("passes:\n- int8:\n    rangs: mse", "line 3: int8 has no option 'rangs'. Did you mean 'ranges'?"),
        (
            "passes:\n- prune_channels:\n    round_to: 8\n    ratio: half",
            "line 4: prune_channels: ratio must be a number, got 'half'",
        ),
        ("passes:\n- prune_channels:\n    ratio: 2", "line 3: prune_channels: ratio must be in (0, 1), got 2"),
        ("passes:\n- prune_channels: 0.5", "line 2: the options of prune_channels must be a mapping, got 0.5"),
        ("passes:\n- finetune: {epochs: 1.5}", "line 2: finetune: epochs must be a whole number, got 1.5"),
        ("passes:\n- finetune: {distill: maybe}", "line 2: finetune: distill must be true or false, got 'maybe'"),
        ("passes:\n- int8: {exclude: 3}", "line 2: int8: exclude must be a list of texts, got 3"),
        (
            "passes:\n- int8: {ranges: 3}",
            "line 2: int8: ranges must be one of auto, mse, minmax, moving_average, percentile, entropy, got 3",
        ),
    ],
)
def test_a_mistake_is_told_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        read(path)
    assert re.sub(r"^[^:]*recipe\.yaml(, )?", "", str(error.value)) == message
    assert str(error.value).startswith(str(path))


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path / "none.yaml")
    assert str(error.value) == f"the recipe {tmp_path / 'none.yaml'} cannot be read: No such file or directory"


def test_texts_from_flags_become_the_options_types() -> None:
    assert make_pass("int8", {"weight_bits": "none"}) == Int8()
    assert make_pass("int8", {"weight_bits": "7"}) == Int8(weight_bits=7)
    assert make_pass("int8", {"bits": "layer1.*=4,fc=6"}) == Int8(bits={"layer1.*": 4, "fc": 6})
    with pytest.raises(UserError) as error:
        make_pass("int8", {"bits": "fc=4.5"})
    assert str(error.value) == "int8: bits must map texts to numbers, such as layer1.*=4, got 'fc=4.5'"
    assert make_pass("finetune", {"distill": "no", "lr": "1e-2", "epochs": "3"}) == Finetune(distill=False, lr=0.01, epochs=3)


def test_a_models_defaults_give_way_to_what_was_asked_for() -> None:
    recipe = Recipe(passes=(("finetune", {"epochs": 1}),)).with_defaults({"finetune": {"epochs": 9, "lr": 0.5}})
    assert recipe.make_passes() == [Finetune(epochs=1, lr=0.5)]


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_default_that_is_shown_is_taken_as_one(name: str) -> None:
    shown = {option.name: default_text(option) for option in dataclasses.fields(find(name))}
    assert set(re.findall(r"[A-Z(\[{]", "".join(shown.values()))) == set()  # no `True`, no `(...)`: nothing of Python's
    assert make_pass(name, {key: text for key, text in shown.items() if text != "none"}) == find(name)()
