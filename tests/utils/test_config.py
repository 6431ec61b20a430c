"""Reading, overriding, validating and saving, with a schema of its own."""

import pytest

from utils.config import Section, apply_overrides, parse_yaml, read_mapping, save_yaml, validate
from utils.errors import UserError
from utils.training.optimization import Optimizer


class Engine(Section):
    power: float = 1.0
    name: str | None = None


class Car(Section):
    engine: Engine = Engine()
    wheels: int = 4
    sizes: list[float] = [1.0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E+3", 1000.0),
        ("3", 3),
        ("true", True),
        ("True", True),
        ("no", "no"),
        ("~", None),
        ("[1, 2]", [1, 2]),
        ("012", 12),
        ("a: {b: 1}", {"a": {"b": 1}}),
        ("!!python/tuple [384, !!python/tuple [1.0e-05]]", [384, [1e-5]]),
        ("", None),
    ],
)
def test_values_are_read_by_the_rules_of_yaml_1_2(text, value):
    assert parse_yaml(text, "here") == value
    assert type(parse_yaml(text, "here")) is type(value)


def test_a_syntax_error_names_the_place_and_the_line():
    with pytest.raises(UserError, match=r"^here, line 3: not valid YAML: "):
        parse_yaml("a: 1\nb: 2\nc: ]", "here")


@pytest.mark.parametrize("text", ["!!python/tuple 5", "!!python/tuple {a: 1}", "!!python/object/apply:os.getcwd []"])
def test_of_what_python_writes_only_tuples_are_read(text):
    with pytest.raises(UserError, match=r"^here, line 1: not valid YAML: "):
        parse_yaml(text, "here")


@pytest.mark.parametrize("text", ["!!bool maybe", "!!int ''", "!!float", "[{a: !!bool 1}]"])
def test_a_value_that_its_tag_does_not_fit_is_refused(text):
    with pytest.raises(UserError, match=r"^here: not valid YAML: a value is not of the type of its tag"):
        parse_yaml(f"a: {text}", "here")


def test_overrides_reach_into_and_make_mappings():
    values = {"engine": {"power": 2.0}, "wheels": 4}
    result = apply_overrides(values, ["engine.name=V8", "wheels=3", "trunk.size.depth=1.5"])
    assert result == {"engine": {"power": 2.0, "name": "V8"}, "wheels": 3, "trunk": {"size": {"depth": 1.5}}}


def test_overrides_leave_the_given_values_alone():
    values = {"engine": {"power": 2.0}}
    apply_overrides(values, ["engine.power=3", "wheels=3"])
    assert values == {"engine": {"power": 2.0}}


def test_a_value_may_hold_equals_signs_and_may_be_empty():
    assert apply_overrides({}, ["name=a=b", "other="]) == {"name": "a=b", "other": None}


@pytest.mark.parametrize("setting", ["wheels", "=3", " =3"])
def test_an_override_needs_a_key_and_an_equals_sign(setting):
    with pytest.raises(UserError, match=r"write it as key\.path=value"):
        apply_overrides({}, [setting])


def test_an_override_does_not_reach_below_a_plain_value():
    with pytest.raises(UserError, match="`wheels` is 4 and has no keys below it"):
        apply_overrides({"wheels": 4}, ["wheels.front=2"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"wheel": 3}, r"^here: unknown key `wheel` \(did you mean 'wheels'\?\)$"),
        ({"engine": {"pover": 3}}, r"^here: unknown key `engine.pover` \(did you mean 'power'\?\)$"),
        ({"zzz": 3}, "^here: unknown key `zzz`$"),
        ({"wheels": "four"}, "^here: `wheels` must be a valid integer, not 'four'$"),
        ({"wheels": 4.0}, "^here: `wheels` must be a valid integer, not 4.0$"),
        ({"engine": {"power": float("nan")}}, "^here: `engine.power` must be a finite number, not nan$"),
        ({"engine": {"name": 3}}, "^here: `engine.name` must be a valid string, not 3$"),
        ({"engine": 3}, "^here: `engine` must hold keys of its own, not be 3$"),
        ({"sizes": [1, "x"]}, r"^here: `sizes.1` must be a valid number, not 'x'$"),
        ({3: 4}, "^here: key 3 must be a name$"),
        ({"wheels": "x", "sizes": 3, "weels": 3}, r"^here: unknown key `weels` .*\(and 2 more problems\)$"),
        ({"wheels": "x", "sizes": 3}, r"^here: `wheels` .*\(and 1 more problems?\)$"),
        ({"wheels": "x" * 900}, r"^here: `wheels` must be a valid integer, not 'x{76}\.\.\.$"),
    ],
)
def test_a_problem_is_told_in_one_line(values, message):
    with pytest.raises(UserError, match=message) as caught:
        validate(Car, values, "here")
    assert "\n" not in str(caught.value)


def test_integers_serve_as_numbers_but_nothing_else_is_converted():
    assert validate(Car, {"engine": {"power": 3}}, "here").engine.power == 3.0
    for wrong in ("3", True, None):
        with pytest.raises(UserError):
            validate(Car, {"engine": {"power": wrong}}, "here")


def test_what_is_saved_is_read_as_it_was(tmp_path):
    car = Car(engine=Engine(power=1e-300, name="a: [b] # c"), sizes=[0.1, 1e-5, 3.0])
    save_yaml(tmp_path / "new" / "car.yaml", car)
    assert validate(Car, read_mapping(tmp_path / "new" / "car.yaml", "config"), "here") == car


def test_json_with_tabs_and_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes('\ufeff{\n\t"wheels": 3,\n\t"engine": {"name": "\u00e4"}\n}'.encode())
    assert read_mapping(tmp_path / "a.json", "config") == {"wheels": 3, "engine": {"name": "\u00e4"}}


def test_tabs_may_indent(tmp_path):
    (tmp_path / "a.yaml").write_text("engine:\n\tpower: 2\n\tname: V8\n")
    assert read_mapping(tmp_path / "a.yaml", "config") == {"engine": {"power": 2, "name": "V8"}}


def test_a_missing_file_names_a_similar_one(tmp_path):
    (tmp_path / "config.yaml").write_text("a: 1")
    with pytest.raises(UserError, match=r"^config .*confg.yaml does not exist \(did you mean 'config.yaml'\?\)$"):
        read_mapping(tmp_path / "confg.yaml", "config")
    with pytest.raises(UserError, match=r"does not exist$"):
        read_mapping(tmp_path / "nowhere" / "config.yaml", "config")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.9, "`betas` must be a list, such as [1, 2], not 0.9"),
        ([0.9], "`betas` must be a list of at least 2 values, not [0.9]"),
        ([0.9, 0.99, 0.1], "`betas` must be a list of at most 2 values, not [0.9, 0.99, 0.1]"),
        ([0.9, "a"], "`betas.1` must be a valid number, not 'a'"),
    ],
)
def test_a_list_that_does_not_fit_is_told_plainly(value, words):
    with pytest.raises(UserError) as told:
        validate(Optimizer, {"betas": value}, "here")
    assert str(told.value) == f"here: {words}"
