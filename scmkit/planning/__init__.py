"""What a training takes on devices that are not here: memory, time, and what passes between them."""

from scmkit.planning.hardware import TARGETS as TARGETS
from scmkit.planning.hardware import Target as Target
from scmkit.planning.plan import Plan as Plan
from scmkit.planning.plan import plan as plan
from scmkit.planning.program import pretend as pretend
