import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.package_name import ALL_PACKAGES, MAX_NAME_CHARACTERS, is_valid, normalise


def test_all_spellings_are_normalised() -> None:
    expected = {"Flask": "flask", "zope__.-interface": "zope-interface"}
    expected |= {"zope.interface": "zope-interface", ALL_PACKAGES: ALL_PACKAGES}
    assert {name: normalise(name) for name in expected} == expected


@pytest.mark.parametrize(
    "name",
    [
        *("", "-", "-a", "a-", "...", "a b", "a/b", "a\0", "é", "a\n"),
        *("\N{KELVIN SIGN}", "flas\N{KELVIN SIGN}", "\N{FULLWIDTH LATIN SMALL LETTER A}"),
        "a" * (MAX_NAME_CHARACTERS + 1),
    ],
)
def test_invalid_names(name: str) -> None:
    assert not is_valid(normalise(name))


def test_valid_names_are_normalised_and_short() -> None:
    assert not any(is_valid(name) for name in ("Flask", "a_b", "a.b", "a--b"))
    assert is_valid("a" * MAX_NAME_CHARACTERS)


@given(st.text(st.sampled_from("aZ0.-_/ é\N{KELVIN SIGN}"), max_size=12))
def test_normalising_twice_changes_nothing_more(name: str) -> None:
    assert normalise(normalise(name)) == normalise(name)
    if is_valid(normalise(name)):
        assert normalise(name) != ALL_PACKAGES
