"""Addresses that may contain a password: libpq's forms of a database URL."""

import getpass
from typing import Any

import pytest

from app.addresses import DEFAULT_HOSTS, DatabaseAddress

ME = getpass.getuser()
STANDBY_FIRST = {"session_attributes": ("standby", "any")}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h:1/d", {"hosts": (("h", 1),), "password": "p", "database": "d"}),
        ("postgres://u@h/d", {"user": "u", "password": "", "hosts": (("h", 5432),)}),
        ("postgresql+psycopg://u@h/d\n", {"user": "u", "database": "d"}),
        ("postgresql://u:p%40%2F%3F%23%25+:x@h/d", {"password": "p@/?#%+:x"}),
        ("postgresql://u%40server:p@h/d%20e", {"user": "u@server", "database": "d e"}),
        ("postgresql://%2Frun%2Fa%20b/d", {"hosts": (("/run/a b", 5432),), "user": ME}),
        ("postgresql:///d?host=/run/x&port=6432", {"hosts": (("/run/x", 6432),)}),
        ("postgresql://h1,h2:5433/d", {"hosts": (("h1", 5432), ("h2", 5433))}),
        ("postgresql://h1,h2/d?port=1,2", {"hosts": (("h1", 1), ("h2", 2))}),
        ("postgresql://?host=h1,::1&port=1", {"hosts": (("h1", 1), ("::1", 1))}),
        ("postgresql://[::1]:1,[fe80::1%25lo]/", {"hosts": (("::1", 1), ("fe80::1%lo", 5432))}),
        ("postgresql://", {"hosts": tuple((host, 5432) for host in DEFAULT_HOSTS), "database": ME}),
        ("postgresql://h?user=u&password=p%26&dbname=d", {"password": "p&", "database": "d"}),
        ("postgresql://h/d?connect_timeout=7&keepalives=1", {"connect_timeout_seconds": 7}),
        ("postgresql://h/d?connect_timeout=0", {"connect_timeout_seconds": 5}),
        ("postgresql://h/d?target_session_attrs=primary", {"session_attributes": ("primary",)}),
        ("postgresql://h?target_session_attrs=prefer-standby", STANDBY_FIRST),
        (
            "postgresql://h/d?application_name=a+b&options=-c%20x%3D1",
            {"startup_parameters": {"application_name": "a+b", "options": "-c x=1"}},
        ),
    ],
)
def test_forms_of_libpq_are_read(url: str, expected: dict[str, Any]) -> None:
    address = DatabaseAddress.parse(url)
    assert {name: getattr(address, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("host", "query", "attempts"),
    [
        ("h", "", [True, False]),
        ("h", "?sslmode=prefer&channel_binding=prefer", [True, False]),
        ("h", "?sslmode=allow", [False, True]),
        ("h", "?sslmode=disable", [False]),
        ("h", "?ssl=false", [False]),
        ("h", "?sslmode=require", [True]),
        ("h", "?ssl=true", [True]),
        ("h", "?sslmode=verify-full&sslrootcert=system", [True]),
        ("h", "?sslmode=prefer&sslrootcert=system", [True]),
        ("/run", "?sslmode=verify-full", [False]),
    ],
)
def test_modes_of_tls(host: str, query: str, attempts: list[bool]) -> None:
    address = DatabaseAddress.parse(f"postgresql://u@h/d{query}")
    assert [context is not None for context in address.tls_attempts(host)] == attempts


@pytest.mark.parametrize("character", "@/?#%")
def test_a_password_with_a_special_character_is_refused_with_advice(character: str) -> None:
    for password in (f"se{character}cret", f"{character}cret", f"12{character}cret"):
        with pytest.raises(ValueError, match="%40 for @") as caught:
            DatabaseAddress.parse(f"postgresql://user:{password}@host/database")
        assert "cret" not in str(caught.value)


def test_a_password_is_never_part_of_a_text() -> None:
    address = DatabaseAddress.parse("postgresql://u:secret@h,i:1/d?sslpassword=secret")
    assert str(address) == "the database at h:5432, i:1"
    assert "secret" not in repr(address)
