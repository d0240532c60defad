"""The schema of a recipe says what `read` and `convert` say."""

import dataclasses
import typing
from pathlib import Path

import jsonschema
import pytest
import yaml

from compress.convert import convert
from compress.errors import UserError
from compress.passes import BUILT_IN, find, names
from compress.recipe import read, resolved
from compress.recipe_schema import recipe_schema
from compress.recipes import names as recipes

SCHEMA = jsonschema.Draft202012Validator(recipe_schema())


def test_the_schema_is_one_and_explains_every_option() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA.schema)
    assert set(SCHEMA.schema["$defs"]) == set(names()) >= set(BUILT_IN)
    for name in BUILT_IN:
        definition = SCHEMA.schema["$defs"][name]
        assert list(definition["properties"]) == [field.name for field in dataclasses.fields(find(name))]
        for option, schema in definition["properties"].items():
            assert len(schema["description"]) > 5, f"{name}: {option}"
    qat = SCHEMA.schema["$defs"]["qat"]["properties"]
    assert qat["epochs"]["description"] == "passes over the training data, at least 1."  # from the class that it comes from
    assert qat["max_drop"]["description"].endswith("None quantizes all of them, whatever it costs.")  # the third line of three
    assert qat["target"]["enum"] == ["ort-cpu", "openvino"]
    assert qat["average"]["default"] == 0.99


VALUES: list[typing.Any] = [None, True, 3, 3.0, 0.5, "x", "none", "yes", "3", "-1e-2", "layer", "a=1", "a=0.5,b=2", "a=b,c=d"]
VALUES += [["a"], [], [1], {}, {"a": 1}, {"a": 0.5}, {"a": "b"}, {"a": "2"}, {"a": None}, {"a": [1]}]


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_schema_takes_what_a_run_takes(name: str) -> None:
    kind = find(name)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        schema = jsonschema.Draft202012Validator(SCHEMA.schema["$defs"][name]["properties"][field.name])
        for value in VALUES:
            try:
                convert(value, hints[field.name], "it")
                taken = True
            except UserError:
                taken = False
            assert schema.is_valid(value) == taken, f"{name}: {field.name}: {value!r}"


def test_a_resolved_recipe_keeps_to_the_schema() -> None:
    for name in recipes():
        recipe = read(name)
        SCHEMA.validate(resolved(recipe, recipe.make_passes()))


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("{}", True),
        ("model: resnet18\nseed: 3\nfp16: true\nlimit_eval: null", True),
        ("passes: [int8, prune_channels: , finetune: {epochs: 3}]", True),
        ("modell: resnet18", False),
        ("seed: many", False),
        ("model: 3", False),
        ("passes: int8", False),
        ("passes:", False),
        ("passes: [3]", False),
        ("passes: [{int8: {}, finetune: {}}]", False),
        ("passes: [{int8: {rangs: mse}}]", False),
        ("passes: [{int8: {ranges: none}}]", False),
        ("passes: [{int8: 8}]", False),
    ],
)
def test_the_schema_takes_the_recipes_that_are_read(text: str, fits: bool, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    assert SCHEMA.is_valid(yaml.safe_load(text)) == fits
    if fits:
        read(tmp_path / "recipe.yaml")
    else:
        with pytest.raises(UserError):
            read(tmp_path / "recipe.yaml")


@dataclasses.dataclass(frozen=True)
class Theirs:
    """A pass of another package."""

    strength: float
    shares: dict[str, float]
    own: complex = 1j
    name: typing.ClassVar[str] = "theirs"


def test_passes_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not installed passes; of one that is every option counts, of a type of its own with any value."""
    elsewhere = {"passes": ["elsewhere", {"elsewhere": {"of_its_own": [1]}}, {"elsewhere": None}]}
    assert SCHEMA.is_valid(elsewhere)
    monkeypatch.setattr("compress.recipe_schema.names", lambda: ["theirs"])
    monkeypatch.setattr("compress.recipe_schema.find", {"theirs": Theirs}.__getitem__)
    schema = jsonschema.Draft202012Validator(recipe_schema())
    assert schema.is_valid(elsewhere)
    options = {"strength": 0.5, "shares": "a=1", "own": [1]}
    assert schema.is_valid({"passes": [{"theirs": options}]})
    assert not schema.is_valid({"passes": [{"theirs": {**options, "strenght": 1}}]})
    assert not schema.is_valid({"passes": [{"theirs": {"strength": 0.5}}]})
    assert not schema.is_valid({"passes": [{"theirs": None}]})
