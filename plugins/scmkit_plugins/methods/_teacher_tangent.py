"""The tangent from a teacher as it is."""

from scmkit.plugin import Context
from scmkit.types import Key
from scmkit_plugins.methods.scd import Options, TeacherTangent, build_tangent


def build_teacher_tangent(config: object, context: Context, *, key: Key) -> TeacherTangent:
    """The factory of the tangent slot, for every method that distils; `--plugin tangent=scd` guides it."""
    return build_tangent(Options(), context, key=key)
