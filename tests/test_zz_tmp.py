import pytest
def test_a():
    import scmkit_plugins.trigflow
