"""The run-time type checker of the test suite, named in pyproject.toml."""

from beartype import BeartypeConf, beartype

# An int will do where a float is declared, as static checkers have it (PEP 484's numeric tower).
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
