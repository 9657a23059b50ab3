"""Tests for plugin authors: conformance checks and closed-form oracles.

```python
import pytest
from my_package import plugin
from scmkit.testing import checks

@pytest.mark.parametrize("check", checks(plugin), ids=lambda check: check.name)
def test_conformance(check):
    check.run()
```

`scmkit plugins check NAME` runs the same list. Nothing here needs pytest.
"""

from scmkit.testing.check import Check as Check
from scmkit.testing.collect import checks as checks
from scmkit.testing.modules import assert_abstract_or_final as assert_abstract_or_final
from scmkit.testing.oracles import ExactNetwork as ExactNetwork
from scmkit.testing.oracles import Gaussian as Gaussian
from scmkit.testing.oracles import exact_model as exact_model
from scmkit.testing.reference import ReferenceNetwork as ReferenceNetwork
from scmkit.testing.reference import reference_model as reference_model
