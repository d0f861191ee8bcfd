"""The table of relations: what it maps, and what is wrong with others."""

from pathlib import Path

import pytest

from errors import InputError
from knowledge.relations import DEFAULT_TABLE, TYPES, Relations

WORDNET = """
    sense hypernym derivation similar antonym pertainym domain_topic exemplifies mero_part event
    also agent attribute result mero_substance by_means_of mero_member undergoer instrument uses
    entails state causes property location material participle vehicle body_part destination
    domain_region
""".split()  # noqa: SIM905
WEIGHTS = "[weights]\n" + "".join(f"{name} = {i + 1}\n" for i, name in enumerate(TYPES))


def read(path: Path, text: str) -> Relations:
    path.write_text(text)
    return Relations.read(path)


def test_the_default_table_knows_the_ten_types_and_wordnets_31_relations() -> None:
    relations = Relations.read(DEFAULT_TABLE)
    assert len(WORDNET) == 31
    kinds, against = relations.look_up([*TYPES, *WORDNET])
    assert kinds[:10].tolist() == list(range(10))
    assert {name for name, turned in zip(WORDNET, against[10:], strict=True) if turned} == {
        "mero_part",
        "mero_substance",
        "mero_member",
    }
    assert TYPES[kinds[10 + WORDNET.index("antonym")]] == "Contradicts"
    assert (relations.weights > 0).all()


def test_the_default_table_knows_common_names_of_other_graphs() -> None:
    names = ["is_a", "has_part", "part_of"]
    kinds, against = Relations.read(DEFAULT_TABLE).look_up(names)
    assert [TYPES[kind] for kind in kinds] == ["PartOf"] * 3
    assert against.tolist() == [False, True, False]


def test_a_table_maps_names_to_types_weights_and_directions(tmp_path: Path) -> None:
    table = '[along]\nis_a = "PartOf"\nCauses = "Solves"\n[against]\n"has part" = "PartOf"\n'
    relations = read(tmp_path / "table.toml", WEIGHTS + table)
    kinds, against = relations.look_up(["has part", "is_a", "Solves", "Causes"])
    assert relations.weights[kinds].tolist() == [8, 8, 1, 1]
    assert against.tolist() == [True, False, False, False]


def test_unknown_relations_are_named(tmp_path: Path) -> None:
    relations = read(tmp_path / "table.toml", WEIGHTS)
    with pytest.raises(InputError, match=r"2 unknown relations: 'is_a', 'has'; .*--relations"):
        relations.look_up(["Solves", "is_a", "has"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[weights", "not valid TOML"),
        ("", "weights"),
        (WEIGHTS.replace("PartOf = 8\n", ""), r"\[weights\] lacks PartOf"),
        (WEIGHTS.replace("= 8", "= 0"), "PartOf.*not 0"),
        (WEIGHTS.replace("= 8", "= inf"), "PartOf.*not inf"),
        (WEIGHTS.replace("= 8", "= true"), "PartOf.*not True"),
        (WEIGHTS + 'Eats = "1"', "Eats"),
        (WEIGHTS + '[along]\neats = "Eating"', "along.eats.*not 'Eating'"),
        (WEIGHTS + "[along]\neats = 1", "along.eats.*not 1"),
        (WEIGHTS + '[sideways]\neats = "Solves"', "sideways"),
        ('along = "PartOf"\n' + WEIGHTS, "along"),
        (WEIGHTS + '[along]\neats = "Solves"\n[against]\neats = "Causes"', "both .* 'eats'"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"table.toml: .*{message}") as caught:
        read(tmp_path / "table.toml", text)
    assert "\n" not in str(caught.value)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.toml: no such file"):
        Relations.read(tmp_path / "absent.toml")
